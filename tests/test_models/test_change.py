"""Regressions on the change, and the histograms of what they missed: slow loops, closed forms, known truths."""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_models.panels import bare_panel, small_city
from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import ArtifactError, HistoryError, load_model
from velib_predictor.models.baseline import change as module
from velib_predictor.models.baseline import linear
from velib_predictor.models.baseline.change import FOLDS, ChangeModel
from velib_predictor.models.baseline.linear import Linear, Ridge, Trees, XGBoost
from velib_predictor.models.baseline.residuals import REACH, ResidualHistograms
from velib_predictor.utils.errors import UsageError

Floats = npt.NDArray[np.float32]
Rows = tuple[npt.NDArray[np.int64], Floats, Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]
SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=1)), targets=("bikes", "docks"))
UNTIL = datetime(2024, 10, 30, tzinfo=UTC)
PRIOR = 40


# -- histograms ----------------------------------------------------------------------------------------------


def missed_rows(count: int, seed: int = 0) -> Rows:
    """Change, predicted change, predicted spread, count and room, at random, a few far beyond the reach, [row]."""
    random = np.random.default_rng(seed)
    predicted = random.normal(0, 1.2, count).astype(np.float32)
    spread = random.choice([0.1, 0.3, 0.5, 1.0, 2.5], count).astype(np.float32)
    change = np.rint(predicted + spread * random.standard_t(3, count)).astype(np.int64)
    change[:5] = 3 * REACH
    change[5:10] = -3 * REACH
    return change, predicted, spread, random.integers(0, 9, count), random.integers(0, 9, count)


def slow_kind(predicted: float) -> int:
    """Which of the 13 kinds of predicted change."""
    whole = round(predicted)
    rest = predicted - whole
    if whole == 0:
        return sum(rest > edge for edge in (-0.3, -0.1, 0.1, 0.3))
    if abs(whole) == 1:
        return (5 if whole == 1 else 8) + sum(rest > edge for edge in (-0.17, 0.17))
    return 11 if whole > 1 else 12


def slow_level(count: int) -> int:
    return sum(count >= edge for edge in (1, 2, 3, 5))


def slow_cell(edges: Floats, row: tuple[Any, ...]) -> tuple[int, ...]:
    """Spread, kind, level and room of a row (change, predicted, spread, now, room)."""
    _, predicted, spread, now, room = row
    return sum(spread > edge for edge in edges.tolist()), slow_kind(predicted), slow_level(now), slow_level(room)


def slow_shares(rows: list[tuple[int, ...]], towards: list[float]) -> list[float]:
    """Shares of the deviations, drawn towards coarser ones."""
    counts = [0] * (2 * REACH + 1)
    for deviation in rows:
        counts[deviation[-1]] += 1
    return [(count + PRIOR * share) / (len(rows) + PRIOR) for count, share in zip(counts, towards, strict=True)]


def test_the_table_is_that_of_a_slow_loop() -> None:
    given = missed_rows(3_000)
    histograms = ResidualHistograms.fit(*given)
    cells = []
    for row in zip(*(column.tolist() for column in given), strict=True):
        deviation = min(max(row[0] - round(row[1]), -REACH), REACH) + REACH
        cells.append((*slow_cell(histograms.edges, row), deviation))
    everything = [sum(cell[-1] == d for cell in cells) + 1e-3 for d in range(2 * REACH + 1)]
    everything = [share / sum(everything) for share in everything]
    random = np.random.default_rng(1)
    shape = histograms.table.shape[:-1]
    drawn = [tuple(int(random.integers(size)) for size in shape) for _ in range(60)]
    for cell in drawn + [row[:-1] for row in cells[:60]]:
        by_spread = slow_shares([row for row in cells if row[0] == cell[0]], everything)
        by_kind = slow_shares([row for row in cells if row[:2] == cell[:2]], by_spread)
        wanted = slow_shares([row for row in cells if row[:4] == cell], by_kind)
        np.testing.assert_allclose(histograms.table[cell], wanted, rtol=1e-5, atol=1e-9)


def test_every_histogram_sums_to_one() -> None:
    for given in (missed_rows(2_000), missed_rows(12)):
        table = ResidualHistograms.fit(*given).table
        np.testing.assert_allclose(table.sum(axis=-1), 1, atol=1e-5)
        assert (table >= 0).all()


