"""Forecasts of the weather in the database: one in, those that a panel may know out, and files of older ones in."""

from datetime import datetime
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlalchemy import Connection, func, insert, literal, select

from velib_predictor.data import bulk
from velib_predictor.data.columns import TIME
from velib_predictor.data.database import Database
from velib_predictor.data.known_weather import HOURS, OLDEST, VARIABLES, KnownWeather, Times
from velib_predictor.data.schema import System, Weather
from velib_predictor.data.tidy import Findings, read
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import from_micros

_TABLE = Weather.__table__.c
_HOUR_US = 3_600_000_000
_UNKNOWN = -9_999.0  # no null: of a column that begins with many, SQLite's driver makes whole numbers
_COLUMNS = pa.schema([("issued_at", TIME), ("valid_at", TIME), *((name, pa.float32()) for name in VARIABLES)])


def store_weather(database: Database, system_id: str, weather: KnownWeather) -> int:
    """Store the forecasts that are not stored yet; returns how many.

    Raises:
        UsageError: the database has no such system.
        DatabaseError: they cannot be stored.
    """
    if not len(weather):
        return 0
    first, last = _datetimes(weather.issued[[0, -1]])
    with database.write() as connection:
        key = _key(connection, system_id)
        stored = select(_TABLE.issued_at).where(_TABLE.system_key == key, _TABLE.issued_at.between(first, last))
        known = set(connection.execute(stored.distinct()).scalars())
        new = [place for place, time in enumerate(_datetimes(weather.issued)) if time not in known]
        for part in np.array_split(np.array(new, dtype=np.int64), -(-len(new) // 200) or 1):
            if len(part):
                connection.execute(insert(Weather), _rows(key, weather, part))
    return len(new)


def read_weather(database: Database, system_id: str, ticks: Times) -> KnownWeather:
    """The forecasts that any of these ticks (ascending) may know.

    Raises:
        DatabaseError: the database cannot be read.
    """
    first, last = (from_micros(int(tick.astype("datetime64[us]").astype(np.int64))) for tick in ticks[[0, -1]])
    bounds = (literal(first - OLDEST, _TABLE.issued_at.type), literal(last, _TABLE.issued_at.type))
    query = select(
        _TABLE.issued_at, _TABLE.valid_at, *(func.coalesce(_TABLE[name], _UNKNOWN).label(name) for name in VARIABLES)
    )
    query = query.join(System, System.key == _TABLE.system_key).where(System.system_id == system_id)
    query = query.where(_TABLE.issued_at >= bounds[0], _TABLE.issued_at <= bounds[1])
    return known_weather(bulk.fetch(database, query.order_by(_TABLE.issued_at, _TABLE.valid_at), _COLUMNS))


def known_weather(rows: pa.Table) -> KnownWeather:
    """Rows of (issued_at, valid_at) as forecasts; hours outside of those that are kept are left out."""
    issued_at, valid_at = (rows[name].cast(pa.int64()).to_numpy() for name in ("issued_at", "valid_at"))
    issued, issue = np.unique(issued_at, return_inverse=True)
    hour = (valid_at - issued_at // _HOUR_US * _HOUR_US) // _HOUR_US
    kept = (hour >= 0) & (hour < HOURS) & (valid_at % _HOUR_US == 0)
    values = np.full((len(issued), HOURS, len(VARIABLES)), np.nan, dtype=np.float32)
    for place, name in enumerate(VARIABLES):
        column = rows[name].cast(pa.float32()).to_numpy()
        values[issue[kept], hour[kept], place] = np.where(column == np.float32(_UNKNOWN), np.nan, column)[kept]
    return KnownWeather(issued.view("datetime64[us]"), values)


def import_weather(database: Database, system_id: str, file: Path) -> int:
    """Store the forecasts of a file (.parquet or .csv; columns as `docs/data_schema.md` says); returns how many.

    Raises:
        UsageError: the file cannot be read, holds what cannot be true, or is of another system; nothing is stored.
        DatabaseError: they cannot be stored.
    """
    findings = Findings(file)
    batches = list(read(file, "weather", findings))
    if any((batch["valid_at"].cast(pa.int64()).drop_null().to_numpy() % _HOUR_US).any() for batch in batches):
        findings.add("must be whole hours UTC", column="valid_at")
    others = findings.system_ids - {system_id}
    if others:
        findings.add(f"holds the weather of {', '.join(sorted(others))}, not of {system_id}", column="system_id")
    if problems := findings.problems():
        raise UsageError("\n".join(problems))
    weather = known_weather(pa.Table.from_batches(batches)) if batches else KnownWeather.none()
    return store_weather(database, system_id, weather)


def _key(connection: Connection, system_id: str) -> int:
    key = connection.execute(select(System.key).where(System.system_id == system_id)).scalar_one_or_none()
    if key is None:
        raise UsageError(f"the database has no system {system_id!r}; collect it, or import its history, first")
    return int(key)


def _rows(key: int, weather: KnownWeather, places: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """The known hours of these forecasts, as rows of the table."""
    rows = []
    for place in places.tolist():
        issued = int(weather.issued[place].astype(np.int64))
        begun = issued // _HOUR_US * _HOUR_US
        for hour, values in enumerate(weather.values[place].tolist()):
            told = {name: round(v, 3) for name, v in zip(VARIABLES, values, strict=True) if not isnan(v)}
            if told:
                times = {"issued_at": from_micros(issued), "valid_at": from_micros(begun + hour * _HOUR_US)}
                rows.append({"system_key": key, **times, **dict.fromkeys(VARIABLES), **told})
    return rows


def _datetimes(times: Times) -> list[datetime]:
    return [from_micros(int(time)) for time in times.astype(np.int64)]
