"""A clock that jumps and a feed that answers at once: for loops that would take hours."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tests.test_data import feeds
from velib_predictor.data.raw import STATUS, Document, RawPoll, content_hash


class JumpingClock:
    """Time passes only when somebody waits or `pass_time` is called. Ends a loop by setting `stop` at `end`."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self._now = start
        self._end = end
        self.steps: list[float | None] = []

    def now(self) -> datetime:
        self._now += timedelta(microseconds=1)  # no two moments are the same
        return self._now

    def step(self) -> float | None:
        return self.steps.pop(0) if self.steps else None

    def pass_time(self, duration: timedelta) -> None:
        self._now += duration

    def wait_until(self, at: datetime, stop: threading.Event) -> bool:
        self._now = max(self._now, at)
        if self._now >= self._end:
            stop.set()
        return stop.is_set()


class ScriptedFeed:
    """Plays the feed client: `bikes(at)` is the network at a time; None, that the feed does not answer."""

    def __init__(self, clock: JumpingClock, bikes: Callable[[datetime], dict[str, int] | None], **more: Any) -> None:
        self._clock = clock
        self._bikes = bikes
        self._more = more
        self.latency = timedelta(seconds=1)
        self.information_due = False
        self.scheduled: list[datetime] = []

    def resume(self, poll: RawPoll, body: Callable[[str], bytes]) -> None:
        """Nothing is kept from poll to poll."""

    def poll(self, scheduled_at: datetime, now: Callable[[], datetime]) -> tuple[RawPoll, dict[str, bytes]]:
        self.scheduled.append(scheduled_at)
        self._clock.pass_time(self.latency)
        at = now()
        bikes = self._bikes(at)
        if bikes is None:
            raw = RawPoll(system_id="town", polled_at=at, scheduled_at=scheduled_at, error="the feed does not answer")
            return raw, {}
        stations = [feeds.station("2.0", name, count, 20 - count) for name, count in bikes.items()]
        body = msgspec.json.encode({**feeds.status("2.0", stations, at=at), **self._more})
        document = Document(
            name=STATUS,
            url="http://127.0.0.1/",
            status=200,
            fetched_at=at,
            duration_s=1.0,
            sha256=content_hash(body),
            size=len(body),
        )
        raw = RawPoll(system_id="town", polled_at=at, scheduled_at=scheduled_at, documents=(document,))
        return raw, {document.sha256: body}


def moment(text: str) -> datetime:
    """A time on 4 March 2026, UTC, from `12:30` or `12:30:15`."""
    return datetime.fromisoformat(f"2026-03-04T{text}").replace(tzinfo=UTC)
