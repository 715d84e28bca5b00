"""The backtest against an evaluation in plain loops, and what it must not read."""

import json
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import log, sqrt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.test_models.panels import disturbed, small_city
from velib_predictor.data.panel import BIKES, DOCKS, EBIKES, MISSING, Panel, Ticks
from velib_predictor.evaluation.comparison import LEAST_DAYS
from velib_predictor.evaluation.evaluator import Backtest, Protocol, backtest
from velib_predictor.evaluation.report import as_table, report
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Forecaster, HistoryError, forecaster
from velib_predictor.models.baseline.persistence import Persistence, PersistenceDelta
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 10, 23, tzinfo=UTC)  # of the small city
SPEC = ForecastSpec(horizons=(15 * MINUTE, HOUR, 4 * HOUR), targets=("bikes", "docks"))
CHANNELS = (BIKES, DOCKS)
PROTOCOL = Protocol(SPEC, START, START + 6 * DAY, START + 6 * DAY, START + 8 * DAY, 15 * MINUTE)
PARIS = ZoneInfo("Europe/Paris")
Key = tuple[str, int, int]  # model, horizon, target


class Forgetful(PersistenceDelta):
    """Persistence with its spread, of a model that does not know every station at every time."""

    name = "forgetful"

    def _predict(self, seen: Panel) -> Forecast:
        forecast = super()._predict(seen)
        known = forecast.known.copy()
        known[0, len(seen) % 5] = False
        known[0, 5, 1] &= len(seen) % 3 == 0
        return replace(forecast, known=known, pmf=np.where(known[:, :, None, :, None], forecast.pmf, np.float32(0)))


@pytest.fixture(scope="module")
def city() -> Panel:
    """The small city with, in the days of the test, closed stations, gaps, distrust and counts above K."""
    panel = small_city()
    counts, observed = panel.counts.copy(), panel.observed.copy()
    trusted, opened = panel.trusted.copy(), panel.open.copy()
    test = 96 * 6
    opened[test + 20 : test + 60, 0] = False
    trusted[test + 70 : test + 75] = False
    observed[test + 100 : test + 104] = opened[test + 100 : test + 104] = False
    observed[test + 110 : test + 130, 2, DOCKS] = False
    observed[test + 140 : test + 150, 2] = opened[test + 140 : test + 150, 2] = False
    counts[[test + 30, test + 31, test + 90], 5, BIKES] += 70
    counts[~observed] = MISSING
    return replace(panel, counts=counts, observed=observed, trusted=trusted, open=opened)


@pytest.fixture(scope="module")
def result(city: Panel) -> Backtest:
    return backtest(city, ["persistence_delta", Forgetful(SPEC)], PROTOCOL)


# -- the slow reference --------------------------------------------------------------------------------------


def smallest(cdf: list[float], q: float) -> int:
    return next(count for count, chance in enumerate(cdf) if chance >= q - 1e-6)


def slow_scores(forecast: Forecast, station: int, h: int, t: int, truth: int, now: int) -> dict[str, float]:
    """All scores of one row."""
    k = int(forecast.k[0, station])
    pmf = [float(p) for p in forecast.pmf[0, station, h, t]]
    cdf = [sum(pmf[: count + 1]) for count in range(len(pmf))]
    cdf[-1] = 1.0
    came = min(truth, k)
    mean = sum(count * p for count, p in enumerate(pmf))
    chance = 1 - pmf[0]
    brier = (chance - (came >= 1)) ** 2
    undecided = now <= 5
    return {
        "rows": 1,
        "rps": sum((f - (came <= count)) ** 2 for count, f in enumerate(cdf)),
        "abs_median": abs(smallest(cdf, 0.5) - came),
        "abs_mean": abs(mean - came),
        "square_mean": (mean - came) ** 2,
        "brier": brier,
        "log": -log((1 - 1e-4) * pmf[came] + 1e-4 / (k + 1)),
        "covered_80": smallest(cdf, 0.1) <= came <= smallest(cdf, 0.9),
        "covered_90": smallest(cdf, 0.05) <= came <= smallest(cdf, 0.95),
        "undecided": undecided,
        "brier_undecided": brier if undecided else 0,
        "above_k": truth > k,
        "chance": chance,
        "came": came >= 1,
    }


