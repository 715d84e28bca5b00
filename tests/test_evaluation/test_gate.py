"""Two fitted models on days that neither has seen: the backtest's scores, and nobody is judged on his own days."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.test_models.panels import disturbed, small_city
from velib_predictor.data.panel import Panel
from velib_predictor.evaluation.evaluator import Protocol, backtest, judge
from velib_predictor.evaluation.gate import SURE_GAIN, compare, decide
from velib_predictor.evaluation.scores import METRICS
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Forecaster
from velib_predictor.models.baseline.persistence import Persistence, PersistenceDelta
from velib_predictor.utils.errors import UsageError

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 10, 23, tzinfo=UTC)  # of the small city
SPEC = ForecastSpec(horizons=(30 * MINUTE, HOUR), targets=("bikes", "docks"))
CUT, END = START + 5 * DAY, START + 5 * DAY + 10 * HOUR


class Blurred(PersistenceDelta):
    """Gives a third of the probability to counts that it knows nothing of."""

    name = "blurred"

    def _predict(self, seen: Panel) -> Forecast:
        forecast = super()._predict(seen)
        k = forecast.k[:, :, None, None, None].astype(np.float32)
        flat = np.where(np.arange(forecast.pmf.shape[-1]) <= k, 1 / (k + 1), 0).astype(np.float32)
        mixed = np.where(forecast.known[:, :, None, :, None], 0.67 * forecast.pmf + 0.33 * flat, 0)
        return replace(forecast, pmf=(mixed / np.maximum(mixed.sum(axis=-1, keepdims=True), 1e-9)).astype(np.float32))


@pytest.fixture(scope="module")
def city() -> Panel:
    return small_city()


def fitted(model: type[Forecaster], city: Panel, until: datetime = CUT) -> Forecaster:
    made = model(SPEC)
    made.fit(city, until)
    return made


def test_the_scores_are_those_of_a_backtest_that_fits_the_same_models(city: Panel) -> None:
    """Which leaves out the longest horizon before its test; so the models here are fitted until then, too."""
    protocol = Protocol(SPEC, START, CUT, CUT, END, 15 * MINUTE)
    whole = backtest(city, [Blurred(SPEC), PersistenceDelta(SPEC)], protocol)
    until = protocol.fitted_until
    models = {"ours": fitted(Blurred, city, until), "theirs": fitted(PersistenceDelta, city, until)}
    alone = judge(city, models, protocol)
    for name, here in (("blurred", "ours"), ("persistence_delta", "theirs"), ("persistence", "persistence")):
        left, right = whole.judged[name].book.by_station, alone.judged[here].book.by_station
        np.testing.assert_array_equal(left[..., METRICS.index("rows")], right[..., METRICS.index("rows")])
        if here != "persistence":  # which is fitted until the test begins: it learns K
            np.testing.assert_array_equal(left, right)


def test_the_better_one_wins_whichever_of_the_two_it_is(city: Panel) -> None:
    sharp, blurred = fitted(PersistenceDelta, city), fitted(Blurred, city)
    won, lost = compare(city, blurred, sharp, CUT, END), compare(city, sharp, blurred, CUT, END)
    assert (won["promoted"], lost["promoted"]) == (True, False)
    assert won["difference"] == pytest.approx(-lost["difference"])
    assert won["difference"] == pytest.approx(won["rps"] - won["rps_champion"])
    assert (won["rps"], won["rps_persistence"]) == (lost["rps_champion"], lost["rps_persistence"])
    assert won["difference"] / won["rps_champion"] < -SURE_GAIN
    assert {(row["target"], row["horizon"]) for row in won["cells"]} == {
        ("all", "all"), *((t, h) for t in SPEC.targets for h in ("all", "30m", "1h")),
    }  # fmt: skip


def test_who_was_fitted_on_a_day_of_the_test_is_not_judged(city: Panel) -> None:
    cheat, honest = fitted(PersistenceDelta, city, CUT + 15 * MINUTE), fitted(PersistenceDelta, city)
    for champion, challenger in ((cheat, honest), (honest, cheat)):
        with pytest.raises(UsageError, match=r"was fitted until 2024-10-28T00:15:00Z, which lies after the first"):
            compare(city, champion, challenger, CUT, END)


def test_nothing_in_the_test_reaches_a_model(city: Panel) -> None:
    """Everything from the cut on is another city: what is fitted until the cut is the same, bit for bit."""
    other = disturbed(city, city.before(CUT))
    ones, others = fitted(PersistenceDelta, city), fitted(PersistenceDelta, other)
    assert isinstance(ones, PersistenceDelta)
    assert isinstance(others, PersistenceDelta)
    np.testing.assert_array_equal(ones.table, others.table)
    assert compare(city, None, ones, CUT, END)["rps"] != compare(other, None, others, CUT, END)["rps"]


def test_other_horizons_cannot_be_compared(city: Panel) -> None:
    other = PersistenceDelta(ForecastSpec(horizons=(HOUR,), targets=("bikes",)))
    other.fit(city, CUT)
    with pytest.raises(UsageError, match="champion was made for other horizons or targets"):
        compare(city, other, fitted(PersistenceDelta, city), CUT, END)


def test_without_a_champion_persistence_is_to_be_beaten(city: Panel) -> None:
    assert compare(city, None, fitted(PersistenceDelta, city), CUT, END)["promoted"]
    found = compare(city, None, fitted(Persistence, city), CUT, END)
    assert found["rps"] == found["rps_persistence"]
    assert found["rps_champion"] is found["difference"] is None


ROW = {"rps": 0.9, "rps_reference": 1.0, "difference": -0.1, "low": None, "high": None, "days": 5}


@pytest.mark.parametrize(
    ("changes", "persistence", "promoted", "words"),
    [
        ({}, 2.0, True, "better than the champion by 10.0%"),
        ({"rps": 0.995, "difference": -0.005}, 2.0, False, "not better than the champion by 1%"),
        ({"rps": 1.0, "difference": 0.0}, 2.0, False, "not better"),
        (
            {"low": -0.2, "high": -0.01},
            2.0,
            True,
            "is better than the champion (RPS -0.1000 over 5 days, 90 % interval",
        ),
        ({"low": -0.2, "high": 0.01}, 2.0, False, "not surely better"),
        ({"low": 0.0, "high": 0.0, "difference": 0.0}, 2.0, False, "not surely better"),
        ({"low": 0.01, "high": 0.2, "difference": 0.1}, 2.0, False, "worse than the champion"),
        ({"low": -0.2, "high": -0.01}, 0.8, False, "worse than persistence (RPS 0.9000, persistence 0.8000)"),
        ({"rps_reference": 0.0, "rps": 0.0, "difference": 0.0}, 0.0, False, "not better"),
    ],
)
def test_who_wins(changes: dict[str, float], persistence: float, promoted: bool, words: str) -> None:
    found, reason = decide(ROW | changes, persistence, True)
    assert found is promoted
    assert words in reason