def test_a_cell_without_rows_is_like_its_kind_and_a_kind_without_rows_like_its_spread() -> None:
    change, predicted, spread, now, room = missed_rows(4_000)
    now[:], room[:] = 7, 7
    predicted = np.clip(predicted, -0.4, 0.4)  # every prediction rounds to 0
    table = ResidualHistograms.fit(change, predicted, spread, now, room).table
    assert (table[:, 2, 0, 0] == table[:, 2, 1, 3]).all()
    assert (table[:, 2, 0, 0] != table[:, 2, 4, 4]).any()
    assert (table[:, 6] == table[:, 11]).all()
    assert (table[:, 6] != table[:, 2]).any()
    assert (table[0, 6] != table[-1, 6]).any()


@pytest.mark.parametrize(("now", "k"), [(0, 10), (10, 10), (4, 10), (25, 60)])
def test_counts_are_the_rounded_prediction_and_what_it_missed(now: int, k: int) -> None:
    """What lies below 0 and above K counts as 0 and K."""
    histograms = ResidualHistograms.fit(*missed_rows(3_000))
    for predicted in (-70.0, -3.2, -0.6, -0.2, 0.0, 0.4, 0.5, 1.5, 2.6, 90.0):
        for spread in (0.05, 0.4, 9.0):
            at = np.float32(predicted), np.float32(spread)
            found = histograms.pmf(np.array([at[0]]), np.array([at[1]]), np.array([now]), np.array([k]), k + 3)[0]
            wanted = [0.0] * (k + 3)
            cell = slow_cell(histograms.edges, (0, predicted, float(at[1]), now, k - now))
            for place, share in enumerate(histograms.table[cell].tolist()):
                wanted[min(max(now + round(predicted) + place - REACH, 0), k)] += share
            np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_a_known_distribution_is_recovered() -> None:
    """Stations as differences of two Poisson counts, censored, with rates that the prediction tells exactly."""
    random = np.random.default_rng(4)
    k, counts = 20, np.arange(21)
    come, go = random.gamma(1.5, 1.0, (2, 33_000))
    now = random.integers(0, k + 1, len(come))
    change = np.clip(now + random.poisson(come) - random.poisson(go), 0, k) - now
    truth = exact(come, go, now, k)
    mean, spread = (truth @ counts - now).astype(np.float32), np.sqrt(come + go).astype(np.float32)
    learned, new = slice(0, 30_000), slice(30_000, None)
    histograms = ResidualHistograms.fit(change[learned], mean[learned], spread[learned], now[learned], k - now[learned])
    found = histograms.pmf(mean[new], spread[new], now[new], np.full(3_000, k), k + 1)
    step = (counts >= (now + change)[new, None]).astype(float)
    ours, best, still = (
        float(((np.cumsum(pmf, axis=1) - step) ** 2).sum(axis=1).mean())
        for pmf in (found, truth[new], np.eye(k + 1)[now[new]])
    )
    assert best < ours < 1.03 * best < 0.75 * still
    # At the ends it errs a little: from 4 bikes, 4 fewer are as likely as they were from 3 or 4.
    np.testing.assert_allclose(found[:, [0, k]].mean(axis=0), truth[new][:, [0, k]].mean(axis=0), atol=0.02)


def exact(
    come: npt.NDArray[np.float64], go: npt.NDArray[np.float64], now: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.float64]:
    """P(count) of now + Poisson(come) - Poisson(go), censored to 0..k, [row, count]."""
    numbers = np.arange(25)
    factorial = np.array([math.factorial(number) for number in numbers], dtype=float)
    arrivals, departures = (np.exp(-rate)[:, None] * rate[:, None] ** numbers / factorial for rate in (come, go))
    pmf = np.zeros((len(now), k + 1))
    rows = np.arange(len(now))
    for more in range(25):
        for less in range(25):
            pmf[rows, np.clip(now + more - less, 0, k)] += arrivals[:, more] * departures[:, less]
    return np.asarray(pmf / pmf.sum(axis=1, keepdims=True))


# -- ridge ---------------------------------------------------------------------------------------------------


