"""What `velib doctor` looks at: environment, settings, database, disk, clock, and what a feed's answers are worth."""

import platform
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.archive import Archive
from velib_predictor.data.clock import polling_period
from velib_predictor.data.database import Database, head_revision
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.feed import Feed
from velib_predictor.data.raw import DISCOVERY, STATUS, DecodeError, RawPoll
from velib_predictor.data.replay import decode
from velib_predictor.data.rows import last_poll
from velib_predictor.data.schema import Station, StationStatus, System
from velib_predictor.data.snapshot import Snapshot
from velib_predictor.data.timescale import Level, state
from velib_predictor.data.transport import HttpTransport
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.temporal import format_duration, format_time

_CLOCK_WARNING_S = 5.0
_PACKAGES = ("numpy", "pyarrow", "sqlalchemy", "httpx", "msgspec", "psycopg", "adbc-driver-manager")


class Severity(IntEnum):
    """How bad a finding is; the worst decides the exit code."""

    OK = 0
    NOTE = 1
    DEGRADED = 2
    FAILED = 3
    UNREACHABLE = 4


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    severity: Severity
    message: str
    numbers: dict[str, float | int | str | None] = {}  # noqa: RUF012 - never changed


def examine(settings: Settings, systems: dict[str, SystemSettings], *, feeds: bool = True) -> Iterator[Finding]:
    """All findings, one by one, since a slow feed takes its time. `feeds` False asks no network."""
    yield _environment()
    yield _disk(settings)
    database = Database(settings.database_url)
    try:
        yield _database(database)
        usable = database.exists() and database.revision() == head_revision()
    except VelibError as error:
        yield Finding("database", Severity.FAILED, str(error))
        usable = False
    for system_id, system in systems.items():
        if usable:
            yield from _stored(database, settings, system_id, system)
        if feeds:
            yield from _feed(settings, system_id, system)
    database.close()


def _environment() -> Finding:
    found: dict[str, float | int | str | None] = {"python": platform.python_version()}
    missing = []
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "environment", Severity.FAILED, f"packages are missing: {', '.join(missing)}; run `make setup`", found
        )
    return Finding("environment", Severity.OK, f"Python {found['python']} on {platform.system()}", found)


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    free_mb = usage.free // 2**20
    numbers: dict[str, float | int | str | None] = {
        "free_mb": free_mb,
        "free_share": round(usage.free / usage.total, 3),
    }
    if free_mb < settings.archive.min_free_mb:
        message = f"{free_mb} MB free below {settings.data_dir}; the archive wants {settings.archive.min_free_mb} MB"
        return Finding("disk", Severity.DEGRADED, message, numbers)
    return Finding("disk", Severity.OK, f"{free_mb / 1024:.1f} GB free below {settings.data_dir}", numbers)


def _database(database: Database) -> Finding:
    revision = database.revision() if database.exists() else None
    if revision is None:
        return Finding("database", Severity.NOTE, f"{database} is not initialised yet; `velib db init` does it")
    if revision != head_revision():
        message = f"{database} has schema {revision}, this program needs {head_revision()}; run `velib db upgrade`"
        return Finding("database", Severity.FAILED, message)
    found = state(database)
    extra = "" if found.level is Level.NONE else f", TimescaleDB {found.version} ({found.level})"
    return Finding("database", Severity.OK, f"{database}, schema {revision}{extra}")


def _stored(database: Database, settings: Settings, system_id: str, system: SystemSettings) -> Iterator[Finding]:
    """What the ledger and the archive say of the collector's work."""
    with database.read() as connection:
        key = connection.execute(select(System.key).where(System.system_id == system_id)).scalar()
        last = last_poll(connection, key) if key is not None else None
    if last is None:
        yield Finding(f"{system_id}: ledger", Severity.NOTE, "nothing collected yet; `velib collect` does it")
        return
    age = datetime.now(UTC) - last.polled_at
    # The feed's ttl is not in the ledger: the longest that is honoured is allowed for.
    late = age > 2 * polling_period(system, settings.collector, feed_ttl_s=300)
    severity = Severity.OK if last.outcome.accepted and not late else Severity.DEGRADED
    yield Finding(
        f"{system_id}: ledger",
        severity,
        f"last poll {format_time(last.polled_at)} ({format_duration(_whole_seconds(age))} ago): {last.outcome}",
        {"age_s": round(age.total_seconds()), "outcome": str(last.outcome)},
    )
    waiting = sum(1 for _ in Archive(settings.raw_dir, system_id).read(since=last.polled_at))
    if waiting:
        yield Finding(
            f"{system_id}: archive",
            Severity.DEGRADED,
            f"{waiting} archived polls are not stored; `velib replay` stores them",
        )
    yield _stored_lateness(database, system_id, last.polled_at)


