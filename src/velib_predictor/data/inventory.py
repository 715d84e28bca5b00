"""What the database holds, in numbers."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select

from velib_predictor.data.database import Database
from velib_predictor.data.schema import Poll, Station, StationStatus, System, Weather
from velib_predictor.utils.temporal import format_time


def inventory(database: Database) -> list[dict[str, Any]]:
    """For each system: stations, rows and their time range, polls by outcome."""
    with database.read() as connection:
        systems = connection.execute(select(System.key, System.system_id, System.name).order_by(System.system_id)).all()
        found = []
        for key, system_id, name in systems:
            rows, first, last = connection.execute(
                select(func.count(), func.min(StationStatus.observed_at), func.max(StationStatus.observed_at))
                .select_from(Station)
                .join(StationStatus, StationStatus.station_key == Station.key)
                .where(Station.system_key == key)
            ).one()
            outcomes = connection.execute(
                select(Poll.outcome, func.count()).where(Poll.system_key == key).group_by(Poll.outcome)
            ).all()
            stations = select(func.count()).select_from(Station).where(Station.system_key == key)
            found.append(
                {
                    "system_id": system_id,
                    "name": name,
                    "stations": connection.execute(stations).scalar_one(),
                    "rows": rows,
                    "first": format_time(first) if first else None,
                    "last": format_time(last) if last else None,
                    "polls": sum(count for _, count in outcomes),
                    "outcomes": {str(row[0]): int(row[1]) for row in sorted(outcomes)},
                }
            )
    return found


def delete_expired_rows(database: Database, retention: timedelta, now: datetime) -> int:
    """Delete station rows, ledger rows and forecasts of the weather past `retention`; returns how many rows.

    Age counts from the newest row: a clock that runs ahead, or a database that nobody adds to, makes nothing old.
    TimescaleDB's retention policy drops whole chunks on its own; this is the plain way, and harmless beside it.
    """
    with database.write() as connection:
        newest = connection.execute(select(func.max(StationStatus.observed_at))).scalar_one()
        if newest is None:
            return 0
        before = min(now, newest) - retention
        rows = connection.execute(delete(StationStatus).where(StationStatus.observed_at < before)).rowcount
        polls = connection.execute(delete(Poll).where(Poll.polled_at < before)).rowcount
        weather = connection.execute(delete(Weather).where(Weather.issued_at < before)).rowcount
    return rows + polls + weather
