"""What operators do differently, one small function each, with who and when. Everything else follows the standard."""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from velib_predictor.data.fields import count, sequence

Kinds = tuple[int | None, int | None]
"""Mechanical bikes and e-bikes of one station."""

SENTINELS = (999, 9999)
_MOJIBAKE = re.compile("[ÂÃÄÅâð]")
_LOST_NO_BREAK_SPACE = re.compile(r"(?<!\S)Ã(?!\S)")
_MAX_ENCODINGS = 3
_FAR_DEGREES = 2.0
_NEAR_DEGREES = 1.0


class NamedKinds(msgspec.Struct, gc=False):
    """The two counts that Vélib' and Bicing put under `num_bikes_available_types`."""

    mechanical: int | None = None
    ebike: int | None = None


def velib_kinds(entries: Sequence[NamedKinds]) -> NamedKinds:
    """Vélib' (2018 to 2026): a list of one-key objects, `[{"mechanical": 1}, {"ebike": 4}]`, in no promised order."""
    merged = NamedKinds()
    for entry in entries:
        if entry.mechanical is not None:
            merged.mechanical = entry.mechanical
        if entry.ebike is not None:
            merged.ebike = entry.ebike
    return merged


def named_kinds(value: Any) -> NamedKinds | None:
    """The same from plain JSON: Vélib's list, or Bicing's object `{"mechanical": 4, "ebike": 2}` (Barcelona, 2024).

    Raises:
        BadFieldError: a count in it is none.
    """
    entries = [entry for entry in ([value] if isinstance(value, dict) else sequence(value)) if isinstance(entry, dict)]
    if not entries:
        return None
    return velib_kinds([NamedKinds(count(entry.get("mechanical")), count(entry.get("ebike"))) for entry in entries])


def lyft_kinds(bikes: int, ebikes: int) -> Kinds:
    """Lyft (Divvy, Citi Bike, Bay Wheels, 2020 to 2026): `num_ebikes_available` is a part of `num_bikes_available`."""
    return bikes - ebikes, ebikes


def dott_bikes(bikes: int, by_type: int) -> int:
    """Dott (2025): `num_bikes_available` is 0 at stations whose `vehicle_types_available` add up to 15.

    Raises:
        BadFieldError: they add up to more than any station holds.
    """
    return (count(by_type) or 0) if bikes == 0 else bikes


def dock_sentinel(docks: int | None) -> int | None:
    """rentabike (2022): 999 docks stand for "as many as you like". None, not a number of docks."""
    return None if docks in SENTINELS else docks


def oslo_flags(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Oslo Bysykkel before GBFS 1: `can_rent` and `can_return` for what became is_renting and is_returning."""
    return record.get("can_rent"), record.get("can_return")


def unwrapped(value: Any) -> Any:
    """commonsbooking (2024, issues 2004, 2249): a document or station in `{"data": {}, "headers": [], "status": 200}`.

    The outer `data` of a GBFS document is none: only a wrapper also has `headers`.
    """
    if isinstance(value, dict) and isinstance(value.get("data"), dict) and "headers" in value:
        return value["data"]
    return value


def is_smoove(document: Any) -> bool:
    """Whether the document has the shape that Smoove served before GBFS (Helsinki, 2016)."""
    return isinstance(document, dict) and "data" not in document and isinstance(document.get("result"), list)


def smoove_records(document: Mapping[str, Any]) -> list[Any]:
    """Smoove's `{"name": "A04 Hamn", "avl_bikes": 1, ...}` as GBFS records that hold status and information in one.

    The first word of the name is the id.
    """
    records: list[Any] = []
    for row in document["result"]:
        if not isinstance(row, dict):
            records.append(row)
            continue
        station_id, _, name = str(row.get("name") or "").strip().partition(" ")
        lat, _, lon = str(row.get("coordinates") or "").partition(",")
        records.append(
            {
                "station_id": station_id,
                "name": name or None,
                "lat": lat or None,
                "lon": lon or None,
                "capacity": row.get("total_slots"),
                "num_bikes_available": row.get("avl_bikes"),
                "num_docks_available": row.get("free_slots"),
                "is_renting": row.get("operative"),
                "is_returning": row.get("operative"),
            }
        )
    return records


def repaired_name(name: str) -> str:
    """UTF-8 that was read as Windows-1252 and encoded again, up to three times (a copy of Vélib's feed, 2024-11-19).

    "TchaÃƒÂ¯kovski" is "Tchaïkovski". Text that does not round-trip, such as "Château", stays as it is. The second byte
    of "à" reads as a no-break space, which had become a blank on the way: "Port Ã  l'Anglais".
    """
    for _ in range(_MAX_ENCODINGS):
        if not _MOJIBAKE.search(name):
            break
        try:
            name = b"".join(_as_one_byte(character) for character in name).decode("utf-8")
        except UnicodeError:
            break
    return _LOST_NO_BREAK_SPACE.sub("à", name)


def _as_one_byte(character: str) -> bytes:
    """Windows-1252, whose five gaps decoders fill with Latin-1."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def network_centre(positions: Sequence[tuple[float | None, float | None]]) -> tuple[float, float] | None:
    """Median latitude and longitude, in degrees, of at least three known positions."""
    known = [(lat, lon) for lat, lon in positions if lat is not None and lon is not None and (lat, lon) != (0, 0)]
    if len(known) < 3:
        return None
    return statistics.median(lat for lat, _ in known), statistics.median(lon for _, lon in known)


def looks_swapped(lat: float, lon: float, centre: tuple[float, float]) -> bool:
    """Whether a station lies far from its network and, with latitude and longitude exchanged, in it."""
    return _distance((lat, lon), centre) > _FAR_DEGREES and _distance((lon, lat), centre) < _NEAR_DEGREES


def _distance(position: tuple[float, float], centre: tuple[float, float]) -> float:
    return max(abs(position[0] - centre[0]), abs(position[1] - centre[1]))


def bicycle_kind(form_factor: Any, propulsion: Any) -> str | None:
    """Which of our two kinds a vehicle type is: "mechanical", "ebike", or "" for scooters, cars and the like.

    None where the feed does not tell, so that a count by kind would be a guess.
    """
    if form_factor not in (None, "bicycle", "cargo_bicycle"):
        return ""
    if propulsion == "human":
        return "mechanical"
    if propulsion in ("electric_assist", "electric"):
        return "ebike"
    return "" if isinstance(propulsion, str) else None