def _stored_lateness(database: Database, system_id: str, until: datetime) -> Finding:
    """How many count changes of the last day came without a new last_reported."""

    def before(column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
        window = func.lag(column).over(partition_by=StationStatus.station_key, order_by=StationStatus.observed_at)
        return window.label(f"{column.key}_before")

    pairs = (
        select(
            StationStatus.bikes,
            StationStatus.docks,
            StationStatus.last_reported,
            before(StationStatus.bikes),
            before(StationStatus.docks),
            before(StationStatus.last_reported),
        )
        .join(Station, Station.key == StationStatus.station_key)
        .join(System, System.key == Station.system_key)
        .where(System.system_id == system_id, StationStatus.observed_at > until - timedelta(days=1))
        .subquery()
        .c
    )
    same = func.sum(case((pairs.last_reported <= pairs.last_reported_before, 1), else_=0))
    moved = or_(pairs.bikes != pairs.bikes_before, pairs.docks != pairs.docks_before)
    query = select(func.count(), same).where(pairs.last_reported_before.is_not(None), moved)
    with database.read() as connection:
        changes, silent = connection.execute(query).one()
    if not changes:
        return Finding(f"{system_id}: last_reported", Severity.NOTE, "no count has changed in the last day of rows")
    share = int(silent or 0) / changes
    return Finding(
        f"{system_id}: last_reported",
        Severity.NOTE if share > 0.05 else Severity.OK,
        f"{share:.0%} of the last day's {changes} count changes came without a newer last_reported",
        {"changes": changes, "silent_share": round(share, 4)},
    )


def _feed(settings: Settings, system_id: str, system: SystemSettings) -> Iterator[Finding]:
    """Ask the feed once, store nothing, and say what its answer is worth."""
    feed = Feed(system_id, system, settings.collector, HttpTransport(settings.collector, system.headers))
    poll, bodies = feed.poll(datetime.now(UTC), lambda: datetime.now(UTC))
    snapshot = decode(Decoder(), poll, bodies.__getitem__)
    name = f"{system_id}: feed"
    if not isinstance(snapshot, Snapshot):
        severity = Severity.FAILED if isinstance(snapshot, DecodeError) else Severity.UNREACHABLE
        yield Finding(name, severity, str(snapshot or poll.error or "no answer"))
        return
    rejected = len(snapshot.rejected)
    detail = f"{len(snapshot.stations)} stations" + (
        f", {rejected} rejected: {snapshot.rejected[0]}" if rejected else ""
    )
    if poll.fallback:
        yield Finding(name, Severity.DEGRADED, f"the feed does not answer, its fallback {poll.kind} does: {detail}")
    else:
        severity = Severity.OK if snapshot.stations else Severity.DEGRADED
        yield Finding(name, severity, detail, {"stations": len(snapshot.stations), "rejected": rejected})
    yield from _clock(system_id, poll)
    yield _lateness(system_id, snapshot)
    yield _ttl(settings, system_id, system, snapshot)


def _clock(system_id: str, poll: RawPoll) -> Iterator[Finding]:
    """This machine's clock against the Date header of the feed's server."""
    status = poll.document(STATUS) or poll.document(DISCOVERY)
    date = status.headers.get("date") if status else None
    if status is None or date is None:
        return
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return
    skew = (status.fetched_at - theirs).total_seconds()
    wrong = abs(skew) > _CLOCK_WARNING_S
    message = f"this clock is {skew:+.0f} s from the feed's server"
    if wrong:
        message += "; check that it is set by NTP: times of observation are this machine's"
    yield Finding(
        f"{system_id}: clock", Severity.DEGRADED if wrong else Severity.OK, message, {"skew_s": round(skew, 1)}
    )


def _lateness(system_id: str, snapshot: Snapshot) -> Finding:
    """How old last_reported is: on Vélib' up to an hour, however fresh the counts are."""
    name = f"{system_id}: last_reported"
    ages = sorted(
        (snapshot.fetched_at - station.last_reported).total_seconds()
        for station in snapshot.stations
        if station.last_reported is not None
    )
    if not ages:
        return Finding(name, Severity.NOTE, "the feed gives no last_reported")
    numbers: dict[str, float | int | str | None] = {
        "newest_s": round(ages[0]),
        "median_s": round(median(ages)),
        "p95_s": round(ages[int(0.95 * (len(ages) - 1))]),
        "over_a_day": sum(1 for age in ages if age > 86_400),
    }
    late = ages[0] > 300
    message = (
        f"newest {numbers['newest_s']} s, median {numbers['median_s']} s, 95 % {numbers['p95_s']} s old; "
        f"{numbers['over_a_day']} stations silent for over a day"
    )
    if late:
        message += ". It does not tell how old the counts are: the time of observation is the time of the fetch"
    return Finding(name, Severity.NOTE if late else Severity.OK, message, numbers)


def _ttl(settings: Settings, system_id: str, system: SystemSettings, snapshot: Snapshot) -> Finding:
    every = polling_period(system, settings.collector, snapshot.ttl_s)
    said = "none" if snapshot.ttl_s is None else f"{snapshot.ttl_s} s"
    message = f"polled every {format_duration(every)}, the feed's ttl is {said}"
    if system.ttl:
        message += f", overridden by {format_duration(system.ttl)}"
    elif snapshot.ttl_s and snapshot.ttl_s > max(every.total_seconds(), 300):
        message += "; that is too long for live counts: set `ttl` for this system if they move more often"
        return Finding(f"{system_id}: cadence", Severity.NOTE, message, {"ttl_s": snapshot.ttl_s})
    return Finding(f"{system_id}: cadence", Severity.OK, message, {"ttl_s": snapshot.ttl_s})


def _whole_seconds(duration: timedelta) -> timedelta:
    return timedelta(seconds=max(round(duration.total_seconds()), 0))
