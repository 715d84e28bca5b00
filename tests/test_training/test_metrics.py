"""Each score against a slow loop that spells out its formula, and what makes it a good score: that it is proper."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.test_forecast.strategies import Rows, distributions, rows
from velib_predictor.forecast import pmf as algebra
from velib_predictor.training import metrics

CLOSE = 1e-4


# -- RPS -------------------------------------------------------------------------------------------------------


def slow_rps(pmf: npt.NDArray[np.float32], truth: int) -> float:
    total, cumulated = 0.0, 0.0
    for k, p in enumerate(pmf):
        cumulated += float(p)
        total += (cumulated - (truth <= k)) ** 2
    return total


@given(drawn=rows())
def test_rps_is_the_slow_loop(drawn: Rows) -> None:
    score = metrics.rps(algebra.to_cdf(drawn.pmf), drawn.truth)
    assert score.dtype == np.float32
    slow = [slow_rps(pmf, int(truth)) for pmf, truth in zip(drawn.pmf, drawn.truth, strict=True)]
    np.testing.assert_allclose(score, slow, atol=CLOSE)


@given(drawn=rows(), other=st.integers(0, 3))
def test_rps_of_a_number_is_its_absolute_error(drawn: Rows, other: int) -> None:
    number = np.roll(drawn.truth, other)
    score = metrics.rps(algebra.to_cdf(algebra.point(number, drawn.pmf.shape[-1])), drawn.truth)
    assert score.tolist() == np.abs(number - drawn.truth).tolist()
    assert score.tolist() == metrics.absolute_error(number, drawn.truth).tolist()


@given(drawn=rows())
def test_rps_is_the_sum_of_the_brier_scores(drawn: Rows) -> None:
    cdf = algebra.to_cdf(drawn.pmf)
    scores = [metrics.brier(cdf[:, k], drawn.truth <= k) for k in range(cdf.shape[-1])]
    np.testing.assert_allclose(metrics.rps(cdf, drawn.truth), np.sum(scores, axis=0), atol=CLOSE)


@given(drawn=rows())
def test_counts_that_cannot_be_add_nothing(drawn: Rows) -> None:
    longer = np.pad(drawn.pmf, ((0, 0), (0, 5)))
    scores = [metrics.rps(algebra.to_cdf(pmf), drawn.truth) for pmf in (drawn.pmf, longer)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_rps_keeps_the_leading_axes() -> None:
    random = np.random.default_rng(1)
    cdf = algebra.to_cdf(random.dirichlet(np.ones(6), size=(2, 3, 4)).astype(np.float32))
    truth = random.integers(0, 6, size=(2, 3, 4)).astype(np.int16)
    score = metrics.rps(cdf, truth)
    assert score.shape == (2, 3, 4)
    for place in np.ndindex(2, 3, 4):
        assert score[place] == pytest.approx(slow_rps(algebra.to_pmf(cdf[place]), int(truth[place])), abs=CLOSE)
    assert metrics.rps(cdf[:0], truth[:0]).shape == (0, 3, 4)


# -- proper scores ---------------------------------------------------------------------------------------------


@st.composite
def pairs(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What is true, and what is said instead: float32[count] each."""
    size = draw(st.integers(2, 8))
    return draw(distributions(size)), draw(distributions(size))


def expected(true: npt.NDArray[np.float32], scores: npt.NDArray[np.floating]) -> float:
    """Mean score where each truth comes as often as `true` says; scores [truth]."""
    return float(true.astype(np.float64) @ scores)


@given(pair=pairs())
def test_no_forecast_scores_better_than_the_truth(pair: tuple[npt.NDArray[np.float32], ...]) -> None:
    """The expected RPS, Brier and logarithmic scores are least for the distribution that the truth comes from."""
    true, said = pair
    truths = np.arange(len(true))
    k = np.array(len(true) - 1)

    def scores(pmf: npt.NDArray[np.float32]) -> list[float]:
        every = np.tile(pmf, (len(pmf), 1))  # [truth, count]
        return [
            expected(true, metrics.rps(algebra.to_cdf(every), truths)),
            expected(true, metrics.brier(algebra.at_least(every, 1), truths >= 1)),
            expected(true, metrics.log_score(every, truths, k, floor=1e-6)),
        ]

    of_the_true, of_the_said = scores(true), scores(said)
    assert all(best <= other + CLOSE for best, other in zip(of_the_true, of_the_said, strict=True))
    # RPS tells any two apart: the difference is the squared distance of the cumulative distributions.
    distance = float(np.square(np.cumsum(true, dtype=float) - np.cumsum(said, dtype=float)).sum())
    assert of_the_said[0] - of_the_true[0] == pytest.approx(distance, abs=CLOSE)


