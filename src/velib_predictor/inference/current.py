"""What is there now: the last word on every station, as people ask for it between two issues."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select

from velib_predictor.data.database import Database
from velib_predictor.data.schema import Poll, Station, StationStatus, StationVersion, System
from velib_predictor.data.snapshot import Outcome

ACCEPTED = [str(outcome) for outcome in Outcome if outcome.accepted]


class StationNow(NamedTuple):
    """One station and the last that was seen of it; None: not known."""

    station_id: str
    code: str | None
    name: str | None
    lat: float | None
    lon: float | None
    capacity: int | None
    observed_at: datetime | None
    bikes: int | None
    mechanical: int | None
    ebikes: int | None
    docks: int | None
    is_installed: bool | None
    is_renting: bool | None
    is_returning: bool | None


@dataclass(frozen=True)
class Current:
    """All stations of a system now.

    Attributes:
        heard_at: when the feed was last heard and believed; None: never, or the history brought no ledger.
        stations: by station id. A station's `observed_at` is the poll that last confirmed it.
    """

    heard_at: datetime | None
    stations: dict[str, StationNow]


@dataclass(frozen=True)
class SystemAbout:
    """A system as people are told of it."""

    system_id: str
    name: str | None
    timezone: str | None
    licence: str | None
    attribution: str | None


def systems(database: Database) -> list[SystemAbout]:
    """The systems that are stored, by id."""
    columns = (System.system_id, System.name, System.timezone, System.licence, System.attribution)
    with database.read() as connection:
        return [SystemAbout(*row) for row in connection.execute(select(*columns).order_by(System.system_id))]


def heard_at(database: Database, system_id: str) -> datetime | None:
    """When the system's feed was last heard and believed."""
    query = select(func.max(Poll.polled_at)).join(System, System.key == Poll.system_key)
    with database.read() as connection:
        found: datetime | None = connection.execute(
            query.where(System.system_id == system_id, Poll.outcome.in_(ACCEPTED))
        ).scalar()
    return found


def current(database: Database, system_id: str) -> Current:
    """What is known of every station of a system that has not vanished."""
    status, version = StationStatus.__table__.c, StationVersion.__table__.c
    last = select(func.max(status.observed_at)).where(status.station_key == Station.key)
    newest = select(func.max(version.valid_from)).where(version.station_key == Station.key)
    query = (
        select(
            Station.station_id,
            Station.code,
            version.name,
            version.lat,
            version.lon,
            version.capacity,
            *(status[name] for name in StationNow._fields[6:]),
            version.valid_to,
        )
        .join(System, System.key == Station.system_key)
        .outerjoin(
            StationStatus,
            (status.station_key == Station.key) & (status.observed_at == last.correlate(Station).scalar_subquery()),
        )
        .outerjoin(
            StationVersion,
            (version.station_key == Station.key) & (version.valid_from == newest.correlate(Station).scalar_subquery()),
        )
        .where(System.system_id == system_id)
        .order_by(Station.station_id)
    )
    heard = heard_at(database, system_id)
    with database.read() as connection:
        rows = connection.execute(query).all()
    found = {}
    for *values, valid_to in rows:
        station = StationNow(*values)
        if valid_to is None:
            seen = max((time for time in (station.observed_at, heard) if time), default=None)
            found[station.station_id] = station._replace(observed_at=seen)
    return Current(heard, found)
