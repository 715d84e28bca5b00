"""The last good answer of each document, and asking whether it has changed."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from velib_predictor.data.fields import described
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
from velib_predictor.data.transport import Fetched, FetchError, Transport, without_query


class Answer(NamedTuple):
    """A document and its bytes; of a 304 those that it confirmed."""

    document: Document
    body: bytes


class Documents:
    """Fetches documents by conditional GET and keeps the last good answer under each name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._held: dict[str, tuple[str, Answer]] = {}

    def held(self, name: str) -> Answer | None:
        """The last good answer of that name."""
        return self._held[name][1] if name in self._held else None

    def keep(self, name: str, answer: Answer) -> None:
        """Hold an answer under another name: what an address serves can be told only from its content."""
        self._held[name] = (
            answer.document.url,
            Answer(msgspec.structs.replace(answer.document, name=name), answer.body),
        )

    def resume(self, poll: RawPoll, body: Callable[[str], bytes], names: tuple[str, ...]) -> None:
        """Take over the named documents of an archived poll, where none is held yet."""
        for document in poll.documents:
            if document.name in names and document.status in (200, 304):
                self._held.setdefault(document.name, (document.url, Answer(document, body(document.sha256))))

    def fetch(self, name: str, url: str, *, kind: FeedKind = "gbfs", slot: str | None = None) -> Answer:
        """Fetch a document, or learn that the one held is still current.

        Args:
            name: what the document is called in the poll.
            url: its address; only an answer of the same address is asked to be confirmed.
            kind: what it must look like.
            slot: the name it is held under, if not `name`.

        Raises:
            FetchError: no answer, an error, or a success whose body is evidently something else (a challenge page, half
                a document); that is then in the error's `body`.
        """
        asked, known = self._held.get(slot or name, ("", None))
        validators = known.document.headers if known and asked == url else {}
        fetched = self._transport.get(url, etag=validators.get("etag"), last_modified=validators.get("last-modified"))
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
            answer = Answer(_document(name, fetched), fetched.body)
        self._held[slot or name] = (url, answer)
        return answer


def error_answer(name: str, error: Exception, at: datetime) -> Answer | None:
    """The answer that a failed fetch brought, where it had a body: a 403 page tells why."""
    if not isinstance(error, FetchError) or error.status is None or not error.body:
        return None
    document = Document(
        name=name,
        url=error.url,
        status=error.status,
        fetched_at=at,
        duration_s=error.duration_s,
        sha256=content_hash(error.body),
        size=len(error.body),
        headers=error.headers,
    )
    return Answer(document, error.body)


def _document(name: str, fetched: Fetched) -> Document:
    return Document(
        name=name,
        url=fetched.url,
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
        url=fetched.url,
        status=304,
        fetched_at=fetched.fetched_at,
        duration_s=fetched.duration_s,
        # A 304 need not repeat the validators, and they are what the next poll asks with.
        headers={**known.document.headers, **fetched.headers},
    )
    return Answer(document, known.body)


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
