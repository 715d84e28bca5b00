"""Parity: what is served from the database is, bit for bit, what the backtest says of that instant."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert

from tests.test_models.learned import can_be_fitted, tiny
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.schema import Poll, StationStatus, System
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.inference.live import LivePanel
from velib_predictor.inference.predictor import forecast_at, newest_observation, only_system
from velib_predictor.models.base import Forecaster, forecaster
from velib_predictor.utils.errors import DegradedError, UsageError

START = datetime(2024, 11, 4, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
POLL = 5 * MINUTE
DAYS = 9
UNTIL = START + 7 * DAY + 12 * HOUR
Models = dict[str, Forecaster]
SPEC = ForecastSpec(horizons=(15 * MINUTE, HOUR, 2 * HOUR), targets=("bikes", "ebikes", "docks"))
STATIONS = 9
SILENT = (START + 8 * DAY + 20 * HOUR, START + 8 * DAY + 22 * HOUR)
"""When the feed was down last."""
ORIGINS = tuple(
    START + 7 * DAY + ahead for ahead in (13 * HOUR, 20 * HOUR, 30 * HOUR, 36 * HOUR + 15 * MINUTE, 47 * HOUR)
)


@dataclass
class Town:
    """Rows and polls, as a collector would have written them."""

    rows: list[dict[str, Any]]
    polls: list[tuple[datetime, str]]

    def store(self, database: Database, system_id: str = "town") -> None:
        with database.write() as connection:
            system = ensure_system(connection, system_id, timezone="Europe/Paris")
            book = StationBook(connection, system)
            known = [
                StationInfo(
                    str(n),
                    f"code {n}",
                    f"Place {n}",
                    48.85 + 0.004 * (n % 3),
                    2.35 + 0.005 * (n // 3),
                    20 if n else None,
                )
                for n in range(STATIONS)
            ]
            book.register(connection, known[:-1], START)
            book.register(connection, known[-1:], START + 8 * DAY)
            keys = book.all_names()
            rows = [{**row, "station_key": keys[row["station"]]} for row in self.rows]
            for row in rows:
                del row["station"]
            connection.execute(insert(StationStatus), rows)
            connection.execute(
                insert(Poll), [{"system_key": system, "polled_at": at, "outcome": said} for at, said in self.polls]
            )


def town_file(town: Town, template: Path, folder: Path) -> Path:
    """The town in `velib.db` of a folder, from an empty database that was upgraded."""
    file = folder / "velib.db"
    shutil.copy(template, file)
    database = Database(f"sqlite:///{file}")
    town.store(database)
    database.close()
    return file


def make_town() -> Town:
    """Nine stations polled every five minutes: a row where a value changes, and every hour a checkpoint.

    The feed is down at times; station 1 is closed for hours, station 2 vanishes for a day, station 3 tells no
    e-bikes, station 8 opens on the last day.
    """
    random = np.random.default_rng(11)
    size = np.array([12 + 3 * n for n in range(STATIONS)])
    bikes, ebikes = size // 3, size // 6
    rows: list[dict[str, Any]] = []
    polls: list[tuple[datetime, str]] = []
    last: dict[str, tuple[Any, ...]] = {}
    down = [(START + 2 * DAY + 3 * HOUR, START + 2 * DAY + 9 * HOUR), SILENT]
    for place in range(int(DAYS * DAY / POLL)):
        at = START + place * POLL + timedelta(seconds=20)
        lively = 0.15 * (1 + np.sin(at.hour * np.pi / 12))
        moves = random.poisson(lively, STATIONS) - random.poisson(lively, STATIONS)
        bikes = np.clip(bikes + moves, 0, size)
        ebikes = np.clip(ebikes + random.integers(-1, 2, STATIONS) * (random.random(STATIONS) < 0.05), 0, bikes)
        if any(first <= at < end for first, end in down):
            polls.append((at, "failed"))
            continue
        polls.append((at, "ok" if place % 3 else "not_modified"))
        for n in range(STATIONS):
            if n == 8 and at < START + 8 * DAY:
                continue
            vanished = n == 2 and START + 7 * DAY + 22 * HOUR < at < START + 8 * DAY + 10 * HOUR
            closed = n == 1 and START + 8 * DAY < at < START + 8 * DAY + 8 * HOUR
            values = (int(bikes[n]), int(ebikes[n]) if n != 3 else None, int(size[n] - bikes[n]), not closed)
            if vanished:
                values = (None, None, None, None)  # type: ignore[assignment]
            name = str(n)
            if last.get(name) == values and at.minute >= 5:
                continue
            last[name] = values
            row = dict(zip(("bikes", "ebikes", "docks", "is_renting"), values, strict=True))
            mechanical = None if row["ebikes"] is None else values[0] - row["ebikes"]
            rows.append({"station": name, "observed_at": at, "mechanical": mechanical, **row})
    return Town(rows, polls)


@pytest.fixture(scope="module")
def town() -> Town:
    return make_town()


@pytest.fixture(scope="module", autouse=True)
def tiny_fits() -> Iterator[None]:
    """Parity does not ask how good a model is."""
    baseline = "velib_predictor.models.baseline"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{baseline}.linear._ROUNDS", 8)
        patch.setattr(f"{baseline}.linear._SPREAD_ROUNDS", 4)
        patch.setattr(f"{baseline}.linear.XGBoost.most_rows", 6000)
        patch.setattr(f"{baseline}.linear.Linear.most_rows", 6000)
        patch.setattr(f"{baseline}.queueing.ROWS", 200)
        patch.setattr("velib_predictor.models.base.DEFAULTS", tiny(rows=6_000, epochs=1, folds=1))
        yield


def fitted(name: str, panel: Panel) -> Forecaster:
    model = forecaster(name)(SPEC)
    model.fit(panel, UNTIL)
    return model


@pytest.fixture(scope="module")
def models(
    tiny_fits: None,  # noqa: ARG001 - they are to be tiny
    town: Town,
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Models:
    """All models that can be fitted here, on the town's history."""
    file = tmp_path_factory.mktemp("fits") / "velib.db"
    shutil.copy(sqlite_template, file)
    database = Database(f"sqlite:///{file}")
    town.store(database)
    panel = Panel.load(database, "town", START, UNTIL)
    database.close()
    return {name: fitted(name, panel) for name in can_be_fitted()}


