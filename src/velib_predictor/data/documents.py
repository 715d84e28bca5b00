"""The last good answer of each document, and asking whether it has changed."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from velib_predictor.data.fields import described, without_query
from velib_predictor.data.information import decode_information, decode_system, decode_vehicle_kinds
from velib_predictor.data.raw import (
    INFORMATION,
    SYSTEM,
    VEHICLE_TYPES,
    DecodeError,
    Document,
    FeedKind,
    RawPoll,
    content_hash,
)
from velib_predictor.data.transport import Fetched, FetchError, Transport
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.temporal import format_time

Clock = Callable[[], datetime]

LONGEST_WAIT = timedelta(hours=1)
"""A source that asks to be left alone for longer is not taken at its word: it may mean a mistake."""
FIRST_PAUSE = timedelta(minutes=3)


class Answer(NamedTuple):
    """A document and its bytes; of a 304 those that it confirmed.

    `url` is the address that gave it, with any key or password in it: never archived, unlike that of `document`.
    """

    document: Document
    body: bytes
    url: str


class Pause:
    """How long a document that cannot be had is not asked for: longer after each failure, up to `longest`.

    A wall clock that is set back ends it.
    """

    def __init__(self, longest: timedelta) -> None:
        self._longest = longest
        self._length = timedelta(0)
        self._since: datetime | None = None

    def lasts(self, now: datetime) -> bool:
        """Whether it is too early to ask again."""
        return self._since is not None and timedelta(0) <= now - self._since < self._length

    def begin(self, now: datetime, *, longer: bool = True) -> None:
        """Note a failure; `longer` doubles the pause before."""
        self._length = min(max(self._length * (2 if longer else 1), FIRST_PAUSE), self._longest)
        self._since = now

    def end(self) -> None:
        """Note that the document came."""
        self._length, self._since = timedelta(0), None


class _Wait(NamedTuple):
    """A source's wish not to be asked again (Retry-After)."""

    since: datetime
    until: datetime
    status: int | None


