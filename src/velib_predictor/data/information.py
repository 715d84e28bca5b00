"""GBFS documents that rarely change: station information, system information and vehicle types, 1.0 to 3.1."""

from collections.abc import Iterable
from typing import Any

import msgspec

from velib_predictor.config.config import is_time_zone
from velib_predictor.data import quirks
from velib_predictor.data.fields import (
    BadFieldError,
    Findings,
    coordinate,
    count,
    described,
    identifier,
    parse_json,
    raw_text,
    sequence,
    shown,
    text,
    tidy,
)
from velib_predictor.data.raw import INFORMATION, SYSTEM, VEHICLE_TYPES, DecodeError
from velib_predictor.data.snapshot import StationInfo, SystemInfo

MAX_LAT = 90.0
MAX_LON = 180.0


class InformationPart(msgspec.Struct, frozen=True):
    """What a station_information document says; a record that could not be read is among the `notes`."""

    stations: tuple[StationInfo, ...] = ()
    notes: tuple[str, ...] = ()


class SystemPart(msgspec.Struct, frozen=True):
    """What a system_information document says, and what of it was not taken over."""

    system: SystemInfo
    notes: tuple[str, ...] = ()


def decode_information(body: bytes) -> InformationPart:
    """Decode a station_information document.

    Raises:
        DecodeError: the document is no JSON, or holds no list of stations.
    """
    document = quirks.unwrapped(parse_json(body, INFORMATION))
    if quirks.is_smoove(document):
        return read_information(quirks.smoove_records(document))
    return read_information(_listed(document, INFORMATION, "stations", body))


def read_information(records: Iterable[Any]) -> InformationPart:
    """Normalise station information from plain JSON records with the standard's field names."""
    findings = Findings()
    unwrapped = [quirks.unwrapped(record) for record in records]
    usable = [record for record in unwrapped if isinstance(record, dict)]
    centre = quirks.network_centre(
        [(coordinate(record.get("lat"), MAX_LAT), coordinate(record.get("lon"), MAX_LON)) for record in usable]
    )
    chosen: dict[str, StationInfo] = {}
    for record in usable:
        code = identifier(record.get("stationCode")) or text(record.get("short_name"))
        station_id = identifier(record.get("station_id")) or code
        if station_id is None:
            findings.repair("station information without station_id, left out", text(record.get("name")) or "no name")
            continue
        lat, lon = _position(record, station_id, centre, findings)
        info = StationInfo(station_id, code, _name(record, station_id, findings), lat, lon, _capacity(record))
        if chosen.setdefault(station_id, info) != info:
            findings.repair("station information listed twice with different values, the first kept", station_id)
    return InformationPart(tuple(chosen.values()), findings.notes)


def _name(record: dict[str, Any], station_id: str, findings: Findings) -> str | None:
    raw = raw_text(record.get("name"))
    if raw is None:
        return None
    # Repaired before blanks are tidied: a no-break space can be half of a broken character.
    repaired = quirks.repaired_name(raw)
    if repaired != raw:
        findings.repair("name was UTF-8 encoded more than once, repaired", station_id)
    return tidy(repaired) or None


def _capacity(record: dict[str, Any]) -> int | None:
    """Vélib' lists 12 to 16 stations with capacity 0 (2022 to 2025): not known, rather than no docks."""
    try:
        return count(record.get("capacity")) or None
    except BadFieldError:
        return None


def _position(
    record: dict[str, Any], station_id: str, centre: tuple[float, float] | None, findings: Findings
) -> tuple[float | None, float | None]:
    """Latitude and longitude in degrees, both or neither."""
    # Read with the wider range first: a swapped longitude may exceed 90.
    lat, lon = coordinate(record.get("lat"), MAX_LON), coordinate(record.get("lon"), MAX_LON)
    if lat is None or lon is None or (lat, lon) == (0, 0):
        return None, None
    if centre and quirks.looks_swapped(lat, lon, centre):
        findings.repair("latitude and longitude were exchanged, swapped back", station_id)
        lat, lon = lon, lat
    return (lat, lon) if abs(lat) <= MAX_LAT else (None, None)


def decode_system(body: bytes) -> SystemInfo:
    """Decode a system_information document, as `read_system`, without its notes."""
    return read_system(body).system


def read_system(body: bytes) -> SystemPart:
    """Decode a system_information document. A time zone that is none is None, with a note.

    Raises:
        DecodeError: the document is no JSON, or has no data.
    """
    document = quirks.unwrapped(parse_json(body, SYSTEM))
    data = quirks.unwrapped(document.get("data")) if isinstance(document, dict) else None
    if not isinstance(data, dict):
        raise DecodeError(f"{SYSTEM} holds no object under data: {described(body)}")
    languages = [entry for entry in sequence(data.get("languages")) if isinstance(entry, str)]
    timezone, notes = text(data.get("timezone")), []
    if timezone is not None and not is_time_zone(timezone):  # "America/New York", with a blank
        notes.append(f"{SYSTEM}: timezone is {shown(timezone)}, no IANA time zone, taken as unknown")
        timezone = None
    system = SystemInfo(
        system_id=identifier(data.get("system_id")),
        name=text(data.get("name")),
        timezone=timezone,
        language=text(data.get("language")) or (languages[0] if languages else None),
    )
    return SystemPart(system, tuple(notes))


def decode_vehicle_kinds(body: bytes) -> dict[str, str | None]:
    """Decode a vehicle_types document to the kind of each type, as `quirks.bicycle_kind` names them.

    Raises:
        DecodeError: the document is no JSON, or holds no list of vehicle types.
    """
    records = _listed(quirks.unwrapped(parse_json(body, VEHICLE_TYPES)), VEHICLE_TYPES, "vehicle_types", body)
    return {
        type_id: quirks.bicycle_kind(record.get("form_factor"), record.get("propulsion_type"))
        for record in records
        if isinstance(record, dict) and (type_id := identifier(record.get("vehicle_type_id")))
    }


def _listed(document: Any, what: str, key: str, body: bytes) -> list[Any]:
    data = quirks.unwrapped(document.get("data")) if isinstance(document, dict) else None
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise DecodeError(f"{what} holds no list under data.{key}: {described(body)}")
    return found