def assert_served(served: Forecast, tested: Forecast) -> None:
    """Bit for bit, for all stations that had appeared by then; of others the backtest knows no count either."""
    assert served.spec == tested.spec
    assert served.model == tested.model, served.model
    assert served.origins.tolist() == tested.origins.tolist()
    places = [tested.stations.index(name) for name in served.stations]
    assert served.known.tobytes() == np.ascontiguousarray(tested.known[:, places]).tobytes()
    assert served.k.tobytes() == np.ascontiguousarray(tested.k[:, places]).tobytes()
    size = served.pmf.shape[-1]
    pmf = tested.pmf[:, places]
    assert served.pmf.dtype == pmf.dtype == np.float32
    ours, theirs = (np.ascontiguousarray(part).view(np.uint32) for part in (served.pmf, pmf[..., :size]))
    np.testing.assert_array_equal(ours, theirs, err_msg=served.model)
    assert not pmf[..., size:].any()


def test_what_is_served_is_what_the_backtest_says_bit_for_bit(database: Database, town: Town, models: Models) -> None:
    town.store(database)
    panel = Panel.load(database, "town", START, START + DAYS * DAY)
    assert_hard(panel)
    at = panel.ticks[[panel.before(origin) for origin in ORIGINS]]
    for name in models:
        model = models[name]
        for origin, tested in zip(ORIGINS, model.predict(panel, at), strict=True):
            served, read = forecast_at(model, database, "town", origin)
            assert read.ticks[-1].item().replace(tzinfo=UTC) == origin
            assert served.known.any()
            assert_served(served, tested)


