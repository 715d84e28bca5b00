"""The algebra of probabilities: what must hold for any pmf, and slow loops that spell out what is meant."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_forecast.strategies import Rows, distributions, rows
from velib_predictor.forecast import pmf as algebra

CLOSE = 1e-5


def check_pmf(pmf: npt.NDArray[np.float32], k: npt.NDArray[np.int64]) -> None:
    """It is a distribution over 0..K."""
    assert pmf.dtype == np.float32
    assert (pmf >= 0).all()
    np.testing.assert_allclose(pmf.sum(axis=-1, dtype=np.float64), 1, atol=CLOSE)
    assert (pmf[np.arange(pmf.shape[-1]) > k[..., None]] == 0).all()


# -- what is derived from a pmf --------------------------------------------------------------------------------


@given(drawn=rows())
def test_cdf_climbs_to_exactly_one_and_back_to_the_pmf(drawn: Rows) -> None:
    cdf = algebra.to_cdf(drawn.pmf)
    assert cdf.dtype == np.float32
    assert (np.diff(cdf, axis=-1) >= 0).all()
    assert (cdf[:, -1] == 1).all()
    assert (cdf <= 1).all()
    slow = [[sum(float(p) for p in pmf[: k + 1]) for k in range(len(pmf))] for pmf in drawn.pmf]
    np.testing.assert_allclose(cdf, slow, atol=CLOSE)
    np.testing.assert_allclose(algebra.to_pmf(cdf), drawn.pmf, atol=1e-6)


@given(drawn=rows(), low=st.floats(0.001, 1), high=st.floats(0.001, 1))
def test_quantiles_climb_and_stay_within_k(drawn: Rows, low: float, high: float) -> None:
    low, high = sorted((low, high))
    cdf = algebra.to_cdf(drawn.pmf)
    lower, upper = algebra.quantile(cdf, low), algebra.quantile(cdf, high)
    assert lower.dtype == np.int16
    assert (lower <= upper).all()
    assert (lower >= 0).all()
    assert (upper <= drawn.k).all()


@given(drawn=rows(), q=st.floats(0.001, 1))
def test_quantile_is_the_first_count_that_reaches_q(drawn: Rows, q: float) -> None:
    found = algebra.quantile(algebra.to_cdf(drawn.pmf), q)
    for pmf, count in zip(drawn.pmf.astype(np.float64), found, strict=True):
        assert pmf[: count + 1].sum() >= q - CLOSE
        assert pmf[:count].sum() < q + CLOSE


def test_rounding_moves_no_exact_quantile() -> None:
    tenths = np.full((1, 10), 0.1, dtype=np.float32)
    found = [int(algebra.quantile(algebra.to_cdf(tenths), n / 10)[0]) for n in range(1, 11)]
    assert found == list(range(10))


@pytest.mark.parametrize("q", [0, -0.1, 1.01, float("nan")])
def test_a_quantile_outside_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"lies in \(0, 1\]"):
        algebra.quantile(np.ones((1, 3), dtype=np.float32), q)


@given(drawn=rows())
def test_at_least_one_is_what_is_not_none(drawn: Rows) -> None:
    if drawn.pmf.shape[-1] > 1:
        assert (algebra.at_least(drawn.pmf, 1) == 1 - drawn.pmf[:, 0]).all()
    assert (algebra.at_least(drawn.pmf, 0) == 1).all()


@given(drawn=rows())
def test_at_least_falls_with_the_count_and_is_the_tail(drawn: Rows) -> None:
    size = drawn.pmf.shape[-1]
    tails = np.stack([algebra.at_least(drawn.pmf, count) for count in range(-1, size + 2)])  # [count, row]
    assert tails.dtype == np.float32
    assert (np.diff(tails, axis=0) <= 0).all()
    slow = [[sum(float(p) for p in pmf[max(count, 0) :]) for pmf in drawn.pmf] for count in range(-1, size + 2)]
    np.testing.assert_allclose(tails, slow, atol=CLOSE)
    assert (tails[-2:] == 0).all()


@given(drawn=rows(), data=st.data())
def test_one_count_for_each_pmf_gives_the_same_as_one_for_all(drawn: Rows, data: st.DataObject) -> None:
    size = drawn.pmf.shape[-1]
    counts = np.array([data.draw(st.integers(-2, size + 2)) for _ in drawn.k])
    each = algebra.at_least(drawn.pmf, counts)
    alone = [algebra.at_least(pmf, int(count)) for pmf, count in zip(drawn.pmf, counts, strict=True)]
    assert each.tolist() == [float(value) for value in alone]


@given(drawn=rows())
def test_mean_is_the_sum_of_the_tails(drawn: Rows) -> None:
    tails = [algebra.at_least(drawn.pmf, count) for count in range(1, drawn.pmf.shape[-1])]
    mean = algebra.mean(drawn.pmf)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.sum(tails, axis=0), atol=1e-4)
    np.testing.assert_allclose(mean, drawn.pmf.astype(float) @ np.arange(drawn.pmf.shape[-1]), atol=1e-5)


@given(drawn=rows())
def test_a_point_has_its_mass_in_one_place(drawn: Rows) -> None:
    pmf = algebra.point(drawn.truth, drawn.pmf.shape[-1])
    check_pmf(pmf, drawn.k)
    assert (algebra.mean(pmf) == drawn.truth).all()
    for q in (0.01, 0.5, 1.0):
        assert (algebra.quantile(algebra.to_cdf(pmf), q) == drawn.truth).all()


# -- what is made of pmfs --------------------------------------------------------------------------------------


@given(drawn=rows(), other=st.integers(0, 3), share=st.floats(0, 1))
def test_a_mixture_lies_between(drawn: Rows, other: int, share: float) -> None:
    first, second = drawn.pmf, np.roll(drawn.pmf, other, axis=0)
    k = np.maximum(drawn.k, np.roll(drawn.k, other))
    mixed = algebra.mix([first, second], [1 - share, share])
    check_pmf(mixed, k)
    np.testing.assert_allclose(mixed, (1 - share) * first + share * second, atol=1e-6)
    np.testing.assert_allclose(algebra.shrink(first, second, share), mixed, atol=1e-6)


@given(drawn=rows())
def test_shrinking_goes_all_the_way_and_may_differ_by_row(drawn: Rows) -> None:
    towards = algebra.point(drawn.truth, drawn.pmf.shape[-1])
    assert (algebra.shrink(drawn.pmf, towards, 0.0) == drawn.pmf).all()
    assert (algebra.shrink(drawn.pmf, towards, 1.0) == towards).all()
    shares = np.linspace(0, 1, len(drawn.k))
    shrunk = algebra.shrink(drawn.pmf, towards, shares)
    for n, share in enumerate(shares):
        np.testing.assert_allclose(shrunk[n], algebra.shrink(drawn.pmf[n], towards[n], share), atol=1e-6)


@pytest.mark.parametrize("weights", [[0.5, 0.4], [0.5, 0.6], [np.array([0.5, 0.5]), np.array([0.5, 0.6])]])
def test_weights_that_do_not_add_up_are_refused(weights: list[float]) -> None:
    pmf = algebra.point(np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="add up to 1"):
        algebra.mix([pmf, pmf], weights)


@given(drawn=rows(), data=st.data())
def test_censoring_moves_what_is_above_k_onto_k(drawn: Rows, data: st.DataObject) -> None:
    size = drawn.pmf.shape[-1]
    k = np.array([data.draw(st.integers(0, size + 1)) for _ in drawn.k])
    censored = algebra.censor(drawn.pmf, k)
    check_pmf(censored, k)
    slow = np.zeros(drawn.pmf.shape)
    for n, pmf in enumerate(drawn.pmf):
        for count, p in enumerate(pmf):
            slow[n, min(count, k[n])] += p
    np.testing.assert_allclose(censored, slow, atol=1e-6)
    below = np.arange(size) < k[:, None]
    assert (censored[below] == drawn.pmf[below]).all()


# -- changes ---------------------------------------------------------------------------------------------------


def slow_from_changes(changes: npt.NDArray[np.float32], now: int, k: int, size: int) -> list[float]:
    """The rule in words: each change moves the count, which stops at 0 and at K."""
    pmf = [0.0] * size
    reach = len(changes) // 2
    for place, p in enumerate(changes):
        pmf[min(max(now + place - reach, 0), k)] += float(p)
    return pmf


@given(
    size=st.integers(1, 12),
    reach=st.integers(0, 14),
    dtype=st.sampled_from([np.int16, np.int64, np.uint8]),
    data=st.data(),
)
def test_from_changes_is_the_slow_loop(size: int, reach: int, dtype: npt.DTypeLike, data: st.DataObject) -> None:
    k = [data.draw(st.integers(0, size - 1)) for _ in range(4)]
    now = [data.draw(st.integers(0, most)) for most in k]
    changes = np.stack([data.draw(distributions(2 * reach + 1)) for _ in range(4)])
    pmf = algebra.from_changes(changes, np.array(now, dtype), np.array(k, dtype), size)
    check_pmf(pmf, np.array(k))
    slow = [slow_from_changes(changes[n], now[n], k[n], size) for n in range(4)]
    np.testing.assert_allclose(pmf, slow, atol=1e-6)


def test_from_changes_broadcasts_stations_over_horizons() -> None:
    random = np.random.default_rng(5)
    changes = random.dirichlet(np.ones(9), size=(3, 2)).astype(np.float32)  # [horizon, target, change]
    now = random.integers(0, 4, size=(5, 1, 2))
    k = random.integers(4, 8, size=(5, 1, 1))
    pmf = algebra.from_changes(changes, now, k, 8)
    assert pmf.shape == (5, 3, 2, 8)
    for station, horizon, target in np.ndindex(5, 3, 2):
        slow = slow_from_changes(changes[horizon, target], now[station, 0, target], k[station, 0, 0], 8)
        np.testing.assert_allclose(pmf[station, horizon, target], slow, atol=1e-6)


def test_what_changes_lack_to_one_is_laid_on_the_greatest() -> None:
    changes = np.array([[0.1, 0.3, 0.2]], dtype=np.float32)
    found = algebra.from_changes(changes, np.array([2]), np.array([5]), 7)
    np.testing.assert_allclose(found, [[0, 0.1, 0.3, 0.6, 0, 0, 0]], atol=1e-6)


def test_from_changes_of_nothing_is_nothing() -> None:
    none = np.zeros((0, 3), dtype=np.float32)
    assert algebra.from_changes(none, np.zeros(0, np.int16), np.zeros(0, np.int16), 5).shape == (0, 5)


# -- mixtures of logistic distributions ------------------------------------------------------------------------


def slow_mixture(parts: list[tuple[float, float, float]], now: int, k: int, size: int, floor: float) -> list[float]:
    """The rule in words: each component's mass between half counts; all below 0 is 0, all above K is K; a floor."""
    pmf = [0.0] * size
    for count in range(k + 1):
        for weight, location, scale in parts:
            upper = 1.0 if count == k else 0.5 + 0.5 * math.tanh((count + 0.5 - now - location) / (2 * scale))
            lower = 0.0 if count == 0 else 0.5 + 0.5 * math.tanh((count - 0.5 - now - location) / (2 * scale))
            pmf[count] += weight * (upper - lower)
        pmf[count] = (1 - floor) * pmf[count] + floor / (k + 1)
    return pmf


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[tuple[float, float, float]], int, int, int]:
    """Components (weight, location, scale), now, K, and how many counts."""
    shares = draw(st.lists(st.floats(0.015625, 1, width=32), min_size=1, max_size=4))
    weights = np.asarray(np.array(shares) / sum(shares), dtype=np.float32).tolist()
    places = st.floats(-100, 100, width=32) | st.sampled_from([1e6, -1e6, 1e30])
    parts = [(weight, draw(places), draw(st.floats(0.03125, 50, width=32))) for weight in weights]
    k = draw(st.integers(1, 60))
    return parts, draw(st.integers(0, k)), k, k + 1 + draw(st.integers(0, 4))


