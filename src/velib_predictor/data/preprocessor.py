"""Reading stations back: stored rows in bulk, what they say at any tick (the as-of rule), and all of it as a Panel."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Select, func, literal, select

from velib_predictor.data import bulk
from velib_predictor.data.columns import TIME
from velib_predictor.data.database import Database
from velib_predictor.data.panel import CHANNELS, MISSING, Panel, Stations
from velib_predictor.data.schema import Poll, Station, StationStatus, StationVersion, System
from velib_predictor.data.snapshot import Outcome
from velib_predictor.data.tidy import COUNTS
from velib_predictor.data.trust import changed_rows, frozen_polls, spikes
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import MICROSECOND, format_time, from_micros, to_micros

Micros = npt.NDArray[np.int64]
MASKED = -1
_NEVER = np.iinfo(np.int64).min // 2


def read_status(
    database: Database,
    system_id: str,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    stations: Sequence[int] | None = None,
    before: bool = True,
) -> pa.Table:
    """Stored rows of a system, by station key and time, in `bulk.ROWS`.

    The rows of [start, end), and of each station the last one before `start`, which holds until its next.

    Args:
        stations: keys of the stations to read; None reads all.
        before: False leaves the rows before `start` out.
    """
    status = StationStatus.__table__
    stationed = select(Station.key).join(System, System.key == Station.system_key).where(System.system_id == system_id)
    if stations is not None:
        stationed = stationed.where(Station.key.in_(stations))
    query: Select[tuple[object, ...]] = select(*(status.c[name] for name in bulk.ROWS.names))
    if start is None or not before:
        query = query.where(status.c.station_key.in_(stationed))
        query = query if start is None else query.where(status.c.observed_at >= start)
    else:
        last = select(func.max(status.c.observed_at)).where(
            status.c.station_key == Station.key, status.c.observed_at <= literal(start, status.c.observed_at.type)
        )
        since = func.coalesce(last.correlate(Station).scalar_subquery(), literal(start, status.c.observed_at.type))
        held = stationed.add_columns(since.label("since")).subquery()
        query = query.join(held, status.c.station_key == held.c.key).where(status.c.observed_at >= held.c.since)
    if end is not None:
        query = query.where(status.c.observed_at < end)
    return bulk.in_key_order(bulk.fetch(database, query))


def accepted_polls(
    database: Database, system_id: str, start: datetime | None = None, end: datetime | None = None
) -> npt.NDArray[np.datetime64]:
    """When the system's feed was heard and believed (ok, not_modified), ascending, datetime64[us] [poll].

    The polls of [start, end), and the last one before `start`.
    """
    accepted = [str(outcome) for outcome in Outcome if outcome.accepted]
    query = select(Poll.polled_at.label("observed_at")).join(System, System.key == Poll.system_key)
    query = query.where(System.system_id == system_id, Poll.outcome.in_(accepted)).order_by(Poll.polled_at)
    if end is not None:
        query = query.where(Poll.polled_at < end)
    times: npt.NDArray[np.datetime64] = bulk.fetch(database, query)["observed_at"].to_numpy().astype("datetime64[us]")
    first = int(np.searchsorted(_micros(times), to_micros(start), side="right")) if start else 1
    return times[max(first - 1, 0) :]


def as_of(
    rows: pa.Table,
    stations: npt.NDArray[np.int32],
    ticks: npt.NDArray[np.datetime64],
    polls: npt.NDArray[np.datetime64],
    tolerance: timedelta,
) -> npt.NDArray[np.int64]:
    """The row that holds in each cell, as its index in `rows`, int64[tick, station]; -1 where the value is not known.

    It is the station's last row at or before the tick. Its age there is the time since it was written or since the
    last accepted poll before the tick, which confirmed it, whichever is less. Older than the tolerance, or a row
    without any count: not known.

    Args:
        rows: by station and time, in `bulk.ROWS`; those of other stations are left out.
        stations: station keys, ascending, [station].
        ticks: ascending, UTC, [tick].
        polls: accepted polls, ascending, UTC, [poll].
        tolerance: the greatest age that is still believed.
    """
    tick, poll = _micros(ticks), _micros(polls)
    time = pc.cast(rows["observed_at"], pa.int64()).to_numpy()
    key = rows["station_key"].to_numpy()
    column = np.searchsorted(stations, key)
    here = (column < len(stations)) & (stations[np.minimum(column, len(stations) - 1)] == key) if len(stations) else []
    index = np.flatnonzero(here)
    first_tick = np.searchsorted(tick, time[index], side="left")
    index, first_tick = index[first_tick < len(tick)], first_tick[first_tick < len(tick)]
    held = np.full((len(tick), len(stations)), MASKED, dtype=np.int64)  # [tick, station]
    held[first_tick, column[index]] = index  # of several rows between two ticks the last stays: assignment is in order
    np.maximum.accumulate(held, axis=0, out=held)  # a station's later rows have greater indices
    if not len(rows):
        return held
    known = np.zeros(len(rows), dtype=bool)
    for name in COUNTS:
        known |= rows[name].is_valid().to_numpy()
    heard = np.append(poll, _NEVER)[np.searchsorted(poll, tick, side="right") - 1]  # [tick]; -1 is the last: never
    oldest = tick - tolerance // MICROSECOND  # [tick]
    alive = (heard >= oldest)[:, None] | (time[held] >= oldest[:, None])
    return np.where(known[held] & alive, held, MASKED)


def grid_ticks(start: datetime, end: datetime, step: timedelta) -> npt.NDArray[np.datetime64]:
    """The multiples of `step` since 1970 UTC in [start, end), datetime64[us] [tick]."""
    size = step // MICROSECOND
    first, last = (-(-to_micros(time) // size) for time in (start, end))
    return (np.arange(first, last, dtype=np.int64) * size).view("datetime64[us]")


def take(rows: pa.Table, held: npt.NDArray[np.int64], ticks: npt.NDArray[np.datetime64]) -> pa.Table:
    """One station's column of `as_of` as rows of `bulk.ROWS` without its key: one a tick, null where not known."""
    index = pa.array(held, mask=held == MASKED)
    times = pa.array(_micros(ticks)).cast(TIME)
    return rows.drop_columns("station_key").take(index).set_column(0, "observed_at", times)