def test_a_panel_that_is_kept_and_extended_serves_the_same_bit_for_bit(
    database: Database, town: Town, models: Models
) -> None:
    """Quarter after quarter, as the issue job goes; past the feed's silence, and past the opening of station 8."""
    town.store(database)
    for name, first in zip(models, cycle([START + 8 * DAY - 15 * MINUTE, SILENT[1] - 15 * MINUTE]), strict=False):
        model = models[name]
        live = LivePanel(database, "town", step=SPEC.step, tolerance=SPEC.step, lookback=model.lookback)
        for origin in (first + place * SPEC.step for place in range(3)):
            panel = live.at(origin)
        kept = next(model.predict(panel, panel.ticks[-1:]))
        served = forecast_at(model, database, "town", origin).forecast
        assert served.stations == kept.stations
        assert_served(served, kept)


def test_between_two_ticks_the_one_before_is_asked(database: Database, town: Town, models: Models) -> None:
    town.store(database)
    panel = Panel.load(database, "town", START, START + DAYS * DAY)
    model, origin = models["persistence_delta"], ORIGINS[2]
    first, second = model.predict(panel, panel.ticks[panel.before(origin) :][:2])
    assert first.pmf.tobytes() != second.pmf.tobytes()
    for ahead in (timedelta(0), 7 * MINUTE, 15 * MINUTE - timedelta(microseconds=1)):
        assert_served(forecast_at(model, database, "town", origin + ahead).forecast, first)
    assert_served(forecast_at(model, database, "town", origin + 15 * MINUTE).forecast, second)


def assert_hard(panel: Panel) -> None:
    """The origins see what parity could break on."""
    places = [panel.before(origin) for origin in ORIGINS]
    bikes = panel.observed[places, :, 0]  # [origin, station]
    assert bikes.any(axis=1).all()
    assert bikes[:, 8].any()
    assert not bikes[:, 8].all()
    assert not bikes[:, 2].all()
    assert (~panel.open[places, 1] & bikes[:, 1]).any()
    assert not panel.observed[:, 3, 2].any()
    down = slice(panel.before(SILENT[0] + HOUR), panel.before(SILENT[1]))
    assert not panel.observed[down].any()


@pytest.mark.parametrize("name", ["persistence_delta", "linear"])
def test_a_model_that_was_saved_serves_the_same(sqlite_url: str, town: Town, name: str, tmp_path: Path) -> None:
    database = Database(sqlite_url)
    town.store(database)
    panel = Panel.load(database, "town", START, START + DAYS * DAY, tolerance=7 * MINUTE)
    model = fitted(name, panel)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    for origin in ORIGINS[1:3]:
        (tested,) = model.predict(panel, panel.ticks[[panel.before(origin)]])
        assert_served(forecast_at(loaded, database, "town", origin + MINUTE).forecast, tested)
    database.close()


def test_what_is_collected_later_changes_no_forecast_of_before(database: Database, town: Town, models: Models) -> None:
    """Served at the time or asked for afterwards: the same."""
    now = ORIGINS[2] + 4 * MINUTE
    early = Town(
        [row for row in town.rows if row["observed_at"] <= now], [poll for poll in town.polls if poll[0] <= now]
    )
    early.store(database)
    asked = [models[name] for name in ("persistence_delta", "linear", "queueing")]
    then = [forecast_at(model, database, "town", now).forecast for model in asked]
    late = Town([row for row in town.rows if row["observed_at"] > now], [poll for poll in town.polls if poll[0] > now])
    with database.write() as connection:
        book = StationBook(connection, ensure_system(connection, "town"))
        keys = book.all_names()
        rows = [{"station_key": keys[row["station"]], **row} for row in late.rows]
        connection.execute(insert(StationStatus), [{k: v for k, v in row.items() if k != "station"} for row in rows])
        system = ensure_system(connection, "town")
        polls = [{"system_key": system, "polled_at": at, "outcome": outcome} for at, outcome in late.polls]
        connection.execute(insert(Poll), polls)
    for model, before in zip(asked, then, strict=True):
        assert_served(forecast_at(model, database, "town", now).forecast, before)


