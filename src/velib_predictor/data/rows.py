"""Station rows and ledger rows: the few statements with which the store reads and writes them."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, insert, select

from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.schema import Poll, Station, StationStatus
from velib_predictor.data.snapshot import Outcome, Values
from velib_predictor.utils.temporal import to_micros

COLUMNS = ("station_key", "observed_at", *Values._fields, "last_reported")
_LIST = ", ".join(COLUMNS)
_MARKS = ", ".join("?" * len(COLUMNS))


class Row(NamedTuple):
    """One row of `station_status`."""

    station_key: int
    observed_at: datetime
    values: Values
    last_reported: datetime | None


def insert_rows(connection: Connection, rows: Sequence[Row]) -> None:
    """Insert new rows: one prepared statement on SQLite, COPY on PostgreSQL."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(
            f"INSERT INTO station_status ({_LIST}) VALUES ({_MARKS})",  # noqa: S608 - our own column names
            [_sqlite_row(row) for row in rows],
        )
        return
    cursor: Any = connection.connection.cursor()
    with cursor, cursor.copy(f"COPY station_status ({_LIST}) FROM STDIN") as copy:
        for key, observed_at, values, last_reported in rows:
            copy.write_row((key, observed_at, *values, last_reported))


def insert_missing_rows(connection: Connection, rows: Iterable[Row]) -> None:
    """Insert the rows whose (station, time) is not taken yet."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as upsert
    else:
        from sqlalchemy.dialects.postgresql import insert as upsert  # type: ignore[assignment]
    values = [
        {
            "station_key": row.station_key,
            "observed_at": row.observed_at,
            **row.values._asdict(),
            "last_reported": row[3],
        }
        for row in rows
    ]
    if values:
        connection.execute(upsert(StationStatus).on_conflict_do_nothing(), values)


def stations_with_rows(connection: Connection, system_key: int, after: datetime | None, before: datetime) -> list[int]:
    """Keys of the stations that have a row between two times, both excluded; `after` None: ever before."""
    row = select(StationStatus.station_key).where(
        StationStatus.station_key == Station.key, StationStatus.observed_at < before
    )
    if after is not None:
        row = row.where(StationStatus.observed_at > after)
    query = select(Station.key).where(Station.system_key == system_key, row.correlate(Station).exists())
    return list(connection.execute(query).scalars())


def last_rows(connection: Connection, system_key: int, before: datetime | None) -> Iterator[Row]:
    """The last row of each station (strictly before a time, if one is given): what is known of it then."""
    latest = select(func.max(StationStatus.observed_at)).where(StationStatus.station_key == Station.key)
    if before is not None:
        latest = latest.where(StationStatus.observed_at < before)
    table = StationStatus.__table__
    query = (
        select(*(table.c[name] for name in COLUMNS))
        .select_from(Station)
        .join(
            table,
            and_(
                table.c.station_key == Station.key, table.c.observed_at == latest.correlate(Station).scalar_subquery()
            ),
        )
        .where(Station.system_key == system_key)
    )
    for row in connection.execute(query):
        yield Row(row[0], row[1], Values(*row[2:-1]), row[-1])


def insert_poll(connection: Connection, system_key: int, entry: LedgerEntry, **more: Any) -> None:
    """Write a poll's row in the ledger."""
    values = {"system_key": system_key, **entry._asdict(), "outcome": str(entry.outcome), **more}
    connection.execute(insert(Poll), values)


def polls(
    connection: Connection, system_key: int, start: datetime | None = None, end: datetime | None = None
) -> list[LedgerEntry]:
    """The ledger rows in [start, end), in time order."""
    query = select(Poll.polled_at, Poll.outcome, Poll.stations, Poll.changed, Poll.rejected)
    query = query.where(Poll.system_key == system_key).order_by(Poll.polled_at)
    if start is not None:
        query = query.where(Poll.polled_at >= start)
    if end is not None:
        query = query.where(Poll.polled_at < end)
    return [LedgerEntry(row[0], Outcome(row[1]), *row[2:]) for row in connection.execute(query)]


def last_poll(connection: Connection, system_key: int, before: datetime | None = None) -> LedgerEntry | None:
    """The newest ledger row (strictly before a time, if one is given)."""
    newest = select(func.max(Poll.polled_at)).where(Poll.system_key == system_key)
    if before is not None:
        newest = newest.where(Poll.polled_at < before)
    at = connection.execute(newest).scalar_one_or_none()
    return polls(connection, system_key, start=at)[0] if at is not None else None


def last_answered_at(connection: Connection, system_key: int, before: datetime | None = None) -> datetime | None:
    """When the last answer came that held stations, readable or not."""
    newest = select(func.max(Poll.polled_at)).where(Poll.system_key == system_key, Poll.stations + Poll.rejected > 0)
    if before is not None:
        newest = newest.where(Poll.polled_at < before)
    return connection.execute(newest).scalar_one_or_none()


def next_accepted_poll(connection: Connection, system_key: int, after: datetime) -> datetime | None:
    """The first poll after a time that confirms unchanged stations."""
    accepted = [str(outcome) for outcome in Outcome if outcome.accepted]
    query = select(func.min(Poll.polled_at)).where(
        Poll.system_key == system_key, Poll.polled_at > after, Poll.outcome.in_(accepted)
    )
    return connection.execute(query).scalar_one_or_none()


def _sqlite_row(row: Row) -> tuple[Any, ...]:
    key, observed_at, values, last_reported = row
    return key, to_micros(observed_at), *values, None if last_reported is None else to_micros(last_reported)
