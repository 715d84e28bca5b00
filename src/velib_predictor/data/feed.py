"""One system's feed: which documents to ask for in a poll, in what order, and what to do when they are not there.

Made for a year without supervision: `Feed.poll` answers with a `RawPoll` whatever the network and the feed do.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.directory import MANIFEST, Directory
from velib_predictor.data.documents import Answer, Clock, Documents, Pause, error_answer
from velib_predictor.data.raw import (
    DISCOVERY,
    INFORMATION,
    STATUS,
    SYSTEM,
    VEHICLE_TYPES,
    DecodeError,
    FeedKind,
    RawPoll,
)
from velib_predictor.data.transport import FetchError, Transport

RARE = (INFORMATION, SYSTEM, VEHICLE_TYPES)
"""Documents that rarely change."""
IN_FORCE = (DISCOVERY, MANIFEST, *RARE)
"""Documents that count until the next of their name has come: every poll names the last of each."""


class _Status(NamedTuple):
    """What came of asking for the status: an answer, or an error and, if there was one, the answer that was none."""

    answer: Answer | None
    kind: FeedKind
    fallback: bool = False
    error: str | None = None
    must_wait: bool = False
    """Whether the source asked to be left alone."""


class Feed:
    """Polls one system. Keeps the last answers in memory, so that next time it can ask whether they changed.

    `information_due` may be set from outside, when a station is seen that station information does not describe:
    the next poll then fetches it again, unless that failed a moment ago.
    """

    def __init__(
        self, system_id: str, system: SystemSettings, collector: CollectorSettings, transport: Transport
    ) -> None:
        self.system_id = system_id
        self.information_due = True
        self._system = system
        self._information_every = collector.information_every
        self._documents = Documents(transport)
        self._directory = Directory(system_id, system.url, self._documents)
        self._came_at: dict[str, datetime] = {}
        self._pauses = {name: Pause(collector.information_every) for name in RARE}

    def resume(self, poll: RawPoll, body: Callable[[str], bytes]) -> None:
        """Take over from the last archived poll what is in force, for a restart while the feed is down.

        Without station information the fallback's stations could not be told by their station_id.
        """
        self._documents.resume(poll, body, IN_FORCE)

    def poll(self, scheduled_at: datetime, now: Clock) -> tuple[RawPoll, dict[str, bytes]]:
        """Make one poll for the tick `scheduled_at`; `now` is the clock (UTC).

        Returns the poll, and the body of each document that it names by its SHA-256. A failure is in `RawPoll.error`.
        """
        status = self._status(now)
        answered = status.error is None and not status.fallback
        needed = answered or (self._documents.held(INFORMATION) is None and not status.must_wait)
        if self._system.kind == "gbfs" and needed:
            self._refresh_information(now, answered)
        answers = [status.answer] if status.answer else []
        answers += [answer for name in IN_FORCE if (answer := self._documents.held(name))]
        failed = status.answer is None or status.error is not None
        poll = RawPoll(
            system_id=self.system_id,
            polled_at=now() if failed or status.answer is None else status.answer.document.fetched_at,
            scheduled_at=scheduled_at,
            kind=status.kind,
            fallback=status.fallback,
            documents=tuple(answer.document for answer in answers),
            error=status.error,
        )
        return poll, {answer.document.sha256: answer.body for answer in answers}

    def _status(self, now: Clock) -> _Status:
        """The status from the configured source, else from its fallback."""
        try:
            return _Status(self._primary(now), self._system.kind)
        except (FetchError, DecodeError) as error:
            first = error
        must_wait = isinstance(first, FetchError) and bool(first.retry_after)
        failed = _Status(error_answer(STATUS, first, now()), self._system.kind, error=str(first), must_wait=must_wait)
        second = self._system.fallback
        if second is None:
            return failed
        try:
            answer = self._documents.fetch(STATUS, second.url, now, kind=second.kind, slot="fallback")
        except FetchError as error:
            answer_then = failed.answer or error_answer(STATUS, error, now())
            return failed._replace(answer=answer_then, error=f"{first}; the fallback failed too: {error}")
        return _Status(answer, second.kind, fallback=True, must_wait=must_wait)

    def _primary(self, now: Clock) -> Answer:
        if self._system.kind != "gbfs":
            return self._documents.fetch(STATUS, self._system.url, now, kind=self._system.kind)
        self._directory.begin(now)
        return self._directory.fetch(STATUS, now)

    def _refresh_information(self, now: Clock, answered: bool) -> None:
        """Fetch what rarely changes, where it is due. What cannot be had stays as it was, and is asked for later.

        While the status does not come either, a failure says nothing of the document: the pause grows no longer.
        """
        for name in RARE:
            offered = name == INFORMATION or self._directory.lists(name)
            if not offered or not self._is_due(name, now()) or self._pauses[name].lasts(now()):
                continue
            try:
                self._directory.fetch(name, now)
            except (FetchError, DecodeError):
                self._pauses[name].begin(now(), longer=answered)
                continue
            self._pauses[name].end()
            if name == INFORMATION:
                self.information_due = False
                self._came_at.clear()  # the other two are asked for with it
            self._came_at[name] = now()

    def _is_due(self, name: str, at: datetime) -> bool:
        if name == INFORMATION and self.information_due:
            return True
        came_at = self._came_at.get(name)
        return came_at is None or not timedelta(0) <= at - came_at < self._information_every
