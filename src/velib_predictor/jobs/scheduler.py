"""Runs jobs on the clock beside the collector: one thread a job, aligned, never overlapping, not ended by an error."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from velib_predictor.data.clock import SystemClock
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import next_aligned, next_local

_log = get_logger(__name__)


@dataclass(frozen=True)
class Job:
    """Something to be done again and again.

    Attributes:
        name: for the log.
        run: what is done, at the time that it is given.
        every, lag: it runs `lag` after each multiple of `every` since 1970 UTC, if `due` does not say otherwise.
        at_once: whether it also runs at the start.
        due: the next time after the one that it is given.
    """

    name: str
    run: Callable[[datetime], object]
    every: timedelta
    lag: timedelta = timedelta(0)
    at_once: bool = False
    due: Callable[[datetime], datetime] | None = None

    def after(self, now: datetime) -> datetime:
        """When it runs next."""
        return self.due(now) if self.due else next_aligned(now, self.every, -self.lag)

    @classmethod
    def daily(cls, name: str, run: Callable[[datetime], object], at: time, zone: ZoneInfo) -> Self:
        """A job for every day, when the clocks of a zone show that time."""
        return cls(name, run, timedelta(days=1), due=lambda now: next_local(now, at, zone))


class Scheduler:
    """Runs jobs until it is left. Use as a context manager.

    Args:
        clock: of the system that the jobs are for.
    """

    def __init__(self, jobs: Sequence[Job], stop: threading.Event, clock: SystemClock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._stop = stop
        self._threads = [threading.Thread(target=self._loop, args=(job,), name=f"job-{job.name}") for job in jobs]

    def __enter__(self) -> "Scheduler":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _loop(self, job: Job) -> None:
        if job.at_once and not self._stop.is_set():
            self._run(job)
        while not self._clock.wait_until(job.after(self._clock.now()), self._stop):
            self._run(job)

    def _run(self, job: Job) -> None:
        try:
            job.run(self._clock.now())
        except VelibError as error:
            _log.warning("a job could not be done; it is tried again", job=job.name, reason=str(error))
        except Exception as error:
            _log.exception("a job failed", job=job.name, error=repr(error))