# -- nothing to go on ----------------------------------------------------------------------------------------


def test_nothing_recent_says_how_old_the_newest_is(database: Database, town: Town, models: Models) -> None:
    town.store(database)
    model = models["persistence"]
    down = SILENT[0] - POLL + timedelta(seconds=20)  # the last poll before
    assert newest_observation(database, "town", SILENT[1]) == down
    with pytest.raises(
        DegradedError, match=r"nothing of 'town' was observed in the 15m before 2024-11-12T21:00:00Z"
    ) as e:
        forecast_at(model, database, "town", SILENT[0] + HOUR + 3 * MINUTE)
    assert e.value.exit_code == 3
    assert "the newest is of 2024-11-12T19:55:20Z, 1h4m40s before that" in str(e.value)
    assert "velib collect" in str(e.value)
    assert forecast_at(model, database, "town", SILENT[0] + 9 * MINUTE).forecast.known.any()
    long_after = START + 400 * DAY
    with pytest.raises(DegradedError, match="the newest is of 2024-11-12T23:55:20Z"):
        forecast_at(model, database, "town", long_after)


def test_an_hour_of_unchanged_polls_is_recent(database: Database) -> None:
    """What the ledger confirms is not old, though no row was written."""
    row = {"station": "1", "observed_at": START, "bikes": 3, "mechanical": 3, "ebikes": 0, "docks": 9}
    Town([row], [(START + n * POLL, "ok") for n in range(12 * 8)]).store(database)
    model = forecaster("persistence")(SPEC)
    model.fit(Panel.load(database, "town"), START + 8 * HOUR)
    served = forecast_at(model, database, "town", START + 8 * HOUR).forecast
    assert served.pmf[0, 0, :, 0, 3].tolist() == [1, 1, 1]
    assert newest_observation(database, "town", START + 8 * HOUR) == START + 8 * HOUR - POLL
    with pytest.raises(DegradedError, match="the newest is of 2024-11-04T07:55:00Z, 35m before that"):
        forecast_at(model, database, "town", START + 8 * HOUR + 30 * MINUTE)


def test_another_systems_polls_make_nothing_recent(database: Database, town: Town) -> None:
    town.store(database)
    Town([{"station": "1", "observed_at": START, "bikes": 3}], [(START + 7 * DAY, "ok")]).store(database, "oslo")
    assert newest_observation(database, "oslo", START + 6 * DAY) == START
    assert newest_observation(database, "oslo", START - DAY) is None
    assert newest_observation(database, "town", START + DAYS * DAY) == START + DAYS * DAY - POLL + timedelta(seconds=20)


def test_climatology_needs_nothing_recent(database: Database, town: Town, models: Models) -> None:
    town.store(database)
    served = forecast_at(models["climatology"], database, "town", START + 30 * DAY).forecast
    assert served.known[0, :, 0].all()


def test_before_the_first_row_an_unknown_system_and_a_naive_time_are_refused(
    database: Database, town: Town, models: Models
) -> None:
    town.store(database)
    model = models["persistence"]
    with pytest.raises(UsageError, match="has no rows of 'town'"):
        forecast_at(model, database, "town", START - DAY)
    with pytest.raises(UsageError, match="has no system 'oslo'; there are: town"):
        forecast_at(model, database, "oslo", START)
    with pytest.raises(ValueError, match="naive time"):
        forecast_at(model, database, "town", START.replace(tzinfo=None))


def test_the_system_needs_no_name_where_there_is_only_one(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with pytest.raises(UsageError, match=r"--system; the database .* holds: none yet"):
        only_system(database, None)
    with database.write() as connection:
        connection.execute(insert(System).values(system_id="town"))
    assert only_system(database, None) == "town"
    assert only_system(database, "other") == "other"
    with database.write() as connection:
        connection.execute(insert(System).values(system_id="oslo"))
    with pytest.raises(UsageError, match="holds: oslo, town"):
        only_system(database, None)
    database.close()
