"""A town's stored history, copied for each test, and settings that keep models in the test's own folder."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.test_inference.test_predictor import START, Town, make_town
from tests.test_inference.test_predictor import town_file as stored_town
from velib_predictor.config.config import ForecastSettings, Settings
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Forecaster, forecaster

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
QUARTER = 15 * MINUTE
SPEC = ForecastSpec(horizons=(QUARTER, HOUR, 2 * HOUR), targets=("bikes", "ebikes", "docks"))
FITTED_UNTIL = START + 7 * DAY


def restless_town() -> Town:
    """On the last day a value of station 6 is taken back at once: nobody believes it."""
    town = make_town()
    jump = START + 8 * DAY + 4 * HOUR + 10 * MINUTE + timedelta(seconds=20)
    of_six = [row for row in town.rows if row["station"] == "6" and row["observed_at"] < jump - 5 * MINUTE]
    town.rows = [
        row for row in town.rows
        if row["station"] != "6" or abs(row["observed_at"] - jump) > 5 * MINUTE
    ]  # fmt: skip
    before = of_six[-1]
    there = {**before, "observed_at": jump, "bikes": before["bikes"] + 9, "docks": before["docks"] + 9}
    town.rows += [there, *({**before, "observed_at": jump + later} for later in (-5 * MINUTE, 5 * MINUTE))]
    return town


@pytest.fixture(scope="session")
def town_file(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored_town(restless_town(), sqlite_template, tmp_path_factory.mktemp("town"))


@pytest.fixture
def stored(town_file: Path, tmp_path: Path) -> Iterator[Database]:
    """The town's nine days, in a database of the test's own."""
    shutil.copy(town_file, tmp_path / "town.db")
    database = Database(f"sqlite:///{tmp_path}/town.db")
    yield database
    database.close()


@pytest.fixture(scope="session")
def panel(town_file: Path) -> Panel:
    """All of it."""
    return Panel.load(f"sqlite:///{town_file}", "town", START, START + 9 * DAY)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    forecast = ForecastSettings(tolerance=QUARTER, train_model="persistence_delta", train_days=6)
    return Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models", forecast=forecast)


def fitted(name: str, panel: Panel, spec: ForecastSpec = SPEC) -> Forecaster:
    model = forecaster(name)(spec)
    model.fit(panel, FITTED_UNTIL)
    return model
