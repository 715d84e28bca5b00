"""One station's record in GBFS station status: its typed form, and how a record that departs from it is read."""

from typing import Annotated, Any

import msgspec

from velib_predictor.data import quirks
from velib_predictor.data.fields import MAX_COUNT, BadFieldError, Findings, count, flag, identifier, text
from velib_predictor.data.quirks import NamedKinds

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
Flag = bool | Annotated[int, msgspec.Meta(ge=0, le=1)] | None


class TypedKinds(NamedKinds, gc=False):
    mechanical: Count | None = None
    ebike: Count | None = None


class TypeCount(msgspec.Struct, gc=False):
    vehicle_type_id: str
    count: Count


class Record(msgspec.Struct, gc=False):
    """One station as the versions and operators write it; what a version lacks stays None."""

    station_id: str | int
    num_bikes_available: Count | None = None
    num_docks_available: Count | None = None
    num_bikes_available_types: list[TypedKinds] | TypedKinds | None = None
    is_installed: Flag = None
    is_renting: Flag = None
    is_returning: Flag = None
    last_reported: int | float | str | None = None
    station_code: str | int | None = msgspec.field(name="stationCode", default=None)
    num_bikes_disabled: Count | None = None
    num_docks_disabled: Count | None = None
    num_ebikes_available: Count | None = None
    vehicle_types_available: list[TypeCount] | None = None
    num_vehicles_available: Count | None = None
    num_vehicles_disabled: Count | None = None
    bikes_camel: Count | None = msgspec.field(name="numBikesAvailable", default=None)
    docks_camel: Count | None = msgspec.field(name="numDocksAvailable", default=None)
    can_rent: Flag = None
    can_return: Flag = None
    short_name: str | list[dict[str, str]] | None = None


class RejectedError(Exception):
    """One record cannot be read; the message is the sentence for `Snapshot.rejected`."""


_HARD_COUNTS = {
    "num_bikes_available": "num_bikes_available",
    "num_vehicles_available": "num_vehicles_available",
    "numBikesAvailable": "bikes_camel",
    "num_docks_available": "num_docks_available",
    "numDocksAvailable": "docks_camel",
}
"""Counts without which a station says nothing: a wrong one rejects the record."""
_SOFT_COUNTS = ("num_bikes_disabled", "num_vehicles_disabled", "num_docks_disabled", "num_ebikes_available")
_FLAGS = ("is_installed", "is_renting", "is_returning")


def coerced(raw: Any, findings: Findings) -> Record:
    """A record of plain JSON with each value read as leniently as it can be meant.

    Raises:
        RejectedError: it is no object, has no id, or a number of bikes or docks that is none.
    """
    record = quirks.unwrapped(raw)
    if not isinstance(record, dict):
        raise RejectedError(f"a record is no object but {type(record).__name__}")
    code = identifier(record.get("stationCode")) or text(record.get("short_name"))
    station_id = identifier(record.get("station_id")) or code
    if station_id is None:
        raise RejectedError
    fields: dict[str, Any] = {"station_id": station_id, "station_code": code}
    for key, name in _HARD_COUNTS.items():
        try:
            fields[name] = count(record.get(key))
        except BadFieldError as problem:
            raise RejectedError(f"station {station_id}: {key} is {problem}") from None
    for key in _SOFT_COUNTS:
        try:
            fields[key] = count(record.get(key))
        except BadFieldError:
            findings.repair(f"{key} is no count, taken as unknown", station_id)
    fields.update({key: flag(record.get(key)) for key in _FLAGS})
    can_rent, can_return = quirks.oslo_flags(record)
    fields |= {"can_rent": flag(can_rent), "can_return": flag(can_return), "last_reported": record.get("last_reported")}
    try:
        fields["num_bikes_available_types"] = quirks.named_kinds(record.get("num_bikes_available_types"))
        fields["vehicle_types_available"] = _type_counts(record.get("vehicle_types_available"))
    except BadFieldError:
        findings.repair("a count by kind is no count, kinds taken as unknown", station_id)
    return Record(**fields)


def _type_counts(value: Any) -> list[TypeCount] | None:
    if not isinstance(value, list):
        return None
    return [
        TypeCount(identifier(entry.get("vehicle_type_id")) or "", count(entry.get("count")) or 0)
        for entry in value
        if isinstance(entry, dict)
    ]
