"""Bodies that are made once and sent often: compressed ahead, with an ETag, cacheable until the next issue."""

import gzip
import hashlib
import re
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from fastapi import Request, Response

JSON, GEOJSON = "application/json", "application/geo+json"
_WORTH_COMPRESSING = 1_000
_NEVER = re.compile(r"q=0(\.0*)?")


class Body(NamedTuple):
    """A finished answer."""

    data: bytes
    packed: bytes | None
    """The same, by gzip; None where that is not worth it."""
    etag: str
    media_type: str

    @classmethod
    def of(cls, content: Any, media_type: str = JSON, level: int = 5) -> "Body":
        """Encode plain values (no NaN among them) and compress them."""
        data = msgspec.json.encode(content)
        packed = gzip.compress(data, level, mtime=0) if len(data) >= _WORTH_COMPRESSING else None
        return cls(data, packed, hashlib.blake2b(data, digest_size=8).hexdigest(), media_type)


@lru_cache(maxsize=64)
def accepts_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` allows gzip (RFC 9110, section 12.5.3): `gzip;q=0` forbids it."""
    weights = {}
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        weights[name.strip()] = weight.replace(" ", "")
    return _NEVER.fullmatch(weights.get("gzip", weights.get("*", "q=0"))) is None


def answer(request: Request, body: Body, max_age_s: int) -> Response:
    """Send a body, or 304 where the client has it already."""
    packed = body.packed is not None and accepts_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{body.etag}-gz"' if packed else f'"{body.etag}"'
    headers = {
        "ETag": etag,
        "Cache-Control": f"public, max-age={max_age_s}, stale-while-revalidate=60, stale-if-error=600",
        "Vary": "Accept-Encoding",
    }
    known = request.headers.get("if-none-match")
    if known and (known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))):
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(body.packed if packed else body.data, headers=headers, media_type=body.media_type)
