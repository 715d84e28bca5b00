"""Differences between models against plain loops over rows, and who is compared with whom."""

from datetime import UTC, datetime, timedelta
from math import isclose

import numpy as np
import pytest

from tests.test_models.panels import small_city
from velib_predictor.data.panel import BIKES, EBIKES, Panel
from velib_predictor.evaluation.comparison import ALL, as_lines, differences, reference, verdict
from velib_predictor.evaluation.evaluator import Backtest, Protocol, backtest
from velib_predictor.evaluation.report import as_table, report
from velib_predictor.evaluation.scores import METRICS, ScoreBook
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import forecaster
from velib_predictor.utils.errors import UsageError

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 10, 23, tzinfo=UTC)  # of the small city
FIRST = datetime(2024, 10, 27, 23, tzinfo=UTC)  # a midnight in Paris
SPEC = ForecastSpec(horizons=(30 * MINUTE, HOUR), targets=("bikes", "ebikes"))
CHANNELS = (BIKES, EBIKES)
NAMES = ["persistence_delta", "climatology"]


def protocol(days: int) -> Protocol:
    return Protocol(SPEC, START, FIRST, FIRST, FIRST + days * DAY, 15 * MINUTE)


@pytest.fixture(scope="module")
def city() -> Panel:
    """Seen every hour in the test, so that it is quick."""
    panel = small_city(seed=4, days=14, stations=5)
    observed = panel.observed.copy()
    at = np.arange(len(panel))
    observed[(at >= panel.before(FIRST)) & (at % 2 > 0)] = False
    return Panel(**{**panel.__dict__, "observed": observed})


@pytest.fixture(scope="module")
def result(city: Panel) -> Backtest:
    return backtest(city, NAMES, protocol(8))


def slow_mean(panel: Panel, model: str, test: Protocol, horizon: int, target: int) -> tuple[float, int]:
    """The mean RPS of one cell, row by row."""
    made = forecaster(model)(SPEC)
    made.fit(panel, test.fitted_until)
    scores = []
    for place in range(panel.before(test.test_from), panel.before(test.test_until)):
        forecast = next(made.predict(panel, panel.ticks[[place]]))
        then, channel = place + int(SPEC.horizons[horizon] / panel.step), CHANNELS[target]
        for station in range(len(panel.stations)):
            known = panel.observed[place, station, channel] and panel.open[place, station]
            if not known or not panel.observed[then, station, channel] or not panel.trusted[then, station]:
                continue
            cdf = algebra.to_cdf(forecast.pmf[0, station, horizon, target])
            came = min(int(panel.counts[then, station, channel]), int(forecast.k[0, station]))
            scores.append(sum((float(f) - (came <= count)) ** 2 for count, f in enumerate(cdf)))
    return sum(scores) / len(scores), len(scores)


def test_a_difference_is_that_of_the_slow_loops(city: Panel, result: Backtest) -> None:
    data = report(result, "climatology")
    (row,) = [
        row
        for row in data["differences"]
        if (row["model"], row["target"], row["horizon"]) == ("persistence_delta", "ebikes", "1h")
    ]
    ours, count = slow_mean(city, "persistence_delta", protocol(8), 1, 1)
    theirs, _ = slow_mean(city, "climatology", protocol(8), 1, 1)
    assert row["reference"] == "climatology"
    assert (row["rows"], row["days"]) == (count, 8)
    assert isclose(row["rps"], ours, rel_tol=1e-4)
    assert isclose(row["rps_reference"], theirs, rel_tol=1e-4)
    assert isclose(row["difference"], ours - theirs, rel_tol=1e-3)
    assert row["low"] < row["difference"] < row["high"]


def test_the_whole_is_the_mean_of_its_cells_weighed_by_rows(result: Backtest) -> None:
    rows = [row for row in report(result)["differences"] if row["model"] == "persistence"]
    cells = [row for row in rows if row["horizon"] != ALL]
    assert len(cells) == 4
    for whole in (row for row in rows if row["horizon"] == ALL):
        parts = [row for row in cells if whole["target"] in (ALL, row["target"])]
        assert whole["rows"] == sum(row["rows"] for row in parts)
        mean = sum(row["difference"] * row["rows"] for row in parts) / whole["rows"]
        assert whole["difference"] == pytest.approx(mean)
        assert whole["low"] < whole["difference"] < whole["high"]


def test_the_reference_is_the_best_baseline_and_nothing_more_learned(result: Backtest) -> None:
    books = {name: entry.book for name, entry in result.judged.items()}
    best = min(books, key=lambda name: books[name].total[..., METRICS.index("rps")].sum())
    assert reference(books) == best != "persistence"
    assert reference({"stid": books[best], "persistence": books["persistence"]}) == "persistence"
    assert reference({"stid": books["persistence"], "other": books[best]}) == "other", "with no baseline, the best"
    assert {row["model"] for row in differences(books, SPEC)} == set(books) - {best}
    assert {row["reference"] for row in differences(books, SPEC)} == {best}


def test_seven_days_tell_no_interval(city: Panel) -> None:
    rows = report(backtest(city, ["persistence_delta"], protocol(7)))["differences"]
    assert rows
    assert all(row["low"] is row["high"] is None and row["days"] == 7 for row in rows)
    assert {verdict(row) for row in rows} == {"too few days to tell"}


def test_cells_without_a_row_are_left_out_and_days_without_one_are_not_counted() -> None:
    ours, theirs = ScoreBook(1, 2, 2), ScoreBook(1, 2, 2)
    for book, rps in ((ours, 1.0), (theirs, 3.0)):
        for day in range(9):
            sums = np.zeros((2, 2, len(METRICS)))
            if day:
                sums[0, 0, METRICS.index("rows")], sums[0, 0, METRICS.index("rps")] = 10, rps * (day + 1)
            book.days.append(day)
            book.by_day.append(sums)
    rows = differences({"ours": ours, "theirs": theirs}, SPEC, "theirs")
    assert [(row["target"], row["horizon"]) for row in rows] == [(ALL, ALL), ("bikes", ALL), ("bikes", "30m")]
    assert {row["days"] for row in rows} == {8}
    assert verdict(rows[0]) == "better"
    assert verdict(differences({"ours": ours, "theirs": theirs}, SPEC, "ours")[0]) == "worse"
    assert "ours minus theirs: -1.1000 (" in as_lines(rows)[0]


def test_the_table_for_people_ends_with_the_differences(result: Backtest) -> None:
    data = report(result)
    base = data["differences"][0]["reference"]
    lines = as_table(data).splitlines()[-2:]
    assert all(f"minus {base}: +" in line and line.endswith("worse") for line in lines)


def test_whom_nobody_judged_cannot_be_compared_with(result: Backtest) -> None:
    with pytest.raises(UsageError, match="compared with 'xgboost': it is not judged; there are: persistence, pers"):
        report(result, "xgboost")