@given(pair=pairs(), point=st.integers(0, 7))
def test_the_median_and_the_mean_are_the_best_numbers(pair: tuple[npt.NDArray[np.float32], ...], point: int) -> None:
    true = pair[0]
    truths = np.arange(len(true))
    median = algebra.quantile(algebra.to_cdf(true), 0.5)
    mean = algebra.mean(true)
    number = np.array(point)
    best = expected(true, metrics.absolute_error(median, truths))
    assert best <= expected(true, metrics.absolute_error(number, truths)) + CLOSE
    best = expected(true, metrics.squared_error(mean, truths))
    assert best <= expected(true, metrics.squared_error(number, truths)) + CLOSE


# -- other scores ----------------------------------------------------------------------------------------------


def test_errors_of_numbers_have_a_sign_on_the_way() -> None:
    point = np.array([0, 3], dtype=np.uint8)
    truth = np.array([3, 0], dtype=np.uint8)
    assert metrics.absolute_error(point, truth).tolist() == [3, 3]
    assert metrics.squared_error(point, truth).tolist() == [9, 9]
    assert metrics.absolute_error(np.array([0.25], np.float32), np.array([1])).tolist() == [0.75]


def test_brier_of_sure_forecasts() -> None:
    said = np.array([1, 1, 0, 0, 0.5], dtype=np.float32)
    assert metrics.brier(said, np.array([True, False, True, False, True])).tolist() == [0, 1, 1, 0, 0.25]


@given(drawn=rows(), floor=st.sampled_from([1e-4, 0.01, 1.0]))
def test_log_score_is_the_slow_loop(drawn: Rows, floor: float) -> None:
    score = metrics.log_score(drawn.pmf, drawn.truth, drawn.k, floor)
    assert score.dtype == np.float32
    for n, truth in enumerate(drawn.truth):
        likelihood = (1 - floor) * float(drawn.pmf[n, truth]) + floor / (int(drawn.k[n]) + 1)
        assert score[n] == pytest.approx(-math.log(likelihood), abs=CLOSE)


def test_an_impossible_truth_costs_much_but_not_everything() -> None:
    pmf = algebra.point(np.array([0]), 10)
    k = np.array([9])
    assert metrics.log_score(pmf, np.array([5]), k).tolist() == pytest.approx([-math.log(1e-5)])
    assert metrics.log_score(pmf, np.array([5]), k, floor=0.0).tolist() == [math.inf]


# -- intervals -------------------------------------------------------------------------------------------------


@given(drawn=rows(), level=st.floats(0.01, 0.99))
def test_an_interval_holds_its_level_and_its_tails_do_not_exceed_theirs(drawn: Rows, level: float) -> None:
    low, high = metrics.interval(algebra.to_cdf(drawn.pmf), level)
    tail = (1 - level) / 2
    for n, pmf in enumerate(drawn.pmf.astype(np.float64)):
        assert pmf[low[n] : high[n] + 1].sum() >= level - CLOSE
        assert pmf[: low[n]].sum() <= tail + CLOSE
        assert pmf[high[n] + 1 :].sum() <= tail + CLOSE


@given(drawn=rows(), one=st.floats(0.01, 0.99), other=st.floats(0.01, 0.99))
def test_what_a_narrow_interval_covers_a_wide_one_does(drawn: Rows, one: float, other: float) -> None:
    cdf = algebra.to_cdf(drawn.pmf)
    narrow, wide = (metrics.covered(cdf, drawn.truth, level) for level in sorted((one, other)))
    assert (wide >= narrow).all()
    low, high = metrics.interval(cdf, one)
    slow = [int(low[n]) <= truth <= int(high[n]) for n, truth in enumerate(drawn.truth)]
    assert metrics.covered(cdf, drawn.truth, one).tolist() == slow


@pytest.mark.parametrize("level", [0, 1, -0.5, 90])
def test_a_level_outside_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"lies in \(0, 1\)"):
        metrics.interval(np.ones((1, 3), dtype=np.float32), level)


# -- PIT -------------------------------------------------------------------------------------------------------


