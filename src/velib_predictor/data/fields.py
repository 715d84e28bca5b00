"""Reading single values that feeds write in many ways. Shared by all decoders; nothing here knows an operator."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from velib_predictor.data.raw import DecodeError

MAX_COUNT = 32767
"""Counts are stored in 16 bits."""
EARLIEST = datetime(2015, 12, 15, tzinfo=UTC)
"""GBFS' JSON schemas allow no earlier time: the standard did not exist."""
MAX_AHEAD = timedelta(minutes=5)
"""How far a feed's clock may be ahead of ours."""

_MAX_NAMED = 5  # stations that a note names
_MILLISECONDS = 1e11  # no time in seconds is that large before the year 5138
_WORDS = {
    "true": True, "oui": True, "yes": True, "1": True,
    "false": False, "non": False, "no": False, "0": False,
}  # fmt: skip
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a document that it does not take; Python's own parser may still."""


class BadFieldError(ValueError):
    """A value that cannot mean what its field means; the message completes `<field> is ...`."""


def parse_json(body: bytes, what: str) -> Any:
    """Decode a JSON document, also one with a byte-order mark, NaN, Infinity or broken UTF-8 in it.

    Raises:
        DecodeError: it is no JSON (empty, HTML, cut off); the message names `what`, the size and the first characters.
    """
    body = clean(body)
    try:
        return msgspec.json.decode(body)
    except REFUSED:
        pass
    try:
        return _storable_json(json.loads(body.decode("utf-8", errors="replace")))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{what} is no JSON document: {described(body)}; {reason(error)}") from None


def _storable_json(value: Any) -> Any:
    """The same JSON value without halves of surrogate pairs, which Python's parser lets through."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_storable_json(entry) for entry in value]
    if isinstance(value, dict):
        return {storable(key): _storable_json(entry) for key, entry in value.items()}
    return value


def clean(body: bytes) -> bytes:
    """Without a byte-order mark, and without escaped NUL characters: PostgreSQL has no text that holds them."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    return _NUL.sub(rb"\1", body) if b"\\u0000" in body else body


def described(body: bytes) -> str:
    """Size and first characters of a body, for a message."""
    if not body.strip():
        return "it is empty"
    start = " ".join(body[:80].decode("utf-8", errors="replace").split())
    return f"{len(body):,} bytes that start with {start[:60]!r}"


def reason(error: Exception) -> str:
    """Why a parser gave up, in short."""
    if isinstance(error, json.JSONDecodeError):
        return f"it breaks off or is wrong at character {error.pos:,} ({error.msg})"
    return "it is nested too deeply"


def shown(value: Any) -> str:
    """A value as a message quotes it, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def without_query(url: str) -> str:
    """An address as messages and the archive name it: without user, password, and what follows the question mark."""
    address = re.split("[?#]", url, maxsplit=1)[0]
    scheme, slashes, rest = address.partition("//") if "//" in address else ("", "", address)
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if not re.search(r"^[^:]*$|:[0-9]*$|]$", host):  # what stands for a port is half of a password
        return f"{scheme}{slashes}..."
    return f"{scheme}{slashes}{host}{slash}{path}"


def count(value: Any) -> int | None:
    """A number of bikes or docks; None where it is null.

    Raises:
        BadFieldError: it is no whole number from 0 to `MAX_COUNT`. True and false are no counts.
    """
    if value is None:
        return None
    number = value
    if isinstance(value, str):
        stripped = value.strip()
        number = int(stripped) if re.fullmatch(r"[+-]?[0-9]{1,12}", stripped) else None
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if not isinstance(number, int) or isinstance(value, bool) or not 0 <= number <= MAX_COUNT:
        raise BadFieldError(f"{shown(value)}, not a count from 0 to {MAX_COUNT}")
    return number


def flag(value: Any) -> bool | None:
    """Yes, no or not known: 0/1 (GBFS 1), true/false (GBFS 2+), and the words that portals write."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def moment(value: Any, latest: datetime) -> datetime | None:
    """A time from POSIX seconds or milliseconds (number or digits) or RFC 3339, in UTC.

    None where it is missing, unreadable, without offset, before `EARLIEST` or after `latest`.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _within(_rfc3339(value), latest)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
        return None
    seconds = value / 1000 if abs(value) >= _MILLISECONDS else value
    if not EARLIEST.timestamp() <= seconds <= latest.timestamp():
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _rfc3339(text: str) -> datetime | None:
    try:
        value = datetime.fromisoformat(text.strip())
        return value.astimezone(UTC) if value.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _within(value: datetime | None, latest: datetime) -> datetime | None:
    return value if value is not None and EARLIEST <= value <= latest else None


def identifier(value: Any) -> str | None:
    """An id or code as text: 17 becomes "17", "001" stays; None where it is missing or blank."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return storable(str(value)).strip() or None
    except ValueError:  # an integer of more digits than Python writes out
        return None


def text(value: Any, preferred: tuple[str, ...] = ("fr", "en")) -> str | None:
    """Text that is plain (GBFS 1 and 2) or a list of {text, language} (GBFS 3), tidied; None where there is none."""
    found = raw_text(value, preferred)
    return tidy(found) or None if found is not None else None


def raw_text(value: Any, preferred: tuple[str, ...] = ("fr", "en")) -> str | None:
    """As `text`, but character for character as it came."""
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict) and isinstance(entry.get("text"), str)]
        entries.sort(key=lambda entry: _rank(entry.get("language"), preferred))
        value = entries[0]["text"] if entries else None
    return value if isinstance(value, str) else None


def _rank(language: Any, preferred: tuple[str, ...]) -> int:
    short = language[:2].lower() if isinstance(language, str) else ""
    return preferred.index(short) if short in preferred else len(preferred)


def tidy(value: str) -> str:
    """Storable text with single blanks, and none at the ends."""
    return " ".join(storable(value).split())


def storable(value: str) -> str:
    """Text of only those characters that UTF-8 and PostgreSQL can hold."""
    return value.replace("\x00", "").encode("utf-8", errors="replace").decode("utf-8")


def coordinate(value: Any, limit: float) -> float | None:
    """Degrees within +-`limit`; None where it is missing, no number or out of range."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if abs(value) <= limit else None


def sequence(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


class Findings:
    """What a decoder had to reject or repair. Repairs of one sort become one note that counts the stations."""

    def __init__(self) -> None:
        self.rejected: list[str] = []
        self._repairs: dict[str, list[str]] = {}

    def repair(self, what: str, station_id: str) -> None:
        """Note that `what` was done to a station."""
        self._repairs.setdefault(what, []).append(station_id)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence a sort of repair, naming the first stations."""
        return tuple(
            f"{what}: {len(ids)} station{'s' if len(ids) > 1 else ''} "
            f"({', '.join(ids[:_MAX_NAMED])}{', ...' if len(ids) > _MAX_NAMED else ''})"
            for what, ids in self._repairs.items()
        )
