"""The rules by which one column of a history file is read: any sensible type in, one type out, refusals by row."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from velib_predictor.data.snapshot import Outcome

TIME = pa.timestamp("us", "UTC")
FLAG = pa.bool_()
_OLDEST = pa.scalar(datetime(1970, 1, 1, tzinfo=UTC), TIME)
_NEWEST = pa.scalar(datetime(2200, 1, 1, tzinfo=UTC), TIME)


class Bad(NamedTuple):
    """The values of a column that were refused: `mask` over its rows, and what to say of one."""

    values: pa.Array
    mask: pa.Array | None
    says: Callable[[Any], str]

    @property
    def total(self) -> int:
        return 0 if self.mask is None else int(pc.sum(self.mask).as_py() or 0)

    def first(self, limit: int) -> Iterator[tuple[int, str]]:
        """The first refusals: (row in the batch, from 0; what is wrong)."""
        if self.mask is not None:
            for index in pc.indices_nonzero(self.mask).to_pylist()[:limit]:
                yield index, self.says(self.values[index].as_py())

    @classmethod
    def none(cls, values: pa.Array) -> "Bad":
        return cls(values, None, str)

    @classmethod
    def empty(cls, values: pa.Array) -> "Bad":
        return cls(values, pc.is_null(values), lambda _: "is empty; every row needs a value here")


Rule = Callable[[pa.Array], tuple[pa.Array, Bad]]


def text(values: pa.Array) -> tuple[pa.Array, Bad]:
    """Text, or whole numbers written out; empty text is null."""
    if types.is_null(values.type):
        return pa.nulls(len(values), pa.string()), Bad.none(values)
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (_is_text(values.type) or types.is_integer(values.type)):
        return _refused(values, pa.string(), "text")
    return _without(pc.cast(values, pa.string()), pa.scalar("")), Bad.none(values)


def check_outcome(values: pa.Array) -> tuple[pa.Array, Bad]:
    """One of the words of the ledger."""
    words, bad = text(values)
    known = [str(outcome) for outcome in Outcome]
    unknown = pc.and_(pc.is_valid(words), pc.invert(pc.is_in(words, pa.array(known))))
    if bad.mask is None:
        bad = Bad(words, unknown, lambda word: f"{word!r} is no outcome; there are: {', '.join(known)}")
    return words, bad


def whole(largest: int, to: pa.DataType) -> Rule:
    """A rule for whole numbers 0..largest; 5.0 is one, as pandas writes a column with gaps."""

    def says(value: Any) -> str:
        return f"{value!r} is not a whole number from 0 to {largest}"

    def parse(value: str) -> int:
        parsed = float(value)
        if not 0 <= parsed <= largest or parsed != int(parsed):
            raise ValueError(value)
        return int(parsed)

    def rule(values: pa.Array) -> tuple[pa.Array, Bad]:
        values = _plain(values)
        if _is_text(values.type):
            return _by_value(values, parse, to, says)
        if types.is_null(values.type):
            return pa.nulls(len(values), to), Bad.none(values)
        if types.is_floating(values.type):
            values = _without_nan(values)
            wrong = pc.or_(pc.not_equal(pc.floor(values), values), _outside(values, 0, largest))
        elif types.is_integer(values.type):
            wrong = _outside(values, 0, largest)
        else:
            return _refused(values, to, f"a whole number from 0 to {largest}")
        return _kept(values, wrong, to, says)

    return rule


def number(low: float, high: float) -> Rule:
    """A rule for numbers from low to high."""

    def says(value: Any) -> str:
        return f"{value!r} is not a number from {low:g} to {high:g}"

    def parse(value: str) -> float:
        parsed = float(value)
        if not low <= parsed <= high:
            raise ValueError(value)
        return parsed

    def rule(values: pa.Array) -> tuple[pa.Array, Bad]:
        values = _plain(values)
        if _is_text(values.type):
            return _by_value(values, parse, pa.float64(), says)
        if types.is_null(values.type):
            return pa.nulls(len(values), pa.float64()), Bad.none(values)
        if not (types.is_floating(values.type) or types.is_integer(values.type)):
            return _refused(values, pa.float64(), f"a number from {low:g} to {high:g}")
        values = _without_nan(pc.cast(values, pa.float64()))
        return _kept(values, _outside(values, low, high), pa.float64(), says)

    return rule


def flag(values: pa.Array) -> tuple[pa.Array, Bad]:
    """true or false, in any case, or 1 or 0."""
    values = _plain(values)
    if types.is_boolean(values.type):
        return values, Bad.none(values)
    if types.is_null(values.type):
        return pa.nulls(len(values), FLAG), Bad.none(values)
    if types.is_integer(values.type) or types.is_floating(values.type):
        values = _without_nan(values) if types.is_floating(values.type) else values
        wrong = pc.invert(pc.is_in(values, pa.array([0, 1, None], values.type)))
        return _kept(values, wrong, FLAG, lambda value: f"{value!r} is neither true nor false")
    if not _is_text(values.type):
        return _refused(values, FLAG, "true or false")
    words = {"true": True, "1": True, "false": False, "0": False, "1.0": True, "0.0": False}
    return _by_value(values, lambda word: words[word.lower()], FLAG, lambda word: f"{word!r} is neither true nor false")


def time(values: pa.Array) -> tuple[pa.Array, Bad]:
    """An instant with a time zone, in any unit; what is finer than a microsecond is cut off."""
    values = _plain(values)
    if types.is_null(values.type):
        return pa.nulls(len(values), TIME), Bad.none(values)
    if _is_text(values.type):
        try:
            parsed = pc.cast(values, TIME)
        except pa.ArrowInvalid:
            return _by_value(values, _parse_time, TIME, _says_time)
    elif types.is_timestamp(values.type):
        if values.type.tz is None:
            says = "is a time without a zone; write it as a timestamp in UTC"
            return pa.nulls(len(values), TIME), Bad(values, pc.is_valid(values), lambda v: f"{v} {says}")
        if values.type.unit == "ns":
            values = pc.floor_temporal(values, unit="microsecond")
        parsed = pc.cast(values, TIME, safe=values.type.unit != "ns")
    else:
        return _refused(values, TIME, "a time with a zone")
    wrong = pc.or_(pc.less(parsed, _OLDEST), pc.greater_equal(parsed, _NEWEST))
    return _kept(parsed, wrong, TIME, lambda value: f"{value} is no time between the years 1970 and 2200")


def _parse_time(value: str) -> datetime:
    parsed = datetime.fromisoformat(value)
    if parsed.tzinfo is None or not 1970 <= parsed.astimezone(UTC).year < 2200:
        raise ValueError(value)
    return parsed.astimezone(UTC)


def _says_time(value: str) -> str:
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return f"{value!r} is no time; write it as 2024-10-31T13:50:00Z"
    if parsed.tzinfo is None:
        return f"{value!r} has no offset from UTC; write it as 2024-10-31T13:50:00Z or 2024-10-31T14:50:00+01:00"
    return f"{value!r} is no time between the years 1970 and 2200"


def _by_value(
    values: pa.Array, parse: Callable[[str], Any], to: pa.DataType, says: Callable[[Any], str]
) -> tuple[pa.Array, Bad]:
    """Read text by its distinct values: counts and flags have few, and Python says best what is wrong with one."""
    encoded = values.dictionary_encode()
    parsed: list[Any] = []
    wrong = []
    for index, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            parsed.append(None if value == "" else parse(value))
        except (ValueError, KeyError, OverflowError):
            parsed.append(None)
            wrong.append(index)
    result = pa.array(parsed, to).take(encoded.indices)
    mask = pc.is_in(encoded.indices, pa.array(wrong, encoded.indices.type)) if wrong else None
    return result, Bad(values, mask, says)


def _kept(values: pa.Array, wrong: pa.Array, to: pa.DataType, says: Callable[[Any], str]) -> tuple[pa.Array, Bad]:
    """The values that are not wrong, in their final type."""
    if pc.any(wrong).as_py():
        kept = pc.if_else(wrong, pa.scalar(None, values.type), values)
        return pc.cast(kept, to), Bad(values, pc.fill_null(wrong, False), says)
    return pc.cast(values, to), Bad.none(values)


def _refused(values: pa.Array, to: pa.DataType, expected: str) -> tuple[pa.Array, Bad]:
    message = f"is of type {values.type}; expected {expected}"
    return pa.nulls(len(values), to), Bad(values, pc.is_valid(values), lambda value: f"{value!r} {message}")


def _plain(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if types.is_dictionary(values.type) else values


def _is_text(of: pa.DataType) -> bool:
    return bool(types.is_string(of) or types.is_large_string(of) or types.is_string_view(of))


def _outside(values: pa.Array, low: float, high: float) -> pa.Array:
    return pc.or_(pc.less(values, low), pc.greater(values, high))


def _without(values: pa.Array, unwanted: pa.Scalar) -> pa.Array:
    same = pc.equal(values, unwanted)
    return pc.if_else(same, pa.scalar(None, values.type), values) if pc.any(same).as_py() else values


def _without_nan(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