def holed(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Features: two plain ones, one with gaps, one constant, one without any value; and an answer, [row]."""
    random = np.random.default_rng(seed)
    features = random.normal(3, [1, 20, 2, 1, 1], (count, 5)).astype(np.float32)
    features[random.random(count) < 0.3, 2] = np.nan
    features[:, 3], features[:, 4] = 7, np.nan
    answer = 2 + features[:, 0] - 0.1 * features[:, 1] + np.nan_to_num(features[:, 2], nan=-4)
    return features, (answer + random.normal(0, 0.3, count)).astype(np.float32)


def test_ridge_is_the_closed_form_on_standardised_features() -> None:
    """Least squares with the penalty written as rows that want every weight but the constant's to be 0."""
    features, wanted = holed(4_000)
    design = [np.ones(4_000)]
    for column in features.T.astype(np.float64):
        known = column[~np.isnan(column)]
        middle, width = (known.mean(), known.std() or 1.0) if len(known) else (0.0, 1.0)
        design.append(np.clip(np.where(np.isnan(column), 0, (column - middle) / width), -8, 8))
    design += list(np.isnan(features).T.astype(float))
    matrix = np.stack(design, axis=1)
    penalty = np.sqrt(1e-3 * len(wanted)) * np.eye(matrix.shape[1])[1:]
    both = np.concatenate([matrix, penalty]), np.concatenate([wanted, np.zeros(len(penalty))])
    weights = np.linalg.lstsq(*both, rcond=None)[0]
    ridge = Ridge.fit(features, wanted)
    np.testing.assert_allclose(ridge.weights, weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ridge.predict(features), matrix @ weights, rtol=1e-4, atol=1e-4)
    assert abs(ridge.predict(features) - wanted).mean() < 0.3


def test_ridge_of_many_rows_is_that_of_few_at_a_time() -> None:
    """Rows are summed up by parts: 120,000 rows that are 30 times the same 4,000."""
    features, wanted = holed(4_000)
    one, many = Ridge.fit(features, wanted), Ridge.fit(np.tile(features, (30, 1)), np.tile(wanted, 30))
    np.testing.assert_allclose(many.weights, one.weights, rtol=1e-4, atol=1e-5)


def test_ridge_says_something_of_rows_without_any_value_and_of_rows_far_away() -> None:
    features, wanted = holed(1_000)
    ridge = Ridge.fit(features, wanted)
    nothing = np.full((1, 5), np.nan, dtype=np.float32)
    far = np.array([[1e9, -1e9, np.nan, 1e9, 1e9]], dtype=np.float32)
    assert np.isfinite(ridge.predict(nothing)).all()
    assert abs(ridge.predict(far)).max() < 8 * abs(ridge.weights).sum() + 1


# -- trees ---------------------------------------------------------------------------------------------------


def test_trees_stop_where_unseen_rows_say_and_learn_nothing_else_from_them() -> None:
    """Noise can only be memorised, so few trees are grown; a plain rule takes all of them."""
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (8_000, 4)).astype(np.float32)
    rule = (features[:, 0] > 0).astype(np.float32) * 3 + features[:, 1]
    noise = random.normal(0, 1, 8_000).astype(np.float32)
    half = slice(0, 4_000), slice(4_000, 8_000)

    def fitted(wanted: Floats) -> Trees:
        return Trees.fit(features[half[0]], wanted[half[0]], (features[half[1]], wanted[half[1]]))

    of_noise, of_rule = fitted(noise), fitted(rule)
    assert of_noise._booster.num_boosted_rounds() < 10
    assert of_rule._booster.num_boosted_rounds() > 50
    other = Trees.fit(features[half[0]], rule[half[0]], (features[half[1]], rule[half[1]] + 0.5))
    fewer = min(trees._booster.num_boosted_rounds() for trees in (of_rule, other))
    one, two = (trees._booster[:fewer].inplace_predict(features) for trees in (of_rule, other))
    assert one.tobytes() == two.tobytes()
    best = of_rule._booster.num_boosted_rounds()
    error = float(np.mean((of_rule.predict(features)[half[1]] - rule[half[1]]) ** 2))
    for rounds in range(1, best, 10):
        shorter = of_rule._booster[:rounds].inplace_predict(features[half[1]])
        assert error <= float(np.mean((shorter - rule[half[1]]) ** 2))


def test_trees_of_a_size_are_never_below_nought() -> None:
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (3_000, 3)).astype(np.float32)
    sizes = np.abs(features[:, 0] * random.normal(0, 1, 3_000)).astype(np.float32)
    assert (Trees.fit(features, sizes).predict(5 * features) >= 0).all()


