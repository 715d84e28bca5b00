"""Time: UTC inside, durations written `15m`, and no naive time accepted anywhere."""

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from velib_predictor.utils.errors import UsageError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DURATION_FORM = "write a positive one such as 60s, 15m, 1h, 7d or PT15M"

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_SHORT = re.compile(
    r"(?:(?P<d>\d+(?:\.\d+)?)d)?(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?"
)
_ISO = re.compile(
    r"P(?:(?P<d>\d+(?:\.\d+)?)D)?(?:T(?:(?P<h>\d+(?:\.\d+)?)H)?(?:(?P<m>\d+(?:\.\d+)?)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)


def parse_duration(text: str) -> timedelta:
    """Read `15m`, `1h30m`, `90s`, `7d` or ISO 8601 `PT15M`, to the microsecond. The result is positive.

    Raises:
        UsageError: `text` is in neither form, rounds to zero, or is longer than Python can count.
    """
    stripped = text.strip()
    match = _SHORT.fullmatch(stripped) or _ISO.fullmatch(stripped)
    seconds = sum(_UNITS[unit] * float(value) for unit, value in match.groupdict().items() if value) if match else 0.0
    try:
        duration = timedelta(seconds=seconds)
    except OverflowError:
        raise UsageError(f"{text!r} is too long for a duration; {DURATION_FORM}") from None
    if duration <= timedelta(0):
        raise UsageError(f"{text!r} is not a duration; {DURATION_FORM}")
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration in the shortest exact form that `parse_duration` reads: 15m, 1h30m, 0.5s."""
    micros = duration // MICROSECOND
    parts = []
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000)):
        count, micros = divmod(micros, size)
        if count:
            parts.append(f"{count}{unit}")
    if micros or not parts:
        parts.append(f"{micros / 1e6:.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 time with an offset (`2024-11-05T08:10:00+01:00`, `...Z`) as UTC.

    Raises:
        UsageError: `text` is no time, leaves the years 1 to 9999 in UTC, or has no offset: local times are
            ambiguous twice a year.
    """
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"{text!r} is not a time; write it as 2024-11-05T08:10:00+01:00 or 2024-11-05T07:10:00Z"
        ) from None
    if value.tzinfo is None:
        raise UsageError(
            f"the time {text!r} has no offset from UTC; add one, such as {text.strip()}Z or {text.strip()}+01:00"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"the time {text!r} lies outside the years 1 to 9999 in UTC") from None


def to_micros(value: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exactly (no float on the way).

    Raises:
        ValueError: `value` is naive.
    """
    if value.tzinfo is None:
        raise ValueError(f"naive time {value!r}: attach a time zone")
    return (value - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The UTC time at `micros` microseconds since 1970-01-01 UTC."""
    return EPOCH + timedelta(microseconds=micros)


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with a `Z`, seconds and, where there are any, microseconds."""
    return from_micros(to_micros(value)).isoformat().replace("+00:00", "Z")


def next_local(now: datetime, at: time, zone: ZoneInfo) -> datetime:
    """The next instant after `now` (UTC) at which clocks in the zone show `at`, once a day whatever they do.

    A time that a change of clocks leaves out is taken as if they had not changed yet; of one that comes twice, the
    first.
    """
    day = now.astimezone(zone).date()
    while True:
        due = datetime.combine(day, at, zone).astimezone(UTC)
        if due > now:
            return due
        day += timedelta(days=1)


def next_aligned(now: datetime, every: timedelta, lead: timedelta = timedelta(0)) -> datetime:
    """The next instant after `now` that lies `lead` before a multiple of `every` since the epoch."""
    shifted = now - EPOCH + lead
    return EPOCH + (shifted // every + 1) * every - lead
