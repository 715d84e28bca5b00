"""One process that does everything: collector, issue job, scores, retraining, API. `velib run` and `velib demo`."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

from velib_predictor.api.app import create_app
from velib_predictor.api.server import Server
from velib_predictor.api.service import Service
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.collector import OnPoll, collect
from velib_predictor.data.database import Database
from velib_predictor.jobs.issue import LAG, IssueJob
from velib_predictor.jobs.prune import prune_archive, prune_database, prune_models
from velib_predictor.jobs.scheduler import Job, Scheduler
from velib_predictor.jobs.score import score
from velib_predictor.jobs.weather import weather_jobs
from velib_predictor.utils.errors import VelibError

_SCORE_LAG = timedelta(seconds=90)
_DAY = timedelta(days=1)


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
        self.service = Service(settings, database, self._clock)

    @contextmanager
    def serving(self, listening: socket.socket, stop: threading.Event) -> Iterator[str]:
        """The API and the jobs, until `stop` is set or the block is left; gives the address."""
        follower = threading.Thread(target=self.service.follow, args=(stop,), name="follow")
        with ExitStack() as stack:
            server = stack.enter_context(Server(create_app(self.service), listening))
            stack.callback(follower.join)
            stack.callback(self.service.nudge)
            stack.callback(stop.set)
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

        collect(self._settings, self._database, self._systems, stop, self._every, heard, self._clock)

    def _jobs(self, stop: threading.Event) -> list[Job]:
        every = self._settings.forecast.issue_every
        jobs = []
        for name in self._systems:
            jobs.append(Job(f"issue-{name}", self._issuing(name), every, LAG, at_once=True))
            jobs.append(Job(f"score-{name}", self._scoring(name), every, _SCORE_LAG))
        jobs += weather_jobs(self._settings, self._database, list(self._systems), self._clock)
        if self._clock.speed == 1.0:  # a demonstration is over before these are due, and its days are short
            jobs.append(Job("retrain", lambda _now: self._retrain(stop), _DAY, timedelta(hours=2, minutes=20)))
            jobs.append(Job("prune", self._prune, _DAY, timedelta(hours=3, minutes=20)))
        return jobs

    def _issuing(self, name: str) -> Callable[[datetime], None]:
        job = IssueJob(self._settings, self._database, name, self._clock)

        def issue(now: datetime) -> None:
            job.run(now)
            self.service.nudge()

        return issue

    def _scoring(self, name: str) -> Callable[[datetime], object]:
        return lambda now: score(self._settings, self._database, name, now)

    def _prune(self, now: datetime) -> None:
        prune_archive(self._settings, now)
        prune_database(self._settings, self._database, now)
        prune_models(self._settings)

    def _retrain(self, stop: threading.Event) -> None:
        """In a process of its own: training takes gigabytes, which this one would never give back."""
        command = [sys.executable, "-m", "velib_predictor.cli", "retrain", "--json", *self._options]
        for name in self._systems:
            command += ["--system", name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:  # noqa: S603
            while child.poll() is None:
                if stop.wait(1.0):
                    child.terminate()
                    return
        if child.returncode:
            raise VelibError(f"training has ended with exit code {child.returncode}; its messages above say why")