class SlowBook:
    """All rows of one model's horizon and target, in a list."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, datetime, dict[str, float]]] = []  # station, local time of issue, scores

    def mean(self, name: str, where: Any = None) -> float:
        kept = [scores for station, at, scores in self.rows if where is None or where(station, at)]
        return sum(scores[name] for scores in kept) / len(kept)

    def total(self, name: str) -> float:
        return sum(scores[name] for _, _, scores in self.rows)

    def calibration_error(self, *, undecided: bool) -> float:
        bins: dict[int, list[dict[str, float]]] = defaultdict(list)
        for _, _, scores in self.rows:
            if scores["undecided"] or not undecided:
                bins[min(int(np.float32(scores["chance"]) * np.float32(20)), 19)].append(scores)
        gaps = [abs(sum(s["chance"] for s in held) - sum(s["came"] for s in held)) for held in bins.values()]
        return sum(gaps) / sum(len(held) for held in bins.values())


def slow_backtest(panel: Panel, models: list[Forecaster], protocol: Protocol) -> tuple[dict[Key, SlowBook], int]:
    """Every row by itself: fitted on what lies the longest horizon before the test, judged where all know something."""
    books: dict[Key, SlowBook] = defaultdict(SlowBook)
    for model in models:
        model.fit(panel, min(protocol.train_until, protocol.test_from - max(protocol.spec.horizons)))
    origins = 0
    for place, tick in enumerate(panel.ticks.tolist()):
        at = tick.replace(tzinfo=UTC)
        if not protocol.test_from <= at < protocol.test_until:
            continue
        forecasts = {model.name: next(model.predict(panel, panel.ticks[[place]])) for model in models}
        anything = False
        for station in range(len(panel.stations)):
            for t, channel in enumerate(CHANNELS):
                here = panel.observed[place, station, channel] and panel.open[place, station]
                anything |= bool(here)
                if not here or not all(forecast.known[0, station, t] for forecast in forecasts.values()):
                    continue
                for h, horizon in enumerate(protocol.spec.horizons):
                    then = place + int(horizon / panel.step)
                    if then >= len(panel) or not panel.observed[then, station, channel]:
                        continue
                    if not panel.trusted[then, station]:
                        continue
                    truth, now = int(panel.counts[then, station, channel]), int(panel.counts[place, station, channel])
                    for name, forecast in forecasts.items():
                        scores = slow_scores(forecast, station, h, t, truth, now)
                        books[name, h, t].rows.append((station, at.astimezone(PARIS), scores))
        origins += anything
    return books, origins


@pytest.fixture(scope="module")
def slow(city: Panel) -> tuple[dict[Key, SlowBook], int]:
    return slow_backtest(city, [Persistence(SPEC), PersistenceDelta(SPEC), Forgetful(SPEC)], PROTOCOL)


def cells(rows: list[dict[str, Any]], h: int, t: int) -> list[dict[str, Any]]:
    """The rows of a table of one horizon and target."""
    named = (SPEC.targets[t], format_duration(SPEC.horizons[h]))
    return [row for row in rows if (row["target"], row["horizon"]) == named]


def close(value: float) -> Any:
    return pytest.approx(value, rel=2e-4, abs=2e-6)


# -- against it ----------------------------------------------------------------------------------------------


def test_all_scores_are_those_of_the_slow_loops(result: Backtest, slow: tuple[dict[Key, SlowBook], int]) -> None:
    books, origins = slow
    data = report(result)
    assert data["origins"] == origins
    assert list(data["models"]) == ["persistence", "persistence_delta", "forgetful"]
    assert len(books) == 3 * 3 * 2
    for (name, h, t), book in books.items():
        (row,) = cells(data["models"][name]["scores"], h, t)
        base = books["persistence", h, t]
        assert row["rows"] == len(book.rows) > 400
        assert row["rps"] == close(book.mean("rps"))
        assert row["mae_median"] == close(book.mean("abs_median"))
        assert row["mae_mean"] == close(book.mean("abs_mean"))
        assert row["rmse_mean"] == close(sqrt(book.mean("square_mean")))
        assert row["brier"] == close(book.mean("brier"))
        assert row["log_score"] == close(book.mean("log"))
        assert row["coverage_80"] == close(book.mean("covered_80"))
        assert row["coverage_90"] == close(book.mean("covered_90"))
        assert row["rows_undecided"] == book.total("undecided")
        assert 0 < row["rows_undecided"] < row["rows"]
        assert row["brier_undecided"] == close(book.total("brier_undecided") / book.total("undecided"))
        assert row["truth_above_k"] == book.total("above_k")
        assert row["ece"] == close(book.calibration_error(undecided=False))
        assert row["ece_undecided"] == close(book.calibration_error(undecided=True))
        assert row["skill_rps"] == pytest.approx(1 - book.mean("rps") / base.mean("rps"), abs=1e-4)
        assert row["skill_mae"] == pytest.approx(1 - book.mean("abs_median") / base.mean("abs_median"), abs=1e-4)
    assert sum(book.total("above_k") for book in books.values()) > 0


def test_scores_by_day_hour_and_station_are_those_of_the_slow_loops(
    result: Backtest, slow: tuple[dict[Key, SlowBook], int]
) -> None:
    data = report(result)
    for (name, h, t), book in slow[0].items():
        tables = data["models"][name]
        parts: list[tuple[str, Any]] = [
            ("day", lambda at: at.date().isoformat()),
            ("hour", lambda at: at.hour),
            ("weekday", lambda at: at.weekday()),
        ]
        for axis, of in parts:
            counted: dict[Any, int] = defaultdict(int)
            for _, at, _ in book.rows:
                counted[of(at)] += 1
            found = cells(tables[f"by_{axis}"], h, t)
            assert {row[axis]: row["rows"] for row in found} == counted
            for row in found:
                expected = book.mean("rps", lambda _, at, of=of, key=row[axis]: of(at) == key)
                assert row["rps"] == close(expected)
        (by_station,) = cells(tables["by_station"], h, t)
        (summary,) = cells(tables["stations"], h, t)
        base, told, not_worse = slow[0]["persistence", h, t], 0, 0
        for station, rps in enumerate(by_station["rps"]):
            rows = [row for row in book.rows if row[0] == station]
            assert (rps is None) == (len(rows) < 20)
            if rps is None:
                continue
            ours, theirs = (b.mean("rps", lambda s, _, place=station: s == place) for b in (book, base))
            assert rps == close(ours)
            assert by_station["skill_rps"][station] == pytest.approx(1 - ours / theirs, abs=1e-4)
            told, not_worse = told + 1, not_worse + (ours <= theirs)
        assert summary["stations"] == told > 0
        assert summary["share_rps_not_worse"] == pytest.approx(not_worse / told)
    assert data["days"] == ["2024-10-29", "2024-10-30", "2024-10-31"]


def test_all_models_are_judged_on_the_same_rows(city: Panel, result: Backtest) -> None:
    """What one model does not know counts for none."""
    rows = [entry.book.by_station[..., 0] for entry in result.judged.values()]
    for other in rows[1:]:
        np.testing.assert_array_equal(rows[0], other)
    alone = backtest(city, ["persistence_delta"], PROTOCOL)
    assert alone.judged["persistence_delta"].book.total[..., 0].sum() > rows[0].sum()
    assert [row[..., 0].sum() for row in rows] == [rows[0][..., 0].sum()] * 3


def test_persistence_is_row_one_and_judged_once(result: Backtest, city: Panel) -> None:
    assert next(iter(result.judged)) == "persistence"
    short = replace(PROTOCOL, test_until=PROTOCOL.test_from + 2 * HOUR)
    named = backtest(city, ["persistence_delta", "persistence"], short)
    assert list(named.judged) == ["persistence", "persistence_delta"]
    scores = report(named)["models"]["persistence"]["scores"]
    assert all(row["skill_rps"] == row["skill_mae"] == 0 for row in scores)
    lines = as_table(report(named)).splitlines()
    assert [line.split()[2] for line in lines[2:4]] == ["persistence", "persistence_delta"]
    assert lines[0].startswith("small: 8 origins, 7 stations; no intervals")


# -- what is read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pause", "fitted"),
    [(timedelta(0), START + 6 * DAY - 4 * HOUR), (3 * HOUR, START + 6 * DAY - HOUR), (DAY, START + 6 * DAY)],
)
def test_training_ends_the_longest_horizon_before_the_first_origin(
    city: Panel, pause: timedelta, fitted: datetime
) -> None:
    start = PROTOCOL.test_from + pause
    protocol = replace(PROTOCOL, test_from=start, test_until=start + HOUR)
    assert protocol.fitted_until == fitted
    model = Forgetful(SPEC)
    backtest(city, [model], protocol)
    assert model.report is not None
    assert model.report.until == protocol.as_dict()["fitted_until"] == f"{fitted:%Y-%m-%dT%H:%M:%SZ}"


def test_training_begins_where_the_protocol_says(city: Panel) -> None:
    """However far back the panel reaches."""
    protocol = replace(PROTOCOL, train_from=START + 2 * DAY, test_until=PROTOCOL.test_from + HOUR)
    models = {}
    for first in (0, 96 * 2):
        model = PersistenceDelta(SPEC)
        backtest(city.between(first, len(city)), [model], protocol)
        models[first] = model
    assert models[0].report == models[96 * 2].report
    np.testing.assert_array_equal(models[0].table, models[96 * 2].table)
    np.testing.assert_array_equal(models[0].largest, models[96 * 2].largest)


class Kept(PersistenceDelta):
    """Keeps what it forecast."""

    name = "kept"

    def __init__(self, spec: ForecastSpec) -> None:
        super().__init__(spec)
        self.forecasts: dict[int, bytes] = {}

    def predict(self, panel: Panel, origins: Ticks) -> Iterator[Forecast]:
        for forecast in super().predict(panel, origins):
            self.forecasts[int(panel.before(forecast.origins[0].item().replace(tzinfo=UTC)))] = (
                forecast.pmf.tobytes() + forecast.k.tobytes() + forecast.known.tobytes()
            )
            yield forecast


@pytest.mark.parametrize("later", [0, 1, 60])
def test_nothing_after_an_origin_changes_its_forecast_nor_what_was_learned(city: Panel, later: int) -> None:
    """Everything from a tick on is replaced: what was forecast before stays, bit for bit."""
    changed_from = 96 * 6 + later
    ones, others = Kept(SPEC), Kept(SPEC)
    protocol = replace(PROTOCOL, test_until=PROTOCOL.test_from + DAY)
    backtest(city, [ones], protocol)
    backtest(disturbed(city, changed_from), [others], protocol)
    assert ones.report == others.report
    np.testing.assert_array_equal(ones.table, others.table)
    before = [place for place in ones.forecasts if place < changed_from]
    assert len(before) == later
    for place in before:
        assert ones.forecasts[place] == others.forecasts[place]
    assert ones.forecasts[96 * 6 + 65] != others.forecasts[96 * 6 + 65]  # the disturbance is one


def test_nothing_at_or_after_the_end_of_fitting_changes_the_fit(city: Panel) -> None:
    end = city.before(PROTOCOL.fitted_until)
    fits = []
    for panel in (city, disturbed(city, end), disturbed(city, end - 1)):
        model = PersistenceDelta(SPEC)
        backtest(panel, [model], replace(PROTOCOL, test_until=PROTOCOL.test_from + HOUR))
        fits.append(model)
    np.testing.assert_array_equal(fits[0].table, fits[1].table)
    np.testing.assert_array_equal(fits[0].largest, fits[1].largest)
    assert (fits[0].table != fits[2].table).any()


class Counting(Persistence):
    """Counts what it has forecast, and what of it is still held by anyone."""

    name = "counting"

    def __init__(self, spec: ForecastSpec) -> None:
        super().__init__(spec)
        self.made: list[weakref.ref[Forecast]] = []

    def predict(self, panel: Panel, origins: Ticks) -> Iterator[Forecast]:
        for place in range(len(origins)):
            forecast = next(super().predict(panel, origins[place : place + 1]))
            self.made.append(weakref.ref(forecast))
            yield forecast
            del forecast


def test_forecasts_are_asked_for_one_by_one_and_let_go(city: Panel) -> None:
    model = Counting(SPEC)
    told: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))
        if phase == "test":
            assert len(model.made) == done
            assert sum(made() is not None for made in model.made) <= 2

    result = backtest(city, [model], PROTOCOL, progress=progress)
    assert len(model.made) == result.origins > 150
    assert told[:2] == [("fit persistence", 0, 2), ("fit counting", 1, 2)]
    assert told[-1] == ("test", result.origins - 1, result.origins)
    assert result.judged["counting"].predict_s > 0


# -- the report ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_city() -> Panel:
    return small_city(seed=4, days=14, stations=5)


def over_days(panel: Panel, days: int, **changes: Any) -> dict[str, Any]:
    """The report of a test of that many days, which are Paris's own, with an origin every hour."""
    spec = ForecastSpec(horizons=(HOUR,), targets=("bikes", "ebikes"))
    start = datetime(2024, 10, 27, 23, tzinfo=UTC)  # midnight after the clocks went back
    protocol = Protocol(spec, START, START + 3 * DAY, start, start + days * DAY, 15 * MINUTE)
    panel = replace(panel, **changes)
    observed = panel.observed.copy()
    observed[(np.arange(len(panel)) >= 96 * 3) & (np.arange(len(panel)) % 4 > 0)] = False
    panel = replace(panel, observed=observed)
    return report(backtest(panel, ["persistence_delta"], protocol))


