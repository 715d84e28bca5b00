"""Runs jobs on the clock beside the collector: one thread a job, aligned, never overlapping, not ended by an error."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from velib_predictor.data.clock import SystemClock
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import next_aligned

_log = get_logger(__name__)


@dataclass(frozen=True)
class Job:
    """Something to be done again and again.

    Attributes:
        name: for the log.
        run: what is done, at the time that it is given.
        every, lag: it runs `lag` after each multiple of `every` since 1970 UTC.
        at_once: whether it also runs at the start.
    """

    name: str
    run: Callable[[datetime], object]
    every: timedelta
    lag: timedelta = timedelta(0)
    at_once: bool = False


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
        while not self._clock.wait_until(next_aligned(self._clock.now(), job.every, -job.lag), self._stop):
            self._run(job)

    def _run(self, job: Job) -> None:
        try:
            job.run(self._clock.now())
        except VelibError as error:
            _log.warning("a job could not be done; it is tried again", job=job.name, reason=str(error))
        except Exception as error:
            _log.exception("a job failed", job=job.name, error=repr(error))
