"""Decoding the payloads of `feeds` in one call."""

import json
from datetime import datetime
from typing import Any

from tests.test_data import feeds
from tests.test_data.feeds import AT
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.gbfs import StatusPart, decode_status
from velib_predictor.data.information import InformationPart, decode_information
from velib_predictor.data.raw import INFORMATION, STATUS, Document, RawPoll, content_hash
from velib_predictor.data.snapshot import Snapshot, StationStatus


def encode(document: Any) -> bytes:
    """A document as a feed would send it."""
    return document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()


def status_of(*records: Any, version: str = "2.3", kinds: dict[str, str | None] | None = None) -> StatusPart:
    """The decoded status of these records."""
    return decode_status(encode(feeds.status(version, records)), AT, kinds)


def only(part: StatusPart) -> StationStatus:
    """The one station of a document without fault."""
    assert part.rejected == ()
    assert len(part.stations) == 1
    return part.stations[0]


def one(version: str = "2.3", **fields: Any) -> StationStatus:
    """The one station of a feed whose record has these fields besides the usual ones."""
    return only(status_of(feeds.station(version, "1", **fields), version=version))


def information_of(*records: Any, version: str = "2.3") -> InformationPart:
    """The decoded station information of these records."""
    return decode_information(encode(feeds.information(version, records)))


def snapshot_of(status: Any, information: Any = None, *, at: datetime = AT, kind: Any = "gbfs") -> Snapshot:
    """The decoded poll that brought these documents at `at`."""
    documents, bodies = [], {}
    for name, content in ((STATUS, status), (INFORMATION, information)):
        if content is not None:
            body = encode(content)
            sha = content_hash(body)
            bodies[sha] = body
            documents.append(
                Document(name=name, url="", status=200, fetched_at=at, duration_s=0, sha256=sha, size=len(body))
            )
    raw = RawPoll(system_id="town", polled_at=at, scheduled_at=at, documents=tuple(documents), kind=kind)
    return Decoder().decode(raw, bodies.__getitem__)
