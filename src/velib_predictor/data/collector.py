"""The polling loop: ask, archive (acknowledge), decode, check, store; one thread a system, never overlapping."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial

import msgspec

from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.archive import Archive
from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.clock import SystemClock, polling_period
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.feed import Feed
from velib_predictor.data.housekeeping import keep_archive
from velib_predictor.data.intake import Intake
from velib_predictor.data.lock import AlreadyRunningError, Verify, single_instance
from velib_predictor.data.raw import RawPoll
from velib_predictor.data.snapshot import Snapshot
from velib_predictor.data.store import Decoded, Store
from velib_predictor.data.transport import HttpTransport
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import format_duration, format_time, next_aligned

_LONGEST_BACKOFF = timedelta(minutes=10)
_FAILURES_BEFORE_BACKOFF = 5
_MOST_MISSED_ROWS = 10  # writing them takes time, too; more become one row that counts them
_HOUSEKEEPING_EVERY_S = 3600.0
_log = get_logger(__name__)

OnPoll = Callable[[str, LedgerEntry, str | None], None]
"""Told of each poll that was stored: the system, its entry in the ledger, and the ledger's remark."""


class Collector:
    """Polls one system into its archive and the database.

    Args:
        every: time between polls, over all settings and the feed's ttl; None: as configured.
    """

    def __init__(
        self,
        system_id: str,
        system: SystemSettings,
        settings: Settings,
        database: Database,
        *,
        every: timedelta | None = None,
        feed: Feed | None = None,
        clock: SystemClock | None = None,
        on_poll: OnPoll = lambda _system_id, _entry, _detail: None,
    ) -> None:
        self.system_id = system_id
        self._system = system
        self._settings = settings
        self._every = every
        self._ttl_s: int | None = None
        self._clock = clock or SystemClock()
        self._on_poll = on_poll
        self._archive = Archive(settings.raw_dir, system_id)
        budget = min(self.every / 2, settings.collector.total_timeout)  # a later retry would run into the next tick
        transport = HttpTransport(settings.collector, system.headers, budget=budget, clock=self._clock.now)
        self._feed = feed or Feed(system_id, system, settings.collector, transport)
        if last := self._archive.last():
            self._feed.resume(*last)
        self._intake = Intake(self._archive, Store(database, system_id, system, settings.collector), self._stored)
        self._unknown: set[str] = set()
        self._failures = 0
        self._stop = threading.Event()
        self._stale = False
        self._housekeeping: threading.Thread | None = None
        self._kept_house_at: float | None = None
        self.last_raw: RawPoll | None = None
        """The last poll as it was made."""

    @property
    def every(self) -> timedelta:
        """The time between polls."""
        return polling_period(self._system, self._settings.collector, self._ttl_s, self._every)

    @property
    def last_detail(self) -> str | None:
        """The ledger's remark on the last poll that was stored."""
        return self._intake.store.last_detail

    # -- one poll -------------------------------------------------------------------------------------------

    def run_once(self) -> LedgerEntry:
        """Make one poll now.

        Raises:
            DatabaseError: it is archived, but cannot be stored now.
        """
        self._intake.catch_up()
        entry = self._intake.take(*self._ask(self._clock.now()))
        assert entry is not None  # noqa: S101 - nothing says that it was enough
        return entry

    def _ask(self, scheduled_at: datetime) -> tuple[RawPoll, Mapping[str, bytes]]:
        raw, bodies = self._feed.poll(scheduled_at, self._clock.now)
        if (step := self._clock.step()) is not None:
            raw = msgspec.structs.replace(raw, clock_step_s=step)
        self._failures = self._failures + 1 if raw.error else 0
        self.last_raw = raw
        return raw, bodies

    def _stored(self, entry: LedgerEntry, decoded: Decoded) -> None:
        """Called for each poll that was stored."""
        if isinstance(decoded, Snapshot):
            self._ttl_s = decoded.ttl_s
            described = {info.station_id for info in decoded.information}
            unknown = {station.station_id for station in decoded.stations} - described
            if unknown - self._unknown:  # once for each newcomer: some feeds never describe all (Bicing, 2023)
                self._feed.information_due = True
            self._unknown = unknown
        log = _log.info if entry.outcome.accepted else _log.warning
        numbers = {"stations": entry.stations, "changed": entry.changed, "rejected": entry.rejected}
        log("poll", system=self.system_id, outcome=str(entry.outcome), **numbers, detail=self.last_detail)
        self._on_poll(self.system_id, entry, self.last_detail)

    def _take(self, raw: RawPoll, bodies: Mapping[str, bytes]) -> None:
        """Take a poll in; without the database it waits in the archive."""
        give_up_at = time.monotonic() + self.every.total_seconds() / 2

        def enough() -> bool:
            return self._stop.is_set() or time.monotonic() > give_up_at

        try:
            if self._intake.take(raw, bodies, enough) is None:
                _log.warning("poll archived; others wait before it to be stored", system=self.system_id)
        except DatabaseError as error:
            _log.error("poll archived but not stored; the next tries again", system=self.system_id, error=str(error))

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, verify: Verify = lambda: None) -> None:
        """Poll on aligned ticks until `stop` is set; a tick that has begun is finished.

        The first poll is made at once where there is none of the last period: nobody likes to wait for a quarter.

        Raises:
            AlreadyRunningError: `verify` found that the system's lock has gone to another process.
        """
        self._stop = stop
        self._guarded(self._note_downtime)
        now = self._clock.now()
        previous, tick = None, now if self._stale else self._next_tick(now)
        while not self._clock.wait_until(tick, stop):
            self._guarded(partial(self._make_tick, previous, tick, verify))
            previous, tick = tick, self._after(tick)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Whatever happens in one tick must not end a year of collecting."""
        try:
            step()
        except AlreadyRunningError:
            raise
        except Exception as error:
            _log.exception("tick failed", system=self.system_id, error=str(error))

    def _make_tick(self, previous: datetime | None, tick: datetime, verify: Verify) -> None:
        try:
            verify()
        except DatabaseError as error:  # the archive needs no database
            _log.error("the database cannot be reached", system=self.system_id, error=str(error))
        skipped = _ticks(previous, tick, self.every) if previous else []
        if skipped:
            backing_off = self._failures >= _FAILURES_BEFORE_BACKOFF
            reason = "the feed has been failing; asking less often" if backing_off else "the poll before took too long"
            self._miss(skipped, reason)
        self._take(*self._ask(tick))
        self._keep_house()

    def _next_tick(self, after: datetime) -> datetime:
        return next_aligned(after, self.every, min(self._settings.collector.lead, self.every / 4))

    def _after(self, tick: datetime) -> datetime:
        """The tick to make next: the next aligned one; a later one while the feed keeps failing."""
        now = self._clock.now()
        # A tick just ahead is the one that was made a moment early; one far ahead, that the clock was set back.
        following = self._next_tick(tick if timedelta(0) < tick - now < self.every else now)
        failures = self._failures - _FAILURES_BEFORE_BACKOFF
        if failures < 0 or self.every >= _LONGEST_BACKOFF:
            return following
        pause = min(self.every * 2 ** min(failures + 1, 20), _LONGEST_BACKOFF)
        return max(following, self._next_tick(tick + pause - self.every))

    def _note_downtime(self) -> None:
        """Store what still waits, and say in the ledger for how long nobody asked."""
        try:
            complete = self._intake.catch_up(self._stop.is_set)
        except DatabaseError as error:
            _log.error("archived polls wait for the database", system=self.system_id, error=str(error))
            return
        last, now = self._intake.store.last_polled_at, self._clock.now()
        self._stale = last is None or not timedelta(0) <= now - last <= self.every
        if complete and last and now - last > self.every * 1.5:
            self._miss([now], f"the collector was not running since {format_time(last)}")

    def _miss(self, ticks: list[datetime], reason: str) -> None:
        """Write ticks that were not made into the ledger."""
        if len(ticks) > _MOST_MISSED_ROWS:
            reason, ticks = f"{reason} ({len(ticks)} ticks)", ticks[-1:]
        for tick in ticks:
            error = f"{reason}: tick {format_time(tick)}"
            now = self._clock.now()
            self._take(
                RawPoll(system_id=self.system_id, polled_at=now, scheduled_at=tick, error=error, missed=True), {}
            )

    def _keep_house(self) -> None:
        """Once an hour, beside the loop: pack closed days, delete expired ones."""
        now_s = time.monotonic()
        if self._kept_house_at is not None and now_s - self._kept_house_at < _HOUSEKEEPING_EVERY_S:
            return
        if self._housekeeping is None or not self._housekeeping.is_alive():
            self._kept_house_at = now_s
            work = (self._archive, self._settings, self._clock.now())
            self._housekeeping = threading.Thread(target=keep_archive, args=work, daemon=True)
            self._housekeeping.start()


def collect(
    settings: Settings,
    database: Database,
    systems: Mapping[str, SystemSettings],
    stop: threading.Event,
    every: timedelta | None = None,
    on_poll: OnPoll = lambda _system_id, _entry, _detail: None,
    clock: SystemClock | None = None,
) -> None:
    """Poll all `systems` until `stop` is set; `on_poll` is called from the thread of each system.

    Raises:
        AlreadyRunningError: another process writes one of them, from the start or since a lock was lost.
        VelibError: a system's thread ended although nobody had asked it to.
    """
    failures: dict[str, BaseException] = {}

    def run(collector: Collector, verify: Verify) -> None:
        try:
            collector.run(stop, verify)
        except BaseException as error:
            _log.exception("collecting ends", system=collector.system_id, error=str(error))
            failures[collector.system_id] = error

    with ExitStack() as locks:
        threads = []
        for name, system in systems.items():
            verify = locks.enter_context(single_instance(settings.raw_dir / name, name, database))
            collector = Collector(name, system, settings, database, every=every, on_poll=on_poll, clock=clock)
            threads.append(threading.Thread(target=run, args=(collector, verify), name=f"collect-{name}"))
            period = format_duration(collector.every)
            _log.info("collecting", system=name, every=period, database=str(database))
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without time-out would keep signals waiting
                thread.join(timeout=0.5)
    for name, error in failures.items():
        if isinstance(error, VelibError):
            raise error
        raise VelibError(f"collecting {name!r} ended by a mistake in this program: {error!r}") from error


def _ticks(after: datetime, before: datetime, every: timedelta) -> list[datetime]:
    """The ticks that lie between a poll and a tick, both excluded."""
    count = -(-(before - after) // every) - 1
    return [before - i * every for i in range(count, 0, -1)]
