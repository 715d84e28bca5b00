"""Small payloads in the shape of each GBFS version, of Vélib' and of the Paris Data portal."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

AT = datetime(2025, 11, 23, 18, 0, tzinfo=UTC)
"""The time at which the built feeds were written."""

VERSIONS = ("1.1", "2.0", "2.1", "2.2", "2.3", "3.0", "3.1-RC3")

KINDS = (("bike", "bicycle", "human"), ("ebike", "bicycle", "electric_assist"), ("kick", "scooter", "electric"))
"""Vehicle types as (id, form factor, propulsion)."""

Json = dict[str, Any]


def posix(at: datetime = AT) -> int:
    """POSIX seconds."""
    return int(at.timestamp())


def stamp(version: str, at: datetime = AT) -> Any:
    """A time as the version writes it."""
    return at.isoformat().replace("+00:00", "Z") if version >= "3" else posix(at)


def document(version: str, data: Json, *, at: datetime = AT, ttl: int = 60) -> Json:
    """The envelope that every document of a version has."""
    return {"last_updated": stamp(version, at), "ttl": ttl, "version": version, "data": data}


def localized(version: str, text: str, language: str = "en") -> Any:
    """Text as the version writes it."""
    return [{"text": text, "language": language}] if version >= "3" else text


def discovery(version: str, base: str, names: Sequence[str], language: str = "en", suffix: str = ".json") -> Json:
    """gbfs.json, listing `names` below `base`."""
    feeds = [{"name": name, "url": f"{base}/{name}{suffix}"} for name in names]
    return document(version, {"feeds": feeds} if version >= "3" else {language: {"feeds": feeds}}, ttl=300)


def status(version: str, stations: Sequence[Json], *, at: datetime = AT) -> Json:
    """station_status.json of records made by `station`."""
    return document(version, {"stations": list(stations)}, at=at)


def station(version: str, station_id: Any, bikes: Any = 5, docks: Any = 10, **more: Any) -> Json:
    """One status record that conforms to the version; `more` adds or overrides keys."""
    yes: Any = 1 if version < "2" else True
    prefix = "num_vehicles" if version >= "3" else "num_bikes"
    record = {
        "station_id": station_id,
        f"{prefix}_available": bikes,
        "num_docks_available": docks,
        "is_installed": yes,
        "is_renting": yes,
        "is_returning": yes,
        "last_reported": stamp(version),
    }
    if version >= "2.1":  # required there as soon as the system has vehicle types
        record["vehicle_types_available"] = [{"vehicle_type_id": "bike", "count": bikes}]
        record["vehicle_docks_available"] = [{"vehicle_type_ids": ["bike"], "count": docks}]
    return {**record, **more}


def information(version: str, stations: Sequence[Json], *, at: datetime = AT) -> Json:
    """station_information.json of records made by `described`."""
    return document(version, {"stations": list(stations)}, at=at, ttl=3600)


def described(
    version: str, station_id: Any, name: str = "Somewhere", lat: float = 48.85, lon: float = 2.35, **more: Any
) -> Json:
    """One information record that conforms to the version; `more` adds or overrides keys."""
    record = {"station_id": station_id, "name": localized(version, name), "lat": lat, "lon": lon, "capacity": 20}
    return {**record, **more}


def vehicle_types(version: str, kinds: Sequence[tuple[str, str, str]]) -> Json:
    """vehicle_types.json of (id, form factor, propulsion)."""
    types = []
    for type_id, form_factor, propulsion in kinds:
        if form_factor == "scooter" and version >= "3":
            form_factor = "scooter_standing"
        entry = {"vehicle_type_id": type_id, "form_factor": form_factor, "propulsion_type": propulsion}
        if propulsion != "human":
            entry["max_range_meters"] = 50000.0  # type: ignore[assignment]
        types.append(entry)
    return document(version, {"vehicle_types": types}, ttl=3600)


def system(version: str, system_id: str = "town", name: str = "Town Bikes", timezone: str = "Europe/Paris") -> Json:
    """system_information.json."""
    data: Json = {"system_id": system_id, "name": localized(version, name), "timezone": timezone}
    if version >= "3":
        data |= {
            "languages": ["en"],
            "opening_hours": "24/7",
            "feed_contact_email": "feed@example.org",
        }
    else:
        data["language"] = "en"
    return document(version, data, ttl=3600)


def manifest(datasets: dict[str, dict[str, str]], version: str = "3.0") -> Json:
    """manifest.json: of each system the address of each version's gbfs.json."""
    listed = [
        {"system_id": name, "versions": [{"version": number, "url": url} for number, url in versions.items()]}
        for name, versions in datasets.items()
    ]
    return document(version, {"datasets": listed})


def velib_status(stations: Sequence[Json], *, at: datetime = AT) -> Json:
    """station_status.json as Vélib' writes it: no version, `lastUpdatedOther`, a ttl of an hour."""
    return {"lastUpdatedOther": posix(at), "ttl": 3600, "data": {"stations": list(stations)}}


velib_information = velib_status
"""station_information.json: the envelope is the same."""


def velib_station(
    station_id: int, code: str, mechanical: int, ebikes: int, docks: int, *, reported: datetime = AT, open_: int = 1
) -> Json:
    """One record of Vélib's station_status."""
    bikes = mechanical + ebikes
    return {
        "station_id": station_id,
        "num_bikes_available": bikes,
        "numBikesAvailable": bikes,
        "num_bikes_available_types": [{"mechanical": mechanical}, {"ebike": ebikes}],
        "num_docks_available": docks,
        "numDocksAvailable": docks,
        "is_installed": 1,
        "is_returning": open_,
        "is_renting": open_,
        "last_reported": posix(reported),
        "stationCode": code,
        "station_opening_hours": None,
    }


def velib_described(station_id: int, code: str, name: str = "Ici", capacity: int = 30) -> Json:
    """One record of Vélib's station_information."""
    return {
        "station_id": station_id,
        "stationCode": code,
        "name": name,
        "lat": 48.85,
        "lon": 2.35,
        "capacity": capacity,
        "station_opening_hours": None,
    }


def portal_row(code: str | None, mechanical: int | None, ebikes: int | None, docks: int, **more: Any) -> Json:
    """One row of the portal's exports/json (Explore v2.1)."""
    row = {
        "stationcode": code,
        "name": "Là",
        "is_installed": "OUI",
        "capacity": 30,
        "numdocksavailable": docks,
        "numbikesavailable": (mechanical or 0) + (ebikes or 0),
        "mechanical": mechanical,
        "ebike": ebikes,
        "is_renting": "OUI",
        "is_returning": "NON",
        "duedate": "2025-11-23T18:40:00+01:00",
        "coordonnees_geo": {"lon": 2.35, "lat": 48.85},
        "nom_arrondissement_communes": "Paris",
        "code_insee_commune": "75056",
        "station_opening_hours": None,
    }
    return {**row, **more}
