"""One process that does everything: collector, issue job, scores, retraining, API. `velib run` and `velib demo`."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from velib_predictor.api.app import create_app
from velib_predictor.api.server import Server
from velib_predictor.api.service import Service
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.collector import OnPoll, collect
from velib_predictor.data.database import Database
from velib_predictor.jobs.backup import run_backup
from velib_predictor.jobs.issue import LAG, IssueJob
from velib_predictor.jobs.prune import prune_archive, prune_database, prune_models
from velib_predictor.jobs.scheduler import Job, Scheduler
from velib_predictor.jobs.score import score
from velib_predictor.jobs.weather import weather_jobs
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import next_aligned

_SCORE_LAG = timedelta(seconds=90)
_BACKUP_LAG = timedelta(minutes=50)
"""After each multiple of its time: not while training begins, nor at the quarter of an hour."""
_NICE = 10
"""How much training gives way to whatever else the machine has to do, in the unit of nice(1)."""
_log = get_logger(__name__)


class LiveSystem:
    """Everything that a live system needs, on one database.

    Args:
        every: time between polls.
        clock: of the city; for the live feed the machine's.
        options: of the command line, for the process that trains.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        systems: Mapping[str, SystemSettings],
        every: timedelta,
        clock: SystemClock | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._options = options
        self._settings = settings
        self._database = database
        self._systems = systems
        self._every = every
        self._clock = clock or SystemClock()
        self._issues = {name: IssueJob(settings, database, name, self._clock) for name in systems}
        self._heard = {name: threading.Event() for name in systems}
        self.service = Service(settings, database, self._clock)

    @contextmanager
    def serving(self, listening: socket.socket, stop: threading.Event) -> Iterator[str]:
        """The API and the jobs, until `stop` is set or the block is left; gives the address."""
        followers = [
            threading.Thread(target=self.service.follow, args=(stop,), name="follow"),
            *(
                threading.Thread(target=self._follow_polls, args=(name, stop), name=f"first-{name}")
                for name in self._systems
            ),
        ]
        with ExitStack() as stack:
            server = stack.enter_context(Server(create_app(self.service), listening))
            for follower in followers:
                stack.callback(follower.join)
            for heard in self._heard.values():
                stack.callback(heard.set)
            stack.callback(self.service.nudge)
            stack.callback(stop.set)
            for follower in followers:
                follower.start()
            stack.enter_context(Scheduler(self._jobs(stop), stop, self._clock))
            yield server.address

    def collect(self, stop: threading.Event, on_poll: OnPoll) -> None:
        """Poll until `stop` is set.

        Raises:
            AlreadyRunningError: another process collects one of the systems.
        """

        def heard(system_id: str, entry: LedgerEntry, detail: str | None) -> None:
            on_poll(system_id, entry, detail)
            self.service.nudge()
            if entry.outcome.accepted:
                self._heard[system_id].set()

        collect(self._settings, self._database, self._systems, stop, self._every, heard, self._clock)

    def _jobs(self, stop: threading.Event) -> list[Job]:
        every = self._settings.forecast.issue_every
        jobs = []
        for name in self._systems:
            jobs.append(Job(f"issue-{name}", self._issuing(name), every, LAG, at_once=True))
            jobs.append(Job(f"score-{name}", self._scoring(name), every, _SCORE_LAG))
        jobs += weather_jobs(self._settings, self._database, list(self._systems), self._clock)
        if self._clock.speed == 1.0:  # a demonstration is over before these are due, and its days are short
            jobs += self._daily(stop)
            if (often := self._settings.backup.every) is not None:
                jobs.append(Job("backup", self._backup, often, _BACKUP_LAG))
        return jobs

    def _daily(self, stop: threading.Event) -> list[Job]:
        """What is done once a day, at the times of the settings: `velib retrain --promote` and `velib prune`."""
        chosen = self._settings.jobs
        zone = ZoneInfo(next((system.timezone for system in self._systems.values() if system.timezone), "UTC"))
        jobs: tuple[tuple[str, Callable[[datetime], object], time | None], ...] = (
            ("retrain", lambda _now: self._retrain(stop), chosen.retrain_at),
            ("prune", self._prune, chosen.prune_at),
        )
        return [Job.daily(name, run, at, zone) for name, run, at in jobs if at is not None]

    def _issuing(self, name: str) -> Callable[[datetime], None]:
        def issue(now: datetime) -> None:
            self._issues[name].run(now)
            self.service.nudge()

        return issue

    def _follow_polls(self, name: str, stop: threading.Event) -> None:
        """After each poll that was believed: an issue at once, if there is none that knows of the feed."""
        heard = self._heard[name]
        while heard.wait() and not stop.is_set():
            heard.clear()
            now = next_aligned(self._clock.now(), timedelta(seconds=1))  # no issue is of the future
            if self._clock.wait_until(now, stop):
                return
            try:
                if self._issues[name].catch_up(now):
                    self.service.nudge()
            except VelibError as error:
                _log.warning("the first issue could not be made; the next poll tries again", reason=str(error))
            except Exception as error:
                _log.exception("the first issue failed", error=repr(error))

    def _scoring(self, name: str) -> Callable[[datetime], object]:
        return lambda now: score(self._settings, self._database, name, now)

    def _backup(self, now: datetime) -> None:
        run_backup(self._settings, self._database, now)

    def _prune(self, now: datetime) -> None:
        prune_archive(self._settings, now)
        prune_database(self._settings, self._database, now)
        prune_models(self._settings)

    def _retrain(self, stop: threading.Event) -> None:
        """In a process of its own, which gives way: it takes gigabytes and every processor, and serving goes on."""
        command = [sys.executable, "-m", "velib_predictor.cli", "retrain", "--promote", "--json", *self._options]
        for name in self._systems:
            command += ["--system", name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:  # noqa: S603
            with suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, child.pid, _NICE)
            while child.poll() is None:
                if stop.wait(1.0):
                    child.terminate()
                    return
        if child.returncode:
            raise VelibError(f"training has ended with exit code {child.returncode}; its messages above say why")
