"""Weather as it was known: against a slow loop, nothing before its time, and in and out of both databases."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, insert, inspect, select, text

from tests.test_simulation.small import START, city
from velib_predictor.data.database import Database, head_revision
from velib_predictor.data.inventory import delete_expired_rows
from velib_predictor.data.known_weather import HOURS, OLDEST, VARIABLES, KnownWeather, Times
from velib_predictor.data.panel import Panel
from velib_predictor.data.schema import Station, StationStatus, StationVersion, System, Weather
from velib_predictor.data.weather_store import import_weather, read_weather, store_weather
from velib_predictor.simulation.history import weather_table
from velib_predictor.utils.errors import UsageError

HOUR = timedelta(hours=1)
BEGIN = np.datetime64("2024-10-23T00:00:00", "us")
RAIN, WARMTH = VARIABLES.index("precipitation_mm"), VARIABLES.index("temperature_c")


def some_weather(issues: int = 60, seed: int = 0, every_min: int = 65) -> KnownWeather:
    """Forecasts at odd minutes, with hours that are not known."""
    random = np.random.default_rng(seed)
    values = random.uniform(0, 20, (issues, HOURS, len(VARIABLES))).astype(np.float32).round(2)
    values[random.random(values.shape) < 0.05] = np.nan
    issued = BEGIN + np.arange(issues) * np.timedelta64(every_min, "m") + np.timedelta64(1_234_567, "us")
    return KnownWeather(issued, values)


def plus(times: Times, more: timedelta) -> Times:
    return (times.astype(np.int64) + more // timedelta(microseconds=1)).astype("datetime64[us]")


def slow(weather: KnownWeather, origin: np.datetime64, target: np.datetime64) -> tuple[list[float], float]:
    """What is known at an origin of a target, and the mean rain of the minutes until then, by asking each."""
    newest = None
    for place, issued in enumerate(weather.issued):
        if issued <= origin and origin - issued <= np.timedelta64(OLDEST):
            newest = place
    if newest is None:
        return [np.nan] * len(VARIABLES), np.nan
    begun = weather.issued[newest].astype("datetime64[h]").astype("datetime64[us]")

    def told(name: str, when: np.datetime64) -> float:
        hour = int((when - begun) // np.timedelta64(1, "h"))
        hour += name in ("precipitation_mm", "rain_mm", "snowfall_cm", "gusts_kmh")
        return float(weather.values[newest, hour, VARIABLES.index(name)]) if hour < HOURS else np.nan

    minutes = np.arange(origin, target, np.timedelta64(5, "m")) + np.timedelta64(150, "s")
    rain = [told("precipitation_mm", minute) for minute in minutes]
    known = [value for value in rain if not np.isnan(value)]
    return [told(name, target) for name in VARIABLES], float(np.mean(known)) if known else np.nan


def test_it_is_what_a_slow_loop_finds() -> None:
    weather = some_weather()
    random = np.random.default_rng(1)
    minutes = random.integers(-300, 60 * 65 + 3_000, 300) // 5 * 5
    begin = int(BEGIN.astype(np.int64))
    origin: Times = (begin + minutes * 60_000_000).astype("datetime64[us]")
    target: Times = (begin + (minutes + 5 * random.integers(1, 24 * 12 + 1, 300)) * 60_000_000).astype("datetime64[us]")
    found, rain = weather.at(origin, target), weather.mean_between(origin, target, "precipitation_mm")
    wanted = [slow(weather, *pair) for pair in zip(origin, target, strict=True)]
    np.testing.assert_array_equal(found, np.array([values for values, _ in wanted], dtype=np.float32))
    np.testing.assert_allclose(rain, [mean for _, mean in wanted], rtol=1e-4, atol=1e-5)
    assert 0.05 < np.isnan(rain).mean() < 0.5, "before the first, and a day after the last"


def test_a_day_old_forecast_still_reaches_a_day_ahead() -> None:
    weather = some_weather(1)
    whole = KnownWeather(weather.issued, np.nan_to_num(weather.values, nan=1.0))
    origin = plus(whole.issued, 24 * HOUR)
    assert not np.isnan(whole.at(origin, plus(origin, 24 * HOUR))).any()
    assert not np.isnan(whole.mean_between(origin, plus(origin, 24 * HOUR), "precipitation_mm")).any()
    assert np.isnan(whole.at(plus(origin, timedelta(microseconds=1)), plus(origin, HOUR))).all()


def test_none_is_known_of_none() -> None:
    ticks: Times = (int(BEGIN.astype(np.int64)) + np.arange(24) * 3_600_000_000).astype("datetime64[us]")
    assert np.isnan(KnownWeather.none().at(ticks, ticks)).all()
    assert np.isnan(KnownWeather.none().mean_between(ticks, ticks, "precipitation_mm")).all()
    assert (KnownWeather.none().issue_at(ticks) == -1).all()


def test_what_ends_at_an_origin_knows_no_later_forecast() -> None:
    weather = some_weather()
    for at in (BEGIN, weather.issued[7], weather.issued[7] - np.timedelta64(1, "us"), weather.issued[-1]):
        seen = weather.until(np.array([at - np.timedelta64(1, "h"), at]))
        assert (seen.issued <= at).all()
        assert len(seen) == (weather.issued <= at).sum()
    assert len(weather.until(weather.issued[:0])) == 0


# -- the database --------------------------------------------------------------------------------------------


def with_station(database: Database) -> None:
    """A system with one station, seen at each hour of two days."""
    start = BEGIN.astype("datetime64[us]").item().replace(tzinfo=UTC)
    with database.write() as connection:
        connection.execute(insert(System), {"key": 1, "system_id": "town", "timezone": "Europe/Paris"})
        connection.execute(insert(System), {"key": 2, "system_id": "other", "timezone": "Europe/Oslo"})
        connection.execute(insert(Station), {"key": 1, "system_key": 1, "station_id": "a"})
        place = {"station_key": 1, "valid_from": start, "lat": 48.8, "lon": 2.3, "capacity": 20}
        connection.execute(insert(StationVersion), place)
        rows = [{"station_key": 1, "observed_at": start + hour * HOUR, "bikes": 3, "docks": 9} for hour in range(49)]
        connection.execute(insert(StationStatus), rows)


def test_a_panel_brings_what_was_known_and_no_more(database: Database) -> None:
    with_station(database)
    weather = some_weather()
    assert store_weather(database, "town", weather) == 60
    assert store_weather(database, "town", weather) == 0, "they are stored"
    store_weather(database, "other", some_weather(5, seed=9))
    start = BEGIN.item().replace(tzinfo=UTC) + 30 * HOUR
    panel = Panel.load(database, "town", start, start + 10 * HOUR, step=HOUR)
    first, last = panel.ticks[[0, -1]].astype("datetime64[us]")
    inside = (weather.issued >= first - np.timedelta64(OLDEST)) & (weather.issued <= last)
    assert 24 < inside.sum() < 40
    assert panel.weather.same(KnownWeather(weather.issued[inside], weather.values[inside]))
    part = panel.between(0, 4)
    assert part.weather.issued[-1] <= part.ticks[-1] < weather.issued[inside][-1]
    assert len(read_weather(database, "nobody", panel.ticks)) == 0
    ids = Panel.load(database, "town", start, start + 10 * HOUR, step=HOUR).special_days
    assert ids.school_zone == "C"


def test_a_system_that_is_not_there_has_no_weather(database: Database) -> None:
    with pytest.raises(UsageError, match="no system 'town'"):
        store_weather(database, "town", some_weather(2))


def test_old_weather_goes_with_old_rows(database: Database) -> None:
    with_station(database)
    store_weather(database, "town", some_weather())
    with database.read() as connection:
        before = connection.execute(select(func.count()).select_from(Weather)).scalar_one()
    now = BEGIN.item().replace(tzinfo=UTC) + 48 * HOUR
    deleted = delete_expired_rows(database, 24 * HOUR, now)
    with database.read() as connection:
        left = connection.execute(select(func.count(), func.min(Weather.issued_at)).select_from(Weather)).one()
    assert now - 24 * HOUR <= left[1] < now - 22 * HOUR
    assert deleted == before - left[0] + 24


def test_the_migration_from_the_version_before_keeps_what_is_there(database: Database) -> None:
    from alembic import command

    from velib_predictor.data.database import _alembic_config

    with_station(database)
    config = _alembic_config()
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
        connection.commit()
        assert "weather" not in inspect(connection).get_table_names()
    assert database.revision() == "0002"
    assert database.upgrade() == head_revision() >= "0003"
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM station_status")).scalar_one() == 49
    assert store_weather(database, "town", some_weather(2)) == 2


# -- files ---------------------------------------------------------------------------------------------------


def weather_file(folder: Path, name: str = "weather.parquet", **changes: pa.Array) -> Path:
    table = weather_table(city(), START, START + 5 * HOUR)
    for column, values in changes.items():
        table = table.set_column(table.column_names.index(column), column, values)
    file = folder / name
    if name.endswith("csv"):
        import pyarrow.csv as pacsv

        from velib_predictor.data.tidy import csv_text

        pacsv.write_csv(csv_text(table), file)
    else:
        pq.write_table(table, file)
    return file


@pytest.mark.parametrize("name", ["weather.parquet", "weather.csv"])
def test_the_citys_weather_is_imported_as_its_server_says_it(tmp_path: Path, sqlite_url: str, name: str) -> None:
    import json

    from velib_predictor.data.weather import parse
    from velib_predictor.simulation.open_meteo import UNITS, forecast

    database = Database(sqlite_url)
    with database.write() as connection:
        connection.execute(insert(System), {"key": 1, "system_id": "city"})
    assert import_weather(database, "city", weather_file(tmp_path, name)) == 5
    assert import_weather(database, "city", weather_file(tmp_path, name)) == 0
    ticks = np.array([np.datetime64(START.replace(tzinfo=None)) + np.timedelta64(4, "h")])
    stored = read_weather(database, "city", ticks)
    query = {"latitude": "48.9", "longitude": "2.3", "timeformat": "unixtime", "hourly": ",".join(UNITS)}
    for hour in range(5):
        at = START + hour * HOUR
        said = parse(json.dumps(forecast(city().climate, query, at)).encode(), at)
        assert said.same(KnownWeather(stored.issued[hour : hour + 1], stored.values[hour : hour + 1]))
    database.close()


def number(values: npt.ArrayLike) -> pa.Array:
    return pa.array(np.asarray(values, dtype=np.float64))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature_c": number([99.0] * 250)}, "temperature_c: "),
        ({"system_id": pa.array(["velib"] * 250)}, "the weather of velib, not of city"),
        ({"valid_at": pa.array([datetime(2026, 10, 6, 5, 30, tzinfo=UTC)] * 250)}, "whole hours"),
        ({"issued_at": pa.array(["yesterday"] * 250)}, "issued_at"),
    ],
)
def test_a_file_with_what_cannot_be_is_refused(
    tmp_path: Path, sqlite_url: str, changes: dict[str, pa.Array], said: str
) -> None:
    database = Database(sqlite_url)
    with database.write() as connection:
        connection.execute(insert(System), {"key": 1, "system_id": "city"})
    with pytest.raises(UsageError, match=said):
        import_weather(database, "city", weather_file(tmp_path, **changes))
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(Weather)).scalar_one() == 0
    database.close()
