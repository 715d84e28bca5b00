"""From a fitted model and the database to the forecast of an instant: the path that serves."""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, select

from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.schema import Poll, Station, StationStatus, System
from velib_predictor.data.snapshot import Outcome
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.forecast.forecast import Forecast
from velib_predictor.models.base import Forecaster
from velib_predictor.utils.errors import DegradedError, UsageError
from velib_predictor.utils.temporal import EPOCH, MICROSECOND, format_duration, format_time, parse_duration


class Answer(NamedTuple):
    """A forecast and the panel, up to its origin, that it was made from."""

    forecast: Forecast
    panel: Panel


def forecast_at(
    model: Forecaster, database: Database, system_id: str, now: datetime, special_days: SpecialDays | None = None
) -> Answer:
    """What the model says at the last tick at or before `now`, from what was known then.

    It equals the backtest's forecast of that tick bit for bit: the same builder reads the same window.

    Raises:
        UsageError: an unknown system, or no history before `now`.
        ValueError: `now` is naive.
        DegradedError: nothing recent enough was observed, and the model needs to know what is there now.
    """
    if now.tzinfo is None:
        raise ValueError(f"naive time {now!r}: attach a time zone")
    step = model.spec.step
    origin = EPOCH + (now - EPOCH) // step * step
    tolerance = parse_duration(model.report.tolerance) if model.report else step
    start = origin - model.lookback * step
    panel = Panel.load(
        database, system_id, start, origin + MICROSECOND, step=step, tolerance=tolerance, special_days=special_days
    )
    forecast = next(model.predict(panel, panel.ticks[-1:]))
    if not forecast.known.any():
        newest = newest_observation(database, system_id, origin)
        raise DegradedError(
            f"nothing of {system_id!r} was observed in the {format_duration(tolerance)} before {format_time(origin)}"
            + (f"; the newest is of {format_time(newest)}, {_age(origin - newest)} before that" if newest else "")
            + "; collect first (`velib collect`), or ask for an earlier time with --now"
        )
    return Answer(forecast, panel)


def newest_observation(database: Database, system_id: str, before: datetime) -> datetime | None:
    """When the system was last heard and believed, at or before a time: by a row, or by a poll that confirmed it.

    A frozen feed's few changes are stored, too, but say nothing of the others.
    """
    doubted = select(Poll.polled_at).where(
        Poll.system_key == Station.system_key,
        Poll.polled_at == StationStatus.observed_at,
        Poll.outcome == str(Outcome.FROZEN),
    )
    # Station by station, each a step down the primary key: the newest row of all would read the whole table.
    last = select(func.max(StationStatus.observed_at)).where(
        StationStatus.station_key == Station.key,
        StationStatus.observed_at <= before,
        ~doubted.correlate(Station, StationStatus).exists(),
    )
    row = select(func.max(last.correlate(Station).scalar_subquery())).select_from(Station)
    row = row.join(System, System.key == Station.system_key).where(System.system_id == system_id)
    accepted = [str(outcome) for outcome in Outcome if outcome.accepted]
    poll = select(func.max(Poll.polled_at)).join(System, System.key == Poll.system_key)
    poll = poll.where(System.system_id == system_id, Poll.outcome.in_(accepted), Poll.polled_at <= before)
    with database.read() as connection:
        found: list[datetime | None] = [connection.execute(query).scalar() for query in (row, poll)]
    return max((time for time in found if time is not None), default=None)


def _age(age: timedelta) -> str:
    """To the second; of more than a day, to the minute."""
    return format_duration(age - age % timedelta(seconds=60 if age > timedelta(days=1) else 1))


def only_system(database: Database, system_id: str | None) -> str:
    """The system that is meant: the one named, else the only one there is.

    Raises:
        UsageError: there are several, or none.
    """
    if system_id is not None:
        return system_id
    with database.read() as connection:
        systems = [str(name) for name in connection.execute(select(System.system_id)).scalars()]
    if len(systems) != 1:
        there = ", ".join(sorted(systems)) or "none yet"
        raise UsageError(f"say which system with --system; the database {database} holds: {there}")
    return systems[0]