def test_intervals_are_given_from_eight_days_on(long_city: Panel) -> None:
    assert LEAST_DAYS == 8
    for days in (7, 8):
        data = over_days(long_city, days)
        assert len(data["days"]) == days
        for row in data["models"]["persistence_delta"]["scores"]:
            if days < 8:
                assert row["skill_rps_low"] is row["skill_rps_high"] is None
            else:
                assert row["skill_rps_low"] < row["skill_rps"] < row["skill_rps_high"]
        assert data["intervals"].startswith("no intervals: 7 test days" if days < 8 else "90 % intervals")


def test_days_without_a_row_count_for_no_interval_and_leave_no_nan(long_city: Panel) -> None:
    """E-bikes are told of on one day of eight only."""
    observed = long_city.observed.copy()
    observed[96 * 5 + 48 :, :, EBIKES] = False
    data = over_days(long_city, 8, observed=observed)
    json.dumps(data, allow_nan=False)
    rows = {row["target"]: row for row in data["models"]["persistence_delta"]["scores"]}
    assert rows["bikes"]["skill_rps_low"] is not None
    assert rows["ebikes"]["rows"] > 0
    assert rows["ebikes"]["skill_rps_low"] is rows["ebikes"]["skill_rps_high"] is None


def test_the_report_is_plain_json_even_where_nothing_could_be_scored(result: Backtest, city: Panel) -> None:
    data = report(result)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    unplaced = replace(city.stations, lat=np.full(7, np.nan), lon=np.full(7, np.nan))
    short = replace(PROTOCOL, test_from=START + 8 * DAY - 2 * HOUR, train_until=START + 7 * DAY)
    partly = report(backtest(replace(city, stations=unplaced), ["persistence_delta"], short))
    text = json.dumps(partly, allow_nan=False)
    assert json.loads(text)["places"]["lat"] == [None] * 7
    last = cells(partly["models"]["persistence"]["scores"], 2, 0)[0]  # truths lie after the panel's end
    assert (last["rows"], last["rps"], last["ece"], last["skill_rps"]) == (0, None, None, None)
    assert cells(partly["models"]["persistence"]["scores"], 0, 0)[0]["rows"] > 0
    assert "4h" not in as_table(partly)


