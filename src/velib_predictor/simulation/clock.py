"""Simulated time at any speed."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from velib_predictor.utils.errors import UsageError

_FASTEST = 1_000_000


class Clock:
    """Simulated time: start + speed * what the monotonic clock has moved since. Safe to use from several threads.

    Args:
        start: aware; the time when the clock is made.
        speed: simulated seconds a second; 0 stands still until `speed` or `set` moves it.
        monotonic: a clock in seconds, for tests.
    """

    def __init__(self, start: datetime, speed: float = 1.0, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        if start.tzinfo is None:
            raise UsageError("a simulated clock starts at a time with an offset from UTC")
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._speed = checked_speed(speed)
        self._at, self._since = start, monotonic()

    def now(self) -> datetime:
        """The simulated time."""
        with self._lock:
            return self._now()

    @property
    def speed(self) -> float:
        """Simulated seconds a second. When it is changed, time goes on from where it is."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        speed = checked_speed(speed)
        with self._lock:
            self._at, self._since = self._now(), self._monotonic()
            self._speed = speed

    def set(self, at: datetime) -> None:
        """Jump forward to a time.

        Raises:
            UsageError: it is past; a city does not live backwards.
        """
        with self._lock:
            if at < self._now():
                raise UsageError("the clock of a city cannot be turned back")
            self._at, self._since = at, self._monotonic()

    def _now(self) -> datetime:
        return self._at + timedelta(seconds=self._speed * (self._monotonic() - self._since))


def checked_speed(speed: object) -> float:
    """A speed that a clock can have.

    Raises:
        UsageError: it is none.
    """
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 <= speed <= _FASTEST:
        raise UsageError(f"a clock's speed is a number from 0 to {_FASTEST}, not {speed!r}")
    return float(speed)