@pytest.mark.parametrize("kind", [Ridge, Trees])
def test_a_regression_is_kept_bit_for_bit(kind: type[Ridge] | type[Trees], tmp_path: Path) -> None:
    features, wanted = holed(2_000)
    fitted = kind.fit(features, wanted, (features[:500], wanted[:500]))
    file = tmp_path / ("regression.safetensors" if kind is Ridge else "regression.ubj")
    fitted.save(file)
    loaded = kind.load(file)
    assert loaded.predict(features).tobytes() == fitted.predict(features).tobytes()


# -- folds ---------------------------------------------------------------------------------------------------


class Spy:
    """A regression that remembers the rows that it was given."""

    fits: list["Spy"]

    def __init__(self, seen: Floats, unseen: Floats | None) -> None:
        self.seen, self.unseen = seen, unseen
        self.asked: list[Floats] = []

    @classmethod
    def fit(cls, features: Floats, wanted: Floats, unseen: tuple[Floats, Floats] | None = None) -> Self:
        assert len(features) == len(wanted)
        made = cls(features, None if unseen is None else unseen[0])
        cls.fits.append(made)
        return made

    def predict(self, features: Floats) -> Floats:
        self.asked.append(features)
        return np.zeros(len(features), dtype=np.float32)

    def save(self, file: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, file: Path) -> Self:
        raise NotImplementedError


class Spied(ChangeModel):
    name = "spied"
    regression = Spy
    most_rows = 4_000

    @classmethod
    def suffix(cls) -> str:
        return ""


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that are nothing but the number of the row's tick, and its station and horizon."""

    def mark(_builder: object, _sight: object, rows: module.Rows) -> Floats:
        return np.stack([rows.tick, rows.station, rows.ahead], axis=1).astype(np.float32)

    monkeypatch.setattr(Spied, "_features", staticmethod(mark))
    Spy.fits = []


@pytest.mark.usefixtures("marked")
def test_no_regression_predicts_rows_of_a_day_that_it_was_fitted_on() -> None:
    panel = small_city(days=7)
    Spied(replace(SPEC, targets=("bikes",))).fit(panel, UNTIL)
    days = local_time(panel.ticks, panel.timezone).day
    *folds, spread = Spy.fits
    assert len(folds) == FOLDS
    told: list[set[int]] = []
    for fold in folds:
        assert fold.unseen is not None
        (asked,) = fold.asked
        assert asked.tobytes() == fold.unseen.tobytes()
        seen, missed = (set(days[rows[:, 0].astype(int)].tolist()) for rows in (fold.seen, asked))
        assert not seen & missed
        told.append(missed)
        assert len(fold.seen) + len(asked) == len(spread.seen)
    assert sorted(day for fold in told for day in fold) == sorted(set(days[: len(panel) - 1].tolist()))
    assert min(len(fold) for fold in told) >= 2
    assert spread.unseen is None


@pytest.mark.usefixtures("marked")
def test_a_history_of_two_days_is_folded_by_time() -> None:
    panel = small_city(days=3, stations=12).between(0, 96)  # local 23 October from 2 o'clock, and 2 hours of the next
    Spied(replace(SPEC, targets=("bikes",), horizons=SPEC.horizons[:1])).fit(panel, UNTIL)
    *folds, _ = Spy.fits
    for number, fold in enumerate(folds):
        (asked,) = fold.asked
        first, last = asked[:, 0].min(), asked[:, 0].max()
        assert len(asked) > 200
        assert not ((fold.seen[:, 0] >= first) & (fold.seen[:, 0] <= last)).any(), number


@pytest.mark.usefixtures("marked")
def test_rows_are_known_trusted_open_at_their_origin_and_evenly_many_for_each_horizon() -> None:
    panel = small_city(days=7)
    Spied(replace(SPEC, targets=("docks",))).fit(panel, UNTIL)
    tick, station, ahead = Spy.fits[-1].seen.astype(int).T
    channel = 3
    assert panel.observed[tick, station, channel].all()
    assert panel.observed[tick + ahead, station, channel].all()
    assert panel.trusted[tick, station].all()
    assert panel.trusted[tick + ahead, station].all()
    assert panel.open[tick, station].all()
    assert np.bincount(ahead)[[1, 4]].tolist() == [2_000, 2_000]
    assert 4 not in station  # it does not publish docks