def test_the_report_says_what_was_fitted_and_judged(result: Backtest) -> None:
    data = report(result)
    assert data["protocol"]["horizons"] == ["15m", "1h", "4h"]
    assert data["protocol"]["tolerance"] == "15m"
    assert data["models"]["persistence_delta"]["fit"]["until"] == "2024-10-28T20:00:00Z"
    assert len(data["examples"]) == 2 * 3  # two hours, three stations
    for chart in data["examples"]:
        assert set(chart["models"]) <= set(data["models"])
        assert len(chart["target_at"]) == 3


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"test_from": START + 5 * DAY}, "inside the training window, which ends at 2024-10-29T00:00:00Z"),
        ({"test_until": PROTOCOL.test_from}, "the test window is empty"),
        ({"test_until": PROTOCOL.test_from - DAY}, "the test window is empty"),
        ({"train_from": PROTOCOL.train_until}, "the training window is empty"),
    ],
)
def test_windows_that_cannot_be_meant_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        replace(PROTOCOL, **changes)


@pytest.mark.parametrize("name", ["train_from", "train_until", "test_from", "test_until"])
def test_a_naive_time_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="naive time"):
        replace(PROTOCOL, **{name: getattr(PROTOCOL, name).replace(tzinfo=None)})


def test_a_test_of_the_last_days_needs_days_before_them(city: Panel) -> None:
    protocol = Protocol.last_days(city, SPEC, 2)
    assert (protocol.train_from, protocol.train_until) == (START, START + 6 * DAY)
    assert (protocol.test_from, protocol.test_until) == (START + 6 * DAY, START + 8 * DAY)
    with pytest.raises(UsageError, match="nothing to train on before its last 8 days"):
        Protocol.last_days(city, SPEC, 8)


