"""Polls and snapshots made by hand, for tests of what stands behind the decoder."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import select

from velib_predictor.data.database import Database
from velib_predictor.data.raw import STATUS, Document, RawPoll, content_hash
from velib_predictor.data.schema import Poll, Station, StationStatus
from velib_predictor.data.snapshot import Outcome, Snapshot, StationInfo, Values
from velib_predictor.data.snapshot import StationStatus as Status

Rows = list[tuple[str, datetime, Values]]


def raw_poll(at: datetime, *, status: int = 200, system_id: str = "velib", **more: object) -> RawPoll:
    """A poll as the feed client would hand it over; its body is not needed where the snapshot is given."""
    document = Document(
        name=STATUS,
        url="http://127.0.0.1/",
        status=status,
        fetched_at=at,
        duration_s=0.1,
        sha256=content_hash(b""),
        size=0,
    )
    return RawPoll(system_id=system_id, polled_at=at, scheduled_at=at, documents=(document,), **more)  # type: ignore[arg-type]


def snapshot(
    at: datetime,
    bikes: Mapping[str, int],
    *,
    rejected: Iterable[str] = (),
    information: Iterable[StationInfo] = (),
    codes: Mapping[str, str] | None = None,
) -> Snapshot:
    """A snapshot in which each station has 20 docks, of which `bikes` are taken."""
    stations = tuple(
        Status(name, (codes or {}).get(name), Values(count, count, 0, 20 - count, None, None, True, True, True), at)
        for name, count in bikes.items()
    )
    return Snapshot(
        system_id="velib",
        fetched_at=at,
        feed_time=at,
        stations=stations,
        rejected=tuple(rejected),
        information=tuple(information),
    )


def stored_rows(database: Database) -> Rows:
    """All station rows, by station and time."""
    columns = [StationStatus.__table__.c[name] for name in Values._fields]
    query = (
        select(Station.station_id, StationStatus.observed_at, *columns)
        .join(StationStatus, StationStatus.station_key == Station.key)
        .order_by(Station.station_id, StationStatus.observed_at)
    )
    with database.read() as connection:
        return [(row[0], row[1], Values(*row[2:])) for row in connection.execute(query)]


def stored_ledger(database: Database) -> list[tuple[datetime, Outcome, int, int, int]]:
    """The ledger, by time."""
    query = select(Poll.polled_at, Poll.outcome, Poll.stations, Poll.changed, Poll.rejected).order_by(Poll.polled_at)
    with database.read() as connection:
        return [(row[0], Outcome(row[1]), *row[2:]) for row in connection.execute(query)]


def as_of(rows: Rows, station_id: str, at: datetime) -> Values | None:
    """The slow, obvious reading: the last row of the station at or before a time."""
    found = [values for name, observed_at, values in rows if name == station_id and observed_at <= at]
    return found[-1] if found else None