class Documents:
    """Fetches documents by conditional GET and keeps the last good answer under each name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._held: dict[str, tuple[str, Answer]] = {}
        """By name: the address that was asked, and its answer."""
        self._waits: dict[str, _Wait] = {}
        """By address."""

    def held(self, name: str) -> Answer | None:
        """The last good answer of that name."""
        return self._held[name][1] if name in self._held else None

    def keep(self, name: str, answer: Answer) -> None:
        """Hold an answer under another name: what an address serves can be told only from its content."""
        renamed = msgspec.structs.replace(answer.document, name=name)
        self._held[name] = (answer.url, answer._replace(document=renamed))

    def resume(self, poll: RawPoll, body: Callable[[str], bytes], names: tuple[str, ...]) -> None:
        """Take over the named documents of an archived poll, where none is held yet and the body can be read."""
        for document in poll.documents:
            if document.name not in names or document.status not in (200, 304) or document.name in self._held:
                continue
            try:
                content = body(document.sha256)
            except (VelibError, OSError):
                continue
            clean = msgspec.structs.replace(document, url=without_query(document.url))
            self._held[document.name] = (document.url, Answer(clean, content, document.url))

    def fetch(self, name: str, url: str, now: Clock, *, kind: FeedKind = "gbfs", slot: str | None = None) -> Answer:
        """Fetch a document, or learn that the one held is still current.

        Args:
            name: what the document is called in the poll.
            url: its address; only an answer of the same address is asked to be confirmed.
            now: the clock (UTC).
            kind: what it must look like.
            slot: the name it is held under, if not `name`.

        Raises:
            FetchError: no answer, an error, or a success whose body is evidently something else (a challenge page, half
                a document); that is then in the error's `body`. Or the address asked not to be asked yet.
        """
        self._respect(url, now())
        asked, known = self._held.get(slot or name, ("", None))
        validators = known.document.headers if known and asked == url else {}
        try:
            fetched = self._transport.get(
                url, etag=validators.get("etag"), last_modified=validators.get("last-modified")
            )
        except FetchError as error:
            if error.retry_after:
                since = now()
                wait = min(timedelta(seconds=min(error.retry_after, 1e6)), LONGEST_WAIT)
                self._waits[url] = _Wait(since, since + wait, error.status)
            raise
        if known and asked == url and fetched.status == 304:
            answer = _confirmed(known, fetched)
        else:
            if problem := _problem(name, fetched.body, kind):
                raise FetchError(
                    f"{without_query(url)} answered HTTP {fetched.status}, but {problem}",
                    url=fetched.url,
                    status=fetched.status,
                    body=fetched.body,
                    headers=fetched.headers,
                    duration_s=fetched.duration_s,
                )
            answer = Answer(_document(name, fetched), fetched.body, fetched.url)
        self._held[slot or name] = (url, answer)
        return answer

    def must_wait(self, url: str, now: datetime) -> bool:
        """Whether an address has asked not to be asked yet; a wall clock that is set back ends that."""
        wait = self._waits.get(url)
        return wait is not None and wait.since <= now < wait.until

    def _respect(self, url: str, now: datetime) -> None:
        if not self.must_wait(url, now):
            self._waits.pop(url, None)
            return
        wait = self._waits[url]
        raise FetchError(
            f"{without_query(url)} answered HTTP {wait.status} at {_to_second(wait.since)} and asked to wait; "
            f"it is asked again from {_to_second(wait.until)} on",
            url=url,
            status=wait.status,
            retry_after=(wait.until - now).total_seconds(),
        )


def _to_second(at: datetime) -> str:
    return format_time(at.replace(microsecond=0))


def error_answer(name: str, error: Exception, at: datetime) -> Answer | None:
    """The answer that a failed fetch brought, where it had a body: a 403 page tells why."""
    if not isinstance(error, FetchError) or error.status is None or not error.body:
        return None
    document = Document(
        name=name,
        url=without_query(error.url),
        status=error.status,
        fetched_at=at,
        duration_s=error.duration_s,
        sha256=content_hash(error.body),
        size=len(error.body),
        headers=error.headers,
    )
    return Answer(document, error.body, error.url)


def _document(name: str, fetched: Fetched) -> Document:
    return Document(
        name=name,
        url=without_query(fetched.url),
        status=fetched.status,
        fetched_at=fetched.fetched_at,
        duration_s=fetched.duration_s,
        sha256=content_hash(fetched.body),
        size=len(fetched.body),
        headers=fetched.headers,
    )


def _confirmed(known: Answer, fetched: Fetched) -> Answer:
    document = msgspec.structs.replace(
        known.document,
        url=without_query(fetched.url),
        status=304,
        fetched_at=fetched.fetched_at,
        duration_s=fetched.duration_s,
        # A 304 need not repeat the validators, and they are what the next poll asks with.
        headers={**known.document.headers, **fetched.headers},
    )
    return Answer(document, known.body, fetched.url)


def _problem(name: str, body: bytes, kind: FeedKind) -> str | None:
    """Why a body is not the document that was asked for.

    Of a status only both ends are looked at: decoding is not done here. What stays in force for an hour is decoded, so
    that a good document is not given up for a bad one.
    """
    text = body.removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        return "its body is empty"
    if text[:1] not in (b"{", b"[") and (kind == "gbfs" or text[:1] == b"<"):
        return f"its body is no data: {described(body)}"
    if text[:1] in (b"{", b"[") and text[-1:] not in (b"}", b"]"):
        return f"its body breaks off: {described(body)}"
    try:
        if name == INFORMATION and not decode_information(body).stations:
            return "it describes no stations"
        if name == SYSTEM:
            decode_system(body)
        if name == VEHICLE_TYPES:
            decode_vehicle_kinds(body)
    except DecodeError as error:
        return str(error)
    return None