def test_models_that_cannot_be_meant_are_refused_before_any_is_fitted(city: Panel) -> None:
    kept = Kept(SPEC)
    refused: list[tuple[list[str | Forecaster], str]] = [
        ([kept, "oracle"], "unknown model 'oracle'; there are: persistence"),
        ([kept, "persistence_delta", "persistence_delta"], "each model once, please: .*persistence_delta"),
        ([kept, PersistenceDelta(ForecastSpec(targets=("bikes",)))], "persistence_delta was made for other"),
    ]
    for models, reason in refused:
        with pytest.raises(UsageError, match=reason):
            backtest(city, models, PROTOCOL)
        assert kept.report is None


def test_a_test_without_observations_or_without_a_truth_is_refused(city: Panel, tmp_path: Path) -> None:
    observed = city.observed.copy()
    observed[96 * 6 :] = False
    with pytest.raises(UsageError, match="has no observation between 2024-10-29T00:00:00Z and 2024-10-31"):
        backtest(replace(city, observed=observed), [], PROTOCOL)
    with pytest.raises(UsageError, match="has no observation between 2024-11-10"):
        backtest(city, [], replace(PROTOCOL, test_from=START + 18 * DAY, test_until=START + 19 * DAY))
    trusted = city.trusted.copy()
    trusted[96 * 6 :] = False
    out = tmp_path / "forecasts.parquet"
    with pytest.raises(UsageError, match="not one row can be scored"):
        backtest(replace(city, trusted=trusted), [], PROTOCOL, forecasts_out=out)
    assert list(tmp_path.iterdir()) == []


def test_too_little_history_says_how_much_there_is_and_is_needed(city: Panel) -> None:
    early = replace(PROTOCOL, train_until=START + HOUR, test_from=START + 6 * DAY)
    with pytest.raises(HistoryError, match=r"to fit persistence: 4 usable ticks .* 17 are needed"):
        backtest(city, ["persistence_delta"], early)


def test_a_model_can_be_given_by_name_or_made(city: Panel) -> None:
    short = replace(PROTOCOL, test_until=PROTOCOL.test_from + HOUR)
    ones = backtest(city, ["persistence_delta"], short)
    others = backtest(city, [forecaster("persistence_delta")(SPEC)], short)
    left, right = (entry.judged["persistence_delta"].book.by_station for entry in (ones, others))
    np.testing.assert_array_equal(left, right)
