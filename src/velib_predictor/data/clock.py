"""The wall clock, watched against the monotonic one (times of observation must not lie), and the time between polls."""

import threading
import time
from datetime import UTC, datetime, timedelta

from velib_predictor.config.config import CollectorSettings, SystemSettings

_TOLERANCE_S = 2.0
_NAP_S = 60.0


class SystemClock:
    """The machine's clock. Tests and the demonstration put another in its place."""

    speed = 1.0
    """How many of its seconds pass in one."""

    def __init__(self) -> None:
        self._mark = (datetime.now(UTC), time.monotonic())

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)

    def step(self) -> float | None:
        """Seconds by which the wall clock has jumped since the last call, where that is over two; else None."""
        wall, monotonic = datetime.now(UTC), time.monotonic()
        jumped = (wall - self._mark[0]).total_seconds() - (monotonic - self._mark[1])
        self._mark = (wall, monotonic)
        return round(jumped, 3) if abs(jumped) > _TOLERANCE_S else None

    def wait_until(self, at: datetime, stop: threading.Event) -> bool:
        """Sleep until `at`; True if `stop` was set first.

        Naps are short, so that a clock that is set forward is noticed; one that is set back does not prolong the wait.
        """
        deadline = time.monotonic() + (at - self.now()).total_seconds() + _TOLERANCE_S
        while (left := (at - self.now()).total_seconds()) > 0 and time.monotonic() < deadline:
            if stop.wait(min(left, _NAP_S)):
                return True
        return stop.is_set()


_LONGEST_TTL = timedelta(minutes=5)
"""GBFS: real-time files must not be older, so a longer ttl is a mistake (Vélib' says 3600 s, 2020 to 2026)."""


def polling_period(
    system: SystemSettings, collector: CollectorSettings, feed_ttl_s: int | None, override: timedelta | None = None
) -> timedelta:
    """Time between polls: as configured, but not less than the feed's ttl or what overrides it; `override` wins."""
    if override:
        return override
    ttl = system.ttl or min(timedelta(seconds=feed_ttl_s or 0), _LONGEST_TTL)
    return max(system.every or collector.every, ttl)