def load_panel(
    database: Database,
    system_id: str,
    start: datetime | None,
    end: datetime | None,
    *,
    step: timedelta,
    tolerance: timedelta,
) -> Panel:
    """`Panel.load`, from an open database."""
    database.require_current()
    timezone = _timezone(database, system_id)
    rows = read_status(database, system_id, start, end)
    polls = accepted_polls(database, system_id, start, end)
    time = pc.cast(rows["observed_at"], pa.int64()).to_numpy()
    if not len(rows):
        raise UsageError(f"the database {database} has no rows of {system_id!r}{_period(start, end)}")
    first = start or from_micros(int(time.min()))
    latest = max(int(time.max()), int(_micros(polls)[-1]) if len(polls) else 0)
    size = step // MICROSECOND
    ticks = grid_ticks(first, end or from_micros((-(-latest // size) + 1) * size), step)
    if not len(ticks):
        raise UsageError(f"no tick of a {step} grid lies{_period(start, end)}")
    key = rows["station_key"].to_numpy()
    seen = np.unique(key)
    held = as_of(rows, seen, ticks, polls, tolerance)  # [tick, station]
    last_tick = from_micros(int(_micros(ticks)[-1]))
    stations, capacity = _stations(database, seen, ticks, last_tick)
    counts, observed, is_open = _cells(rows, held)
    return Panel(
        system_id=system_id,
        timezone=timezone,
        ticks=ticks.astype("datetime64[s]"),
        step=step,
        tolerance=tolerance,
        stations=stations,
        counts=counts,
        observed=observed,
        trusted=_trusted(rows, time, held, _micros(ticks), _micros(polls), len(seen), timezone),
        open=is_open,
        capacity=capacity,
    )


def _cells(
    rows: pa.Table, held: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Counts, observed [tick, station, channel] and open [tick, station] of the rows that hold."""
    counts = np.empty((*held.shape, len(CHANNELS)), dtype=np.int16)
    known = held != MASKED
    for channel, name in enumerate(CHANNELS):
        values = np.append(rows[name].fill_null(MISSING).to_numpy(), MISSING).astype(np.int16)
        counts[:, :, channel] = values[held]  # MASKED is -1: the last, which is missing
    closed = np.zeros(len(rows) + 1, dtype=bool)
    for name in ("is_installed", "is_renting", "is_returning"):
        closed[:-1] |= ~rows[name].fill_null(True).to_numpy(zero_copy_only=False)
    return counts, counts != MISSING, known & ~closed[held]


def _trusted(
    rows: pa.Table,
    time: Micros,
    held: npt.NDArray[np.int64],
    ticks: Micros,
    polls: Micros,
    stations: int,
    timezone: str,
) -> npt.NDArray[np.bool_]:
    """What hindsight leaves standing, bool[tick, station]: not observed in a frozen spell, not taken back at once."""
    heard = np.union1d(time, polls)
    moved = np.bincount(np.searchsorted(heard, time[changed_rows(rows)]), minlength=len(heard))
    frozen = np.append(frozen_polls(heard, moved, stations, timezone), False)
    alive = ~frozen[np.searchsorted(heard, ticks, side="right") - 1]  # [tick]; -1 is the last: before all
    taken_back = np.append(spikes(rows), False)
    return alive[:, None] & ~taken_back[held]


def _stations(
    database: Database, keys: npt.NDArray[np.int32], ticks: npt.NDArray[np.datetime64], at: datetime
) -> tuple[Stations, npt.NDArray[np.int16]]:
    """Who the stations are (as last described by `at`), and capacity as it was known, int16[tick, station]."""
    place = {int(key): column for column, key in enumerate(keys)}
    version = StationVersion.__table__
    capacities = np.zeros(len(keys), dtype=np.int16)
    changes: list[tuple[int, int, int]] = []  # tick, column, capacity
    about: list[tuple[str | None, float | None, float | None]] = [(None, None, None)] * len(keys)
    micros = _micros(ticks)
    with database.read() as connection:
        names = {
            key: (station_id, code)
            for key, station_id, code in connection.execute(select(Station.key, Station.station_id, Station.code))
        }
        query = select(version).order_by(version.c.station_key, version.c.valid_from)
        for row in connection.execute(query).mappings():
            column = place.get(row["station_key"])
            if column is None:
                continue
            first = about[column] == (None, None, None)
            if first or row["valid_from"] <= at:
                about[column] = (row["name"], row["lat"], row["lon"])
            if first:  # before its first version, the first one holds
                capacities[column] = row["capacity"] or 0
            elif row["valid_from"] <= at:
                changes.append((int(np.searchsorted(micros, to_micros(row["valid_from"]))), column, row["capacity"]))
    capacity = np.broadcast_to(capacities, (len(ticks), len(keys)))
    if changes:
        capacity = capacity.copy()
        for tick, column, docks in changes:
            capacity[tick:, column] = docks or 0
    name, lat, lon = zip(*about, strict=True)
    coordinates = (np.array([np.nan if x is None else x for x in axis], dtype=np.float64) for axis in (lat, lon))
    ids, codes = zip(*(names[int(key)] for key in keys), strict=True)
    return Stations(ids, codes, name, *coordinates), capacity


def _timezone(database: Database, system_id: str) -> str:
    with database.read() as connection:
        zones = {row.system_id: row.timezone for row in connection.execute(select(System.system_id, System.timezone))}
    if system_id not in zones:
        there = ", ".join(sorted(zones)) or "none yet"
        raise UsageError(f"the database {database} has no system {system_id!r}; there are: {there}")
    if zones[system_id] is None:
        raise UsageError(
            f"the time zone of {system_id!r} is not known, and its calendar is needed; "
            "say it with `velib import --timezone`, or under `systems:` in the settings"
        )
    return str(zones[system_id])


def _period(start: datetime | None, end: datetime | None) -> str:
    bounds = [f" from {format_time(start)}"] if start else []
    return "".join(bounds + ([f" up to {format_time(end)}"] if end else []))


def _micros(times: npt.NDArray[np.datetime64]) -> Micros:
    return times.astype("datetime64[us]").astype(np.int64)