# -- whole models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def small_fits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_SPREAD_ROUNDS", 20)
        patch.setattr(XGBoost, "most_rows", 12_000)
        yield


@pytest.fixture(scope="module")
def panel() -> Panel:
    return small_city()


@pytest.mark.parametrize("kind", [Linear, XGBoost])
def test_a_damaged_regression_is_refused(kind: type[ChangeModel], panel: Panel, tmp_path: Path) -> None:
    model = kind(replace(SPEC, targets=("bikes",), horizons=SPEC.horizons[:1]))
    model.fit(panel, UNTIL)
    model.save(tmp_path)
    (file,) = tmp_path.glob("bikes_0.*")
    for damage in (b"\x00" * 20, b"", None):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(ArtifactError, match="damaged"):
            load_model(tmp_path)


@pytest.mark.parametrize("kind", [Linear, XGBoost])
def test_a_horizon_with_few_rows_is_named(kind: type[ChangeModel], panel: Panel) -> None:
    spec = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=36)), targets=("bikes",))
    short = panel.between(0, 96 + 96 // 2 + 60)
    with pytest.raises(HistoryError, match=r"\d+ pairs of an origin and a truth 1d12h later, 1000 are needed"):
        kind(spec).fit(short, UNTIL)


def test_a_target_that_was_never_published_is_too_little_history(panel: Panel) -> None:
    observed = panel.observed.copy()
    observed[:, :, 2] = False
    counts = np.where(observed, panel.counts, -1).astype(np.int16)
    with pytest.raises(HistoryError, match="0 pairs of an origin and a truth 15m later"):
        Linear(replace(SPEC, targets=("bikes", "ebikes"))).fit(replace(panel, observed=observed, counts=counts), UNTIL)


def test_a_model_whose_second_fit_failed_does_not_forecast(panel: Panel) -> None:
    model = Linear(SPEC)
    model.fit(panel, UNTIL)
    with pytest.raises(HistoryError):
        model.fit(panel.between(0, 30), UNTIL)
    assert model.report is None


@pytest.mark.parametrize("minutes", [7, 0.5, 100, 2880])
def test_a_step_that_does_not_divide_the_day_is_refused(minutes: float) -> None:
    step = timedelta(minutes=minutes)
    with pytest.raises(UsageError, match="divides a day"):
        Linear(ForecastSpec(step=step, horizons=(step,)))


@pytest.mark.parametrize("kind", [Linear, XGBoost])
def test_horizons_beyond_a_day_are_forecast(kind: type[ChangeModel], panel: Panel) -> None:
    spec = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=30)), targets=("bikes",))
    model = kind(spec)
    model.fit(panel, UNTIL)
    (forecast,) = model.predict(panel, panel.ticks[-1:])
    known = forecast.known[0, :, 0]
    np.testing.assert_allclose(forecast.pmf[0, known].sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", [Linear, XGBoost])
def test_a_rule_is_learned(kind: type[ChangeModel]) -> None:
    """Counts that swing with the time of day, with a bike more or less at random: the next hours are known."""
    random = np.random.default_rng(0)
    hour = (np.arange(96 * 10) / 4)[:, None]
    bikes = np.rint(12 + 8 * np.sin((hour - random.uniform(0, 24, 12)) * np.pi / 12)).astype(np.int16)
    bikes += random.integers(-1, 2, bikes.shape).astype(np.int16)
    panel = bare_panel(np.stack([bikes, bikes, 0 * bikes, 24 - bikes], axis=2), np.full(12, 24))
    spec = ForecastSpec(horizons=(timedelta(hours=4),), targets=("bikes",))
    model = kind(spec)
    model.fit(panel, datetime(2024, 10, 31, tzinfo=UTC))
    places = np.arange(96 * 8 + 20, 96 * 9 + 20, 8)
    ours, still = [], []
    for place, forecast in zip(places, model.predict(panel, panel.ticks[places]), strict=True):
        truth = bikes[place + 16]
        ours.append(np.abs(forecast.median()[0, :, 0, 0] - truth).mean())
        still.append(np.abs(bikes[place] - truth).mean())
    assert np.mean(ours) < 1.5
    assert np.mean(still) > 5