@given(drawn=mixtures(), floor=st.sampled_from([0.0, 1e-3, 0.3]))
def test_a_logistic_mixture_is_the_slow_loop(
    drawn: tuple[list[tuple[float, float, float]], int, int, int], floor: float
) -> None:
    parts, now, k, size = drawn
    arrays = np.array(parts, dtype=np.float32)[None]  # [row, component, part]
    weights, location, scale = (arrays[:, :, part] for part in range(3))
    pmf = algebra.logistic_mixture(weights, location, scale, np.array([now]), np.array([k]), size, floor)
    check_pmf(pmf, np.array([k]))
    np.testing.assert_allclose(pmf[0], slow_mixture(parts, now, k, size, floor), atol=2e-6)
    assert (pmf[0, : k + 1] >= floor / (k + 1) * 0.999).all()


@given(drawn=mixtures(), up=st.floats(0, 20, width=32))
def test_a_mixture_further_up_is_stochastically_larger(
    drawn: tuple[list[tuple[float, float, float]], int, int, int], up: float
) -> None:
    parts, now, k, size = drawn
    arrays = np.array(parts, dtype=np.float32).T[:, None]  # [part, row, component]
    asked = np.array([now]), np.array([k]), size
    one = algebra.logistic_mixture(arrays[0], arrays[1], arrays[2], *asked)
    other = algebra.logistic_mixture(arrays[0], arrays[1] + np.float32(up), arrays[2], *asked)
    assert (np.cumsum(other, axis=-1) <= np.cumsum(one, axis=-1) + CLOSE).all()


