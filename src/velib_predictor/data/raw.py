"""One poll as it came off the wire: what the feed client hands to the archive and to the decoder.

A raw poll names every document that its meaning depends on, by SHA-256, whether it was fetched now or an hour ago.
So any single poll of the archive decodes to the same snapshot again, on its own.
"""

import hashlib
from datetime import datetime
from typing import Literal

import msgspec

from velib_predictor.utils.errors import VelibError

STATUS = "station_status"
INFORMATION = "station_information"
SYSTEM = "system_information"
VEHICLE_TYPES = "vehicle_types"
DISCOVERY = "gbfs"

FeedKind = Literal["gbfs", "opendata_paris"]


class DecodeError(VelibError):
    """A document as a whole is not what it should be (truncated, HTML, no station list); the poll fails."""


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of the feed. `fetched_at` (UTC) is when its last byte was there.

    `status` 304 means that the feed confirmed the body that `sha256` names. An answer that is no success (`status`
    403, say) is kept like any other: its body tells why.
    """

    name: str
    url: str
    status: int
    fetched_at: datetime
    duration_s: float
    sha256: str
    size: int
    headers: dict[str, str] = {}
    """Those that matter later: content-type, date, etag, last-modified, retry-after; names in lower case."""


class RawPoll(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One poll of one system; `polled_at` (UTC) identifies it and is the observation time of what it says.

    `polled_at` is the status document's `fetched_at`, or the moment of failure. `scheduled_at` is the tick that it was
    made for. `documents` holds at most one document a name. `error` says why there is no status document to decode;
    `missed` that the tick passed without the feed being asked.
    """

    system_id: str
    polled_at: datetime
    scheduled_at: datetime
    kind: FeedKind = "gbfs"
    """The shape of the status document: the configured source's, or its fallback's."""
    fallback: bool = False
    documents: tuple[Document, ...] = ()
    error: str | None = None
    missed: bool = False
    clock_step_s: float | None = None
    """How far the wall clock jumped against the monotonic one since the poll before, where that is over 2 s."""

    def document(self, name: str) -> Document | None:
        """The document of that name, if the poll has one."""
        return next((document for document in self.documents if document.name == name), None)


def content_hash(body: bytes) -> str:
    """SHA-256 of a body, in hexadecimal: its name in the archive."""
    return hashlib.sha256(body).hexdigest()
