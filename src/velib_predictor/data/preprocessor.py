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
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.data.tidy import COUNTS
from velib_predictor.data.trust import changed_rows, frozen_polls, spikes
from velib_predictor.data.weather_store import read_weather
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import EPOCH, MICROSECOND, format_duration, format_time, from_micros, to_micros

Micros = npt.NDArray[np.int64]
MASKED = -1
_NEVER = np.iinfo(np.int64).min // 2
_FLAGS = ("is_installed", "is_renting", "is_returning")
_PANEL_COLUMNS = ("station_key", "observed_at", *CHANNELS, *_FLAGS)


def read_status(
    database: Database,
    system_id: str,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    stations: Sequence[int] | None = None,
    before: bool = True,
    columns: Sequence[str] = tuple(bulk.ROWS.names),
) -> pa.Table:
    """Stored rows of a system, by station key and time, in `bulk.ROWS`.

    The rows of [start, end), and of each station the last one before `start`, which holds until its next.

    Args:
        stations: keys of the stations to read; None reads all.
        before: False leaves the rows before `start` out.
        columns: of `bulk.ROWS` to read; with `station_key` and `observed_at`. Each costs a driver some time a row.
    """
    status = StationStatus.__table__
    stationed = select(Station.key).join(System, System.key == Station.system_key).where(System.system_id == system_id)
    if stations is not None:
        stationed = stationed.where(Station.key.in_(stations))
    query: Select[tuple[object, ...]] = select(*(status.c[name] for name in columns))
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
    return _by_station(bulk.fetch(database, query))


def accepted_polls(
    database: Database, system_id: str, start: datetime | None = None, end: datetime | None = None
) -> npt.NDArray[np.datetime64]:
    """When the system's feed was heard and believed (ok, not_modified), ascending, datetime64[us] [poll].

    The polls of [start, end), and the last one before `start`.
    """
    return _polls(database, system_id, [outcome for outcome in Outcome if outcome.accepted], start, end)


def _polls(
    database: Database, system_id: str, outcomes: Sequence[Outcome], start: datetime | None, end: datetime | None
) -> npt.NDArray[np.datetime64]:
    query = select(Poll.polled_at.label("observed_at")).join(System, System.key == Poll.system_key)
    query = query.where(System.system_id == system_id, Poll.outcome.in_([str(outcome) for outcome in outcomes]))
    if end is not None:
        query = query.where(Poll.polled_at < end)
    query = query.order_by(Poll.polled_at)
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
    time, key = _times(rows), rows["station_key"].to_numpy()
    held = np.full((len(tick), len(stations)), MASKED, dtype=np.int64)  # [tick, station]
    if not len(rows):
        return held
    begin, end = np.searchsorted(key, stations, side="left"), np.searchsorted(key, stations, side="right")
    for column, (first, after) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        until = np.searchsorted(time[first:after], tick, side="right")  # rows at or before each tick
        held[:, column] = np.where(until > 0, first + until - 1, MASKED)
    heard = np.append(poll, _NEVER)[np.searchsorted(poll, tick, side="right") - 1]  # [tick]; -1 is the last: never
    oldest = tick - tolerance // MICROSECOND  # [tick]
    for silent in np.flatnonzero(heard < oldest).tolist():
        held[silent, time[held[silent]] < oldest[silent]] = MASKED
    unknown = np.append(_without_counts(rows), True)  # MASKED is -1: the last
    held[unknown[held]] = MASKED
    return held


