"""The polling loop: ask, archive (acknowledge), decode, check, store; one thread a system, never overlapping."""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import msgspec

from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.archive import Archive
from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.database import Database
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.feed import Feed
from velib_predictor.data.lock import single_instance
from velib_predictor.data.raw import RawPoll
from velib_predictor.data.replay import decode
from velib_predictor.data.snapshot import Outcome, Snapshot
from velib_predictor.data.store import Store
from velib_predictor.data.transport import HttpTransport
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import format_duration, format_time, next_aligned

_LONGEST_TTL = timedelta(minutes=5)  # GBFS: real-time files must not be older, so a longer ttl is a mistake
_LONGEST_BACKOFF = timedelta(minutes=10)
_FAILURES_BEFORE_BACKOFF = 5
_MOST_MISSED_ROWS = 10  # writing them takes time, too; more become one row that counts them
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
        self._on_poll = on_poll
        self._system = system
        self._settings = settings
        self._every = every
        self._clock = clock or SystemClock()
        self._archive = Archive(settings.raw_dir, system_id)
        self._feed = feed or Feed(
            system_id, system, settings.collector, HttpTransport(settings.collector, system.headers)
        )
        if last := self._archive.last():
            self._feed.resume(*last)
        self._decoder = Decoder()
        self._store = Store(database, system_id, system, settings.collector)
        self._behind = True  # polls that were acknowledged but not stored before the last end
        self._ttl: timedelta | None = None
        self._unknown: set[str] = set()
        self._failures = 0
        self._housekeeping: threading.Thread | None = None
        self._packed_until: datetime | None = None

    # -- one poll -------------------------------------------------------------------------------------------

    def poll(self, scheduled_at: datetime) -> LedgerEntry | None:
        """Make one poll. None: it is archived, and stored as soon as the database can be written again."""
        raw, bodies = self._feed.poll(scheduled_at, self._clock.now)
        if (step := self._clock.step()) is not None:
            raw = msgspec.structs.replace(raw, clock_step_s=step)
        try:
            self._archive.put(raw, bodies)
        except OSError as error:  # not acknowledged, and so not stored either: the ledger says why
            _log.error("poll lost: the archive cannot be written", system=self.system_id, error=str(error))
            raw = msgspec.structs.replace(raw, documents=(), error=f"the raw archive cannot be written: {error}")
        return self._take(raw, bodies.__getitem__)

    def catch_up(self) -> int:
        """Store the archived polls that the ledger does not hold, in order; returns how many there were."""
        if not self._behind:
            return 0
        self._store.reload()
        count = 0
        for raw, body in self._archive.read(since=self._store.last_polled_at):
            entry = self._store.record(raw, decode(self._decoder, raw, body))
            self._on_poll(self.system_id, entry, self._store.last_detail)
            count += 1
        self._behind = False
        if count:
            _log.info("archived polls stored", system=self.system_id, polls=count)
        return count

    def _take(self, raw: RawPoll, body: Callable[[str], bytes]) -> LedgerEntry | None:
        started = time.perf_counter()
        try:
            if self._behind:  # this poll is in the archive too, at its end
                self.catch_up()
                return self._store.last
            decoded = decode(self._decoder, raw, body)
            entry = self._store.record(raw, decoded)
        except VelibError as error:
            self._behind = True
            _log.error(
                "poll archived but not stored; the next one tries again", system=self.system_id, error=str(error)
            )
            return None
        if isinstance(decoded, Snapshot):
            self._ttl = timedelta(seconds=decoded.ttl_s) if decoded.ttl_s else None
            described = {info.station_id for info in decoded.information}
            unknown = {station.station_id for station in decoded.stations} - described
            if unknown - self._unknown:  # once for each newcomer: some feeds never describe all (Bicing, 2023)
                self._feed.information_due = True
            self._unknown = unknown
        if entry.outcome is not Outcome.MISSED:
            self._failures = self._failures + 1 if entry.outcome is Outcome.FAILED else 0
        log = _log.info if entry.outcome.accepted else _log.warning
        log(
            "poll",
            system=self.system_id,
            outcome=str(entry.outcome),
            stations=entry.stations,
            changed=entry.changed,
            rejected=entry.rejected,
            detail=self._store.last_detail,
            ms=round(1000 * (time.perf_counter() - started), 1),
        )
        self._on_poll(self.system_id, entry, self._store.last_detail)
        return entry

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Poll on aligned ticks until `stop` is set; a tick that has begun is finished."""
        self._note_downtime()
        tick = self._next_tick(self._clock.now())
        while not stop.is_set():
            if self._clock.wait_until(tick, stop):
                return
            try:
                self.poll(tick)
                self._keep_house()
            except Exception as error:  # whatever happens in one tick must not end a year of collecting
                self._behind = True
                _log.exception("tick failed", system=self.system_id, error=str(error))
            tick = self._after(tick)

    def run_once(self) -> LedgerEntry:
        """Make one poll now.

        Raises:
            VelibError: it could not be stored (it is archived).
        """
        self.catch_up()
        entry = self.poll(self._clock.now())
        if entry is None:
            self.catch_up()  # says why
        assert self._store.last is not None  # noqa: S101 - a poll was just recorded
        return entry or self._store.last

    @property
    def last_detail(self) -> str | None:
        """The ledger's remark on the last poll."""
        return self._store.last_detail

    @property
    def every(self) -> timedelta:
        """The time between polls: as asked for, but not more often than the feed's ttl (or what overrides it)."""
        if self._every:
            return self._every
        ttl = self._system.ttl or min(self._ttl or timedelta(0), _LONGEST_TTL)
        return max(self._system.every or self._settings.collector.every, ttl)

    @property
    def _lead(self) -> timedelta:
        return min(self._settings.collector.lead, self.every / 4)

    def _next_tick(self, after: datetime) -> datetime:
        return next_aligned(after, self.every, self._lead)

    def _after(self, tick: datetime) -> datetime:
        """The tick to make next; those between, if any, go into the ledger as missed."""
        now = self._clock.now()
        # A tick just ahead is the one that was made a moment early; one far ahead, that the clock was set back.
        following = self._next_tick(tick if timedelta(0) < tick - now < self.every else now)
        if self._failures >= _FAILURES_BEFORE_BACKOFF and self.every < _LONGEST_BACKOFF:
            pause = min(self.every * 2 ** (self._failures - _FAILURES_BEFORE_BACKOFF + 1), _LONGEST_BACKOFF)
            following = self._next_tick(tick + pause - self.every)
            self._miss(_ticks(tick, following, self.every), "the feed has been failing; asking less often")
        elif following - tick > self.every * 1.5:
            self._miss(_ticks(tick, following, self.every), "the poll before took too long")
        return following

    def _note_downtime(self) -> None:
        """Say in the ledger for how long nobody asked."""
        try:
            self.catch_up()
        except VelibError as error:
            _log.error("archived polls wait for the database", system=self.system_id, error=str(error))
            return
        last, now = self._store.last_polled_at, self._clock.now()
        if last and now - last > self.every * 1.5:
            self._miss([now], f"the collector was not running since {format_time(last)}")

    def _miss(self, ticks: list[datetime], reason: str) -> None:
        if len(ticks) > _MOST_MISSED_ROWS:
            reason = f"{reason} ({len(ticks)} ticks)"
            ticks = ticks[-1:]
        for tick in ticks:
            error = f"{reason}: tick {format_time(tick)}"
            raw = RawPoll(
                system_id=self.system_id, polled_at=self._clock.now(), scheduled_at=tick, error=error, missed=True
            )
            try:
                self._archive.put(raw, {})
            except OSError as problem:
                _log.error("the archive cannot be written", system=self.system_id, error=str(problem))
                return
            self._take(raw, _no_body)

    # -- housekeeping ---------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """Once an hour, beside the loop: pack closed days, delete expired ones."""
        now = self._clock.now()
        if self._packed_until and now < self._packed_until:
            return
        if self._housekeeping and self._housekeeping.is_alive():
            return
        self._packed_until = now + timedelta(hours=1)
        self._housekeeping = threading.Thread(
            target=keep_archive, args=(self._archive, self._settings, now), daemon=True
        )
        self._housekeeping.start()


