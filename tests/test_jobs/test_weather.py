"""The weather from the server to the served forecast: stored hourly, known from then on, and missed without harm."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, func, select

from tests.command_line import runner
from tests.test_data.simulated import JumpingClock
from tests.test_data.test_known_weather import some_weather
from tests.test_inference.test_predictor import START
from tests.test_jobs.conftest import DAY, FITTED_UNTIL, HOUR, MINUTE, QUARTER, SPEC
from tests.test_simulation.small import START as CITY_START
from tests.test_simulation.small import city, living
from velib_predictor.config.config import Settings
from velib_predictor.config.outside import WeatherSettings
from velib_predictor.data import outside
from velib_predictor.data.database import Database
from velib_predictor.data.known_weather import KnownWeather, WeatherSource
from velib_predictor.data.panel import Panel, same_layout
from velib_predictor.data.schema import StationVersion, Weather
from velib_predictor.data.weather_store import store_weather
from velib_predictor.inference.live import LivePanel
from velib_predictor.inference.predictor import forecast_at
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import IssueJob
from velib_predictor.jobs.scheduler import Scheduler
from velib_predictor.jobs.weather import WeatherJob, weather_jobs
from velib_predictor.models.base import Forecaster, forecaster
from velib_predictor.simulation.clock import Clock
from velib_predictor.simulation.server import CityServer
from velib_predictor.simulation.simulation import Simulation

NOW = START + 8 * DAY + 12 * HOUR + 7 * MINUTE


def weather_of_town(seed: int = 0) -> KnownWeather:
    """Forecasts of the town's nine days and the day before, one every 55 minutes."""
    weather = some_weather(10 * 24 * 60 // 55, seed, 55)
    shift = np.datetime64((START - DAY).replace(tzinfo=None)) - weather.issued[0]
    return KnownWeather(weather.issued + shift, weather.values)


@pytest.fixture
def weathered(stored: Database) -> Database:
    """The town with its weather."""
    store_weather(stored, "town", weather_of_town())
    return stored


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The town has seven days to learn from."""
    monkeypatch.setattr(outside, "LEAST_WEATHER_DAYS", 5)


@pytest.fixture(scope="module", params=["linear", "xgboost"])
def model(request: pytest.FixtureRequest, town_file: Path) -> Forecaster:
    panel = Panel.load(f"sqlite:///{town_file}", "town", START, FITTED_UNTIL)
    made = forecaster(request.param)(SPEC)
    made.most_rows = 6_000  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outside, "LEAST_WEATHER_DAYS", 5)
        made.fit(replace(panel, weather=weather_of_town().until(panel.ticks)), FITTED_UNTIL)
    return made


def test_what_is_served_is_what_the_backtest_says(weathered: Database, model: Forecaster, tmp_path: Path) -> None:
    """Bit for bit, from the database, from the live panel, and by the model read back from its folder."""
    panel = Panel.load(weathered, "town", START, START + 9 * DAY)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    live = LivePanel(weathered, "town", step=QUARTER, tolerance=QUARTER, lookback=loaded.lookback)
    for origin in (NOW - 7 * MINUTE, NOW + 8 * MINUTE, NOW + 3 * HOUR + 8 * MINUTE):
        place = panel.before(origin + MINUTE) - 1
        expected = next(model.predict(panel, panel.ticks[[place]]))
        served = forecast_at(loaded, weathered, "town", origin)
        np.testing.assert_array_equal(served.forecast.pmf, expected.pmf)
        seen = live.at(origin)
        anew = Panel.load(weathered, "town", origin - loaded.lookback * QUARTER, origin + timedelta(microseconds=1))
        assert same_layout(replace(seen, trusted=anew.trusted), anew)
        assert len(seen.weather) > 100
        np.testing.assert_array_equal(next(loaded.predict(seen, seen.ticks[-1:])).pmf, expected.pmf)
        assert loaded.weather_of(seen) is WeatherSource.FORECAST
    with weathered.write() as connection:
        connection.execute(delete(Weather))
    without = forecast_at(loaded, weathered, "town", NOW)
    assert not np.array_equal(without.forecast.pmf, forecast_at(loaded, weathered, "town", NOW + QUARTER).forecast.pmf)
    assert loaded.weather_of(without.panel) is WeatherSource.CLIMATOLOGY


def test_weather_that_is_stored_late_is_seen_by_the_live_panel(weathered: Database) -> None:
    live = LivePanel(weathered, "town", step=QUARTER, tolerance=QUARTER, lookback=40)
    with weathered.write() as connection:
        connection.execute(delete(Weather))
    assert not len(live.at(NOW - 7 * MINUTE).weather)
    store_weather(weathered, "town", weather_of_town())
    assert len(live.at(NOW + 8 * MINUTE).weather) > 30


def test_an_issue_says_what_it_knew_of_the_weather(weathered: Database, model: Forecaster, settings: Settings) -> None:
    ModelStore(settings.models_dir).add(model, "town")
    asked = settings.model_copy(update={"forecast": settings.forecast.model_copy(update={"model": model.name})})
    job = IssueJob(asked, weathered, "town", JumpingClock(NOW, NOW + DAY))  # type: ignore[arg-type]
    assert job.run(NOW).weather is WeatherSource.FORECAST

    def forget(since: datetime) -> None:
        with weathered.write() as connection:
            connection.execute(delete(Weather).where(Weather.issued_at > since))

    forget(NOW - 5 * HOUR)
    assert job.run(NOW).weather is WeatherSource.CACHE
    forget(NOW - 25 * HOUR)
    assert job.run(NOW).weather is WeatherSource.CLIMATOLOGY
    other = settings.model_copy(update={"forecast": settings.forecast.model_copy(update={"model": "climatology"})})
    plain = IssueJob(other, weathered, "town", JumpingClock(NOW, NOW + DAY))  # type: ignore[arg-type]
    assert plain.run(NOW).weather is WeatherSource.NONE


# -- the job -------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[CityServer]:
    with CityServer(living(), Clock(CITY_START, 0)) as server:
        yield server


def with_weather(settings: Settings, server: CityServer) -> Settings:
    return settings.model_copy(update={"weather": WeatherSettings(url=server.weather_url)})


def count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count(Weather.issued_at.distinct()))).scalar_one())


def job_of(server: CityServer, database: Database, settings: Settings) -> WeatherJob:
    return WeatherJob(with_weather(settings, server), database, "town", server.clock)  # type: ignore[arg-type]


def test_each_hour_one_forecast_is_stored_whatever_happens(
    server: CityServer, stored: Database, settings: Settings
) -> None:
    job = job_of(server, stored, settings)
    told = []
    for hour in range(6):
        for minutes in (0, 10, 30):  # it looks more often than it asks
            now = CITY_START + hour * HOUR + minutes * MINUTE
            server.clock.set(now)
            server.weather_faults.set(status=500 if hour in (2, 3) else 0)
            job.run(now)
        told.append(count(stored))
    assert told == [1, 2, 2, 2, 3, 4]
    assert (settings.data_dir / "external" / "weather" / "town.json").is_file()
    with stored.read() as connection:
        times = connection.execute(select(Weather.issued_at).distinct().order_by(Weather.issued_at)).scalars().all()
    assert times == [CITY_START + hour * HOUR for hour in (0, 1, 4, 5)]


def test_it_asks_for_the_middle_of_the_stations(server: CityServer, stored: Database, settings: Settings) -> None:
    with stored.read() as connection:
        rows = connection.execute(select(StationVersion.lat, StationVersion.lon)).all()
    middle = np.median([tuple(row) for row in rows], axis=0)
    job = job_of(server, stored, settings)
    np.testing.assert_allclose(job._place(), middle)  # type: ignore[arg-type]
    with stored.write() as connection:
        connection.execute(delete(StationVersion))
    assert job.run(CITY_START) is None, "nobody knows where it is"
    assert count(stored) == 0


def test_without_an_address_there_is_no_job(stored: Database, settings: Settings, server: CityServer) -> None:
    assert weather_jobs(settings, stored, ["town"]) == []
    assert WeatherJob(settings, stored, "town").run(NOW) is None
    assert [job.name for job in weather_jobs(with_weather(settings, server), stored, ["town"])] == ["weather-town"]


def test_the_scheduler_fetches_at_the_start_and_ends_when_told(
    server: CityServer, stored: Database, settings: Settings
) -> None:
    clock = JumpingClock(CITY_START, CITY_START + 3 * HOUR)
    jobs = weather_jobs(with_weather(settings, server), stored, ["town"], clock)  # type: ignore[arg-type]
    stop = threading.Event()
    with Scheduler(jobs, stop, clock):  # type: ignore[arg-type]
        stop.wait(30)
    assert count(stored) == 3


@pytest.mark.parametrize("code", [0, 3])
def test_the_command_stores_it_and_says_if_there_is_none(
    code: int, stored: Database, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)  # the command lives by the machine's clock
    monkeypatch.setenv("VELIB_LOG_LEVEL", "ERROR")
    velib = runner(monkeypatch, capfd)
    with CityServer(Simulation(city(), now), Clock(now, 0)) as server:
        monkeypatch.setenv("VELIB_WEATHER__URL", server.weather_url)
        server.weather_faults.set(status=503 if code else 0)
        result = velib("weather", "--db", str(stored.url), "--json")
    assert result.code == code
    assert count(stored) == (0 if code else 1)
    assert (result.data[0]["issued_at"] is None) == bool(code)
    monkeypatch.setenv("VELIB_WEATHER__URL", "none")
    off = velib("weather", "--db", str(stored.url))
    assert off.code == 2
    assert "weather.url" in off.errors