def test_logistic_mixtures_of_many_axes_and_ks_are_those_of_each() -> None:
    random = np.random.default_rng(3)
    shape = (5, 2)
    weights = random.dirichlet(np.ones(3), shape).astype(np.float32)  # [row, target, component]
    location, scale = random.normal(0, 3, (*shape, 3)), random.uniform(0.03, 4, (*shape, 3))
    k = random.integers(1, 20, shape)
    now = random.integers(0, k + 1)
    given_ = weights, location.astype(np.float32), scale.astype(np.float32)
    pmf = algebra.logistic_mixture(*given_, now, k.astype(np.int16), 22)
    check_pmf(pmf, k)
    for row, target in np.ndindex(shape):
        parts = list(zip(*(array[row, target].tolist() for array in given_), strict=True))
        wanted = slow_mixture(parts, int(now[row, target]), int(k[row, target]), 22, 1e-3)
        np.testing.assert_allclose(pmf[row, target], wanted, atol=2e-6)


# -- order -----------------------------------------------------------------------------------------------------


@given(drawn=rows(), other=st.integers(0, 3))
def test_order_above_is_stochastic_dominance(drawn: Rows, other: int) -> None:
    larger, smaller = np.roll(drawn.pmf, other, axis=0), drawn.pmf
    moved = algebra.order_above(larger, smaller)
    check_pmf(moved, drawn.k)
    for count in range(smaller.shape[-1]):
        tail, bound = algebra.at_least(moved, count), algebra.at_least(larger, count)
        assert (tail <= bound + CLOSE).all()
        # No further down than it must be: where it was too large it now lies on the bound.
        wanted = np.minimum(algebra.at_least(smaller, count), bound)
        np.testing.assert_allclose(tail, wanted, atol=CLOSE)


@given(drawn=rows(), other=st.integers(0, 3))
def test_an_ordered_pair_is_left_alone(drawn: Rows, other: int) -> None:
    larger = np.roll(drawn.pmf, other, axis=0)
    moved = algebra.order_above(larger, drawn.pmf)
    np.testing.assert_allclose(algebra.order_above(larger, moved), moved, atol=1e-6)
    np.testing.assert_allclose(algebra.order_above(drawn.pmf, drawn.pmf), drawn.pmf, atol=1e-6)


def test_ordering_leaves_no_rounded_remainder_above_k() -> None:
    """float32 sums end near 1, not at it: the difference once stood on the last count of the axis."""
    smaller, larger = np.zeros((2, 20), dtype=np.float32)
    smaller[:12] = 1 / 12
    larger[:14] = 1 / 14
    assert np.cumsum(smaller)[-1] < 1
    assert (algebra.order_above(larger, smaller)[12:] == 0).all()
    assert (algebra.order_above(np.zeros_like(larger), smaller)[12:] == 0).all()