def grid_ticks(start: datetime, end: datetime, step: timedelta, anchor: datetime = EPOCH) -> npt.NDArray[np.datetime64]:
    """The whole steps from `anchor` (1970 UTC) that lie in [start, end), datetime64[us] [tick]."""
    size, zero = step // MICROSECOND, to_micros(anchor)
    first, last = (-((zero - to_micros(time)) // size) for time in (start, end))
    return (np.arange(first, last, dtype=np.int64) * size + zero).view("datetime64[us]")


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
    special_days: SpecialDays | None = None,
    anchor: datetime = EPOCH,
) -> Panel:
    """`Panel.load`, from an open database."""
    for time in (start, end, anchor):
        if time is not None and time.tzinfo is None:
            raise ValueError(f"naive time {time!r}: attach a time zone")
    if step <= timedelta(0) or step % timedelta(seconds=1):
        raise UsageError(f"the step of a panel is a whole number of seconds, at least one, not {step}")
    database.require_current()
    timezone = _timezone(database, system_id)
    rows = read_status(database, system_id, start, end, columns=_PANEL_COLUMNS)
    if not len(rows):
        raise UsageError(f"the database {database} has no rows of {system_id!r}{_period(start, end)}")
    polls = accepted_polls(database, system_id, start, end)
    observed_at = _times(rows)
    first = start or from_micros(int(observed_at.min()))
    latest = max(int(observed_at.max()), int(_micros(polls)[-1]) if len(polls) else 0)
    size = step // MICROSECOND
    ticks = grid_ticks(first, end or from_micros((-(-latest // size) + 1) * size), step, anchor)
    if not len(ticks):
        raise UsageError(f"no tick of a {format_duration(step)} grid lies{_period(start, end)}")
    key = rows["station_key"].to_numpy()
    seen = key[np.append(True, key[1:] != key[:-1])]  # [station]
    held = as_of(rows, seen, ticks, polls, tolerance)  # [tick, station]
    stations, capacity = _stations(database, seen, ticks)
    counts, observed, is_open = _cells(rows, held)
    frozen = _polls(database, system_id, [Outcome.FROZEN], start, end)
    return Panel(
        system_id=system_id,
        timezone=timezone,
        ticks=ticks.astype("datetime64[s]"),
        step=step,
        tolerance=tolerance,
        stations=stations,
        counts=counts,
        observed=observed,
        trusted=_trusted(rows, held, _micros(ticks), _micros(polls), _micros(frozen), timezone),
        open=is_open,
        capacity=capacity,
        weather=read_weather(database, system_id, ticks),
        special_days=(special_days or SpecialDays()).within(timezone),
    )


def _cells(
    rows: pa.Table, held: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Counts, observed [tick, station, channel] and open [tick, station] of the rows that hold."""
    counts = np.empty((*held.shape, len(CHANNELS)), dtype=np.int16)
    for channel, name in enumerate(CHANNELS):
        values = np.append(rows[name].fill_null(MISSING).to_numpy(), np.int16(MISSING))
        counts[:, :, channel] = values[held]  # MASKED is -1: the last, which is missing
    closed = np.zeros(len(rows) + 1, dtype=bool)
    for name in _FLAGS:
        closed[:-1] |= ~rows[name].fill_null(True).to_numpy()
    closed[-1] = True
    return counts, counts != MISSING, ~closed[held]


def _trusted(
    rows: pa.Table, held: npt.NDArray[np.int64], ticks: Micros, polls: Micros, frozen: Micros, timezone: str
) -> npt.NDArray[np.bool_]:
    """What hindsight leaves standing, bool[tick, station]: not observed in a frozen spell, not taken back at once.

    `frozen` are the polls that the collector called so: they say when a spell began that it saw only later.
    """
    time = _times(rows)
    heard = np.unique(np.concatenate([np.unique(time), polls, frozen]))
    moved = np.bincount(np.searchsorted(heard, time[changed_rows(rows)]), minlength=len(heard))
    still = frozen_polls(heard, moved, held.shape[1], timezone, np.isin(heard, frozen))
    alive = ~np.append(still, False)[np.searchsorted(heard, ticks, side="right") - 1]  # [tick]; -1 is the last
    taken_back = np.append(spikes(rows), False)
    trusted: npt.NDArray[np.bool_] = alive[:, None] & ~taken_back[held]
    return trusted


def _stations(
    database: Database, keys: npt.NDArray[np.int32], ticks: npt.NDArray[np.datetime64]
) -> tuple[Stations, npt.NDArray[np.int16]]:
    """Who the stations are (as described by the last tick), and capacity as it was known, int16[tick, station].

    Before a station's first version, the first one holds.
    """
    micros = _micros(ticks)
    place = {int(key): column for column, key in enumerate(keys)}
    names: list[tuple[str, str | None]] = [("", None)] * len(keys)
    about: list[tuple[str | None, float | None, float | None]] = [(None, None, None)] * len(keys)
    begun = np.zeros(len(keys), dtype=bool)
    capacities = np.zeros(len(keys), dtype=np.int16)
    changes: list[tuple[int, int, int]] = []  # first tick, column, docks
    station, version = Station.__table__.c, StationVersion.__table__.c
    with database.read() as connection:
        system = select(Station.system_key).where(Station.key == int(keys[0])).scalar_subquery()
        for key, *identity in connection.execute(
            select(station.key, station.station_id, station.code).where(station.system_key == system)
        ):
            if key in place:
                names[place[key]] = (identity[0], identity[1])
        query = select(
            version.station_key, version.valid_from, version.name, version.lat, version.lon, version.capacity
        )
        query = query.join(Station.__table__, station.key == version.station_key).where(station.system_key == system)
        for key, valid_from, *described, docks in connection.execute(
            query.order_by(version.station_key, version.valid_from)
        ):
            column = place.get(key)
            if column is None:
                continue
            since = int(np.searchsorted(micros, to_micros(valid_from)))
            if not begun[column]:
                capacities[column] = docks or 0
            elif since < len(ticks):
                changes.append((since, column, docks or 0))
            if not begun[column] or since < len(ticks):
                about[column] = (described[0], described[1], described[2])
            begun[column] = True
    capacity = np.broadcast_to(capacities, (len(ticks), len(keys)))
    if changes:
        capacity = capacity.copy()
        for since, column, docks in changes:
            capacity[since:, column] = docks
    ids, codes = zip(*names, strict=True)
    name, lat, lon = zip(*about, strict=True)
    coordinates = (np.array([np.nan if x is None else x for x in axis], dtype=np.float64) for axis in (lat, lon))
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


def _by_station(rows: pa.Table) -> pa.Table:
    """Rows of the database, of which no two have the same station and time, by station and time."""
    key, time = rows["station_key"].to_numpy(), _times(rows)
    if ((key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & (time[1:] > time[:-1]))).all():
        # Times are read in place, and would keep the driver's batches alive: all columns of them, in 64 bits.
        place = rows.column_names.index("observed_at")
        return rows.set_column(place, rows.field(place), pa.array(time).cast(TIME))
    order = np.argsort(time, kind="stable")
    key = key[order]
    if len(key) and key.max() - key.min() < 1 << 16:
        key = (key - key.min()).astype(np.uint16)  # which NumPy sorts by radix, ten times faster
    return rows.take(pa.array(order[np.argsort(key, kind="stable")]))


def _without_counts(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Rows that say that the station's state became unknown: null in all counts that were read, bool[row]."""
    unknown = np.ones(len(rows), dtype=bool)
    for name in set(COUNTS).intersection(rows.column_names):
        unknown &= rows[name].is_null().to_numpy()
    return unknown


def _times(rows: pa.Table) -> Micros:
    """When each row was observed, microseconds since 1970, int64[row]."""
    times: Micros = pc.cast(rows["observed_at"], pa.int64()).to_numpy()
    return times


def _micros(times: npt.NDArray[np.datetime64]) -> Micros:
    return times.astype("datetime64[us]").astype(np.int64)