def slow_pit(cdf: npt.NDArray[np.float32], truth: int, bins: int) -> list[float]:
    """Czado, Gneiting and Held 2009, equation 2: F(u | truth) at the ends of each bin."""
    lower, upper = float(cdf[truth - 1]) if truth else 0.0, float(cdf[truth])

    def conditional(u: float) -> float:
        if u <= lower:
            return 0.0
        return 1.0 if u >= upper else (u - lower) / (upper - lower)

    ends = [0.0] + [conditional(place / bins) for place in range(1, bins)] + [1.0]
    return [ends[place + 1] - ends[place] for place in range(bins)]


@given(drawn=rows(), bins=st.integers(1, 20))
def test_pit_is_the_slow_loop_where_the_truth_was_possible(drawn: Rows, bins: int) -> None:
    cdf = algebra.to_cdf(drawn.pmf)
    mass = metrics.pit_mass(cdf, drawn.truth, bins)
    assert mass.dtype == np.float32
    assert mass.shape == (len(drawn.k), bins)
    assert (mass >= 0).all()
    np.testing.assert_allclose(mass.sum(axis=-1), 1, atol=1e-6)
    for n, truth in enumerate(drawn.truth):
        if drawn.pmf[n, truth] > 1e-3:  # float32 tells nothing about the inside of a narrower step
            np.testing.assert_allclose(mass[n], slow_pit(cdf[n], int(truth), bins), atol=2e-3)


@given(data=st.data(), size=st.integers(1, 9), bins=st.integers(1, 20))
def test_pit_of_calibrated_forecasts_is_flat(data: st.DataObject, size: int, bins: int) -> None:
    true = data.draw(distributions(size))
    cdf = algebra.to_cdf(np.tile(true, (size, 1)))
    mass = metrics.pit_mass(cdf, np.arange(size), bins)  # [truth, bin]
    np.testing.assert_allclose(true @ mass, 1 / bins, atol=CLOSE)


def test_pit_of_a_truth_without_probability_lies_where_it_stands() -> None:
    cdf = algebra.to_cdf(np.array([[0, 0.5, 0, 0.5, 0]] * 3, dtype=np.float32))
    mass = metrics.pit_mass(cdf, np.array([0, 2, 4]), 4)
    assert mass.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_pit_shows_what_is_wrong() -> None:
    """Too narrow is a U, too wide a hump, biased a slope."""
    random = np.random.default_rng(2)
    truth = np.clip(np.rint(random.normal(20, 3, size=20_000)), 0, 40).astype(np.int64)

    def histogram(middle: float, spread: float) -> npt.NDArray[np.float64]:
        said = np.clip(np.rint(random.normal(middle, spread, size=200_000)), 0, 40).astype(np.int64)
        pmf = (np.bincount(said, minlength=41) / len(said)).astype(np.float32)
        cdf = np.broadcast_to(algebra.to_cdf(pmf), (len(truth), 41))
        return np.asarray(metrics.pit_mass(cdf, truth, 5).mean(axis=0, dtype=np.float64))

    np.testing.assert_allclose(histogram(20, 3), 0.2, atol=0.01)
    narrow, wide, low = histogram(20, 1.5), histogram(20, 6), histogram(18, 3)
    assert narrow[[0, 4]].min() > 0.3 > 0.15 > narrow[2]
    assert wide[[0, 4]].max() < 0.15 < 0.3 < wide[2]
    assert (np.diff(low) > 0.02).all()


# -- reliability -----------------------------------------------------------------------------------------------

SAID = st.lists(
    st.tuples(st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.booleans(), st.booleans()),
    max_size=30,
)


@given(said=SAID, bins=st.sampled_from([1, 4, 20]))
def test_reliability_is_the_slow_loop_and_adds_up_over_blocks(said: list[tuple[float, bool, bool]], bins: int) -> None:
    probability = np.array([row[0] for row in said], dtype=np.float32)
    event = np.array([row[1] for row in said], dtype=np.bool_)
    mask = np.array([row[2] for row in said], dtype=np.bool_)
    table = metrics.reliability(probability, event, mask, bins)
    assert table.dtype == np.float64
    slow = np.zeros((bins, 3))
    for n in range(len(said)):
        if mask[n]:
            place = min(int(probability[n] * np.float32(bins)), bins - 1)
            slow[place] += (1, float(probability[n]), bool(event[n]))
    np.testing.assert_allclose(table, slow, atol=1e-9)
    half = len(said) // 2
    parts = [
        metrics.reliability(probability[part], event[part], mask[part], bins)
        for part in (slice(half), slice(half, None))
    ]
    np.testing.assert_allclose(sum(parts), table, atol=1e-9)
    np.testing.assert_allclose(metrics.reliability(probability[mask], event[mask], bins=bins), table, atol=1e-9)