def keep_archive(archive: Archive, settings: Settings, now: datetime) -> dict[str, int]:
    """Pack the archive's closed days and delete those past retention, if the disk has room to work in."""
    archive.folder.mkdir(parents=True, exist_ok=True)
    free_mb = shutil.disk_usage(archive.folder).free // 2**20
    if free_mb < settings.archive.min_free_mb:
        _log.error("disk nearly full: archive left as it is", free_mb=free_mb, needed_mb=settings.archive.min_free_mb)
        return {"packed": 0, "deleted": 0}
    try:
        retention = settings.archive.retention
        deleted = archive.prune((now - retention).astimezone(UTC).date()) if retention else []
        packed = archive.pack(now, settings.archive.pack_after)
    except (OSError, VelibError) as error:
        _log.error("archive housekeeping failed; it is tried again in an hour", error=str(error))
        return {"packed": 0, "deleted": 0}
    return {"packed": len(packed), "deleted": len(deleted)}


def collect(
    settings: Settings,
    database: Database,
    systems: dict[str, SystemSettings],
    stop: threading.Event,
    every: timedelta | None = None,
    on_poll: OnPoll = lambda _system_id, _entry, _detail: None,
) -> None:
    """Poll all `systems` until `stop` is set; `on_poll` is called from the thread of each system.

    Raises:
        AlreadyRunningError: another collector polls one of them.
    """
    with ExitStack() as locks:
        for system_id in systems:
            locks.enter_context(single_instance(settings.raw_dir / system_id, system_id, database))
        collectors = [
            Collector(name, system, settings, database, every=every, on_poll=on_poll)
            for name, system in systems.items()
        ]
        threads = [
            threading.Thread(target=collector.run, args=(stop,), name=f"collect-{collector.system_id}")
            for collector in collectors
        ]
        for collector, thread in zip(collectors, threads, strict=True):
            _log.info(
                "collecting", system=collector.system_id, every=format_duration(collector.every), database=str(database)
            )
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without time-out would keep signals waiting
                thread.join(timeout=0.5)


def _ticks(after: datetime, before: datetime, every: timedelta) -> list[datetime]:
    """The ticks that lie between two, both excluded."""
    return [after + i * every for i in range(1, round((before - after) / every))]


def _no_body(sha: str) -> bytes:
    raise KeyError(sha)