def test_calibration_error_of_known_tables() -> None:
    # 0.75 was said four times and happened thrice; 0.25 was said twice and never happened.
    probability = np.array([[0.75, 0.75, 0.75], [0.75, 0.25, 0.25]], dtype=np.float32)
    event = np.array([[True, True, True], [False, False, False]])
    table = metrics.reliability(probability, event)
    assert table[15].tolist() == [4, 3, 3]
    assert table[5].tolist() == [2, 0.5, 0]
    assert metrics.expected_calibration_error(table) == pytest.approx(0.5 / 6)
    assert metrics.expected_calibration_error(table[15:]) == 0
    assert math.isnan(metrics.expected_calibration_error(np.zeros((20, 3))))


def test_the_ends_of_the_bins() -> None:
    table = metrics.reliability(np.array([0, 0.5, 1], dtype=np.float32), np.array([False, True, True]), bins=2)
    assert table.tolist() == [[1, 0, 0], [2, 1.5, 2]]


# -- comparison ------------------------------------------------------------------------------------------------


def test_skill() -> None:
    assert metrics.skill(0.5, 1.0) == 0.5
    assert metrics.skill(2.0, 1.0) == -1
    assert metrics.skill(0.0, 4.0) == 1
    assert math.isnan(metrics.skill(1.0, 0.0))


def days(seed: int, count: int = 40) -> tuple[npt.NDArray[np.float64], ...]:
    """Scores that vary from day to day and hang together between the two models: ours, reference, rows."""
    random = np.random.default_rng(seed)
    rows = random.integers(50, 150, size=count).astype(np.float64)
    reference = rows * random.gamma(4, 0.5, size=count)
    return reference * random.normal(0.8, 0.05, size=count), reference, rows


def test_bootstrap_is_the_slow_one() -> None:
    """Days drawn one by one, with other random numbers: the interval is the same up to their noise."""
    ours, reference, rows = days(0)
    skill, low, high = metrics.day_block_bootstrap(ours, reference, rows, draws=20_000)
    assert skill == pytest.approx(1 - ours.sum() / reference.sum())
    random = np.random.default_rng(99)
    drawn = []
    for _ in range(20_000):
        places = random.integers(0, len(ours), size=len(ours))
        drawn.append(1 - ours[places].sum() / reference[places].sum())
    assert low < skill < high
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.05, 0.95]), atol=(high - low) / 20)


def test_bootstrap_is_the_same_for_a_seed_and_wider_for_a_level() -> None:
    scores = days(1)
    first = metrics.day_block_bootstrap(*scores, seed=3)
    assert metrics.day_block_bootstrap(*scores, seed=3) == first
    assert metrics.day_block_bootstrap(*scores, seed=4) != first
    _, low, high = metrics.day_block_bootstrap(*scores, seed=3, level=0.5)
    assert first[1] < low < high < first[2]


def test_bootstrap_finds_the_truth_as_often_as_it_says() -> None:
    """The true skill is 0.2. Over 300 series of 40 days the 90 % interval holds it in about 270."""
    hits = 0
    for seed in range(300):
        _, low, high = metrics.day_block_bootstrap(*days(seed + 100), draws=400, seed=seed)
        hits += low <= 0.2 <= high
    assert 250 <= hits <= 288


def test_pairs_of_days_stay_together() -> None:
    """Days differ a hundredfold, our score is always half: there is nothing uncertain about the skill."""
    reference = np.array([1.0, 100.0, 3.0, 17.0])
    found = metrics.day_block_bootstrap(reference / 2, reference, np.ones(4))
    assert found == pytest.approx((0.5, 0.5, 0.5))


def test_days_without_rows_take_no_part() -> None:
    ours, reference, rows = days(2)
    gaps = [np.insert(values, [0, 7, 40], 0.0) for values in (ours, reference, rows)]
    assert metrics.day_block_bootstrap(*gaps) == metrics.day_block_bootstrap(ours, reference, rows)
    assert metrics.paired_difference(*gaps) == metrics.paired_difference(ours, reference, rows)


def test_the_difference_is_the_slow_one() -> None:
    """Days drawn one by one with other random numbers; each day counts by its rows."""
    ours, reference, rows = days(5)
    found, low, high = metrics.paired_difference(ours, reference, rows, draws=20_000)
    assert found == pytest.approx(ours.sum() / rows.sum() - reference.sum() / rows.sum())
    random = np.random.default_rng(7)
    drawn = []
    for _ in range(20_000):
        places = random.integers(0, len(ours), size=len(ours))
        drawn.append((ours[places].sum() - reference[places].sum()) / rows[places].sum())
    assert low < found < high < 0
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.05, 0.95]), atol=(high - low) / 20)


def test_the_difference_changes_its_sign_with_its_sides_and_is_none_of_a_model_from_itself() -> None:
    ours, reference, rows = days(6)
    found, low, high = metrics.paired_difference(ours, reference, rows)
    assert metrics.paired_difference(reference, ours, rows) == pytest.approx((-found, -high, -low))
    assert metrics.paired_difference(ours, ours, rows) == (0, 0, 0)


def test_the_difference_finds_the_truth_as_often_as_it_says() -> None:
    """Two equal models, each with its own noise of the day: 0 lies in about 270 of 300 intervals of 90 %."""
    hits = 0
    for seed in range(300):
        random = np.random.default_rng(seed + 900)
        weather = random.gamma(4, 0.5, size=40)
        ours, reference = (100 * weather + random.normal(0, 10, size=40) for _ in range(2))
        _, low, high = metrics.paired_difference(ours, reference, np.full(40, 100), draws=400, seed=seed)
        hits += low <= 0 <= high
    assert 250 <= hits <= 288


def test_a_difference_of_too_few_days() -> None:
    one = metrics.paired_difference(np.array([3.0]), np.array([1.0]), np.array([4]))
    assert one[0] == 0.5
    assert math.isnan(one[1])
    assert math.isnan(one[2])
    assert all(math.isnan(value) for value in metrics.paired_difference(np.zeros(2), np.zeros(2), np.zeros(2)))


def test_bootstrap_of_next_to_nothing() -> None:
    none = np.zeros(0)
    assert all(math.isnan(value) for value in metrics.day_block_bootstrap(none, none, none))
    skill, low, high = metrics.day_block_bootstrap(np.array([1.0]), np.array([2.0]), np.array([5]))
    assert skill == 0.5
    assert math.isnan(low)
    assert math.isnan(high)
    zeros = metrics.day_block_bootstrap(np.array([1.0, 1.0]), np.zeros(2), np.ones(2))
    assert all(math.isnan(value) for value in zeros)
    # One day of reference 0 is drawn alone at times: such draws say nothing and are left out.
    _, low, high = metrics.day_block_bootstrap(np.array([0.0, 1.0]), np.array([0.0, 2.0]), np.ones(2))
    assert (low, high) == (0.5, 0.5)


# -- point scores of any series --------------------------------------------------------------------------------


@given(
    cells=st.lists(st.tuples(st.integers(0, 30), st.floats(0, 30, width=32), st.booleans()), min_size=1, max_size=20)
)
def test_point_scores_are_the_slow_loops(cells: list[tuple[int, float, bool]]) -> None:
    assume(any(cell[2] for cell in cells))
    truth = np.array([cell[0] for cell in cells])
    prediction = np.array([cell[1] for cell in cells], dtype=np.float32)
    mask = np.array([cell[2] for cell in cells])
    errors = [said - true for true, said, scored in cells if scored]
    assert metrics.mae(truth, prediction, mask) == pytest.approx(sum(abs(e) for e in errors) / len(errors), abs=1e-9)
    mean_square = sum(e * e for e in errors) / len(errors)
    assert metrics.rmse(truth, prediction, mask) == pytest.approx(math.sqrt(mean_square), abs=1e-9)


def test_zero_is_a_value_and_the_mask_alone_hides() -> None:
    truth = np.array([0.0, 0.0, 9.0])
    prediction = np.array([3.0, np.nan, np.nan])
    mask = np.array([True, False, False])
    assert metrics.mae(truth, prediction, mask) == 3
    assert metrics.rmse(truth, prediction, mask) == 3
    assert math.isnan(metrics.mae(truth, prediction, np.array([True, True, False])))
    assert math.isnan(metrics.mae(truth, prediction, np.zeros(3, dtype=np.bool_)))
    assert math.isnan(metrics.rmse(truth, prediction, np.zeros(3, dtype=np.bool_)))


def test_small_integers_do_not_wrap_around() -> None:
    truth, prediction = np.array([200], dtype=np.uint8), np.array([100], dtype=np.uint8)
    assert metrics.mae(truth, prediction, np.array([True])) == 100
