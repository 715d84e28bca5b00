"""A city as GBFS: as Vélib' writes it (1.0 with its oddities), as 2.3 and as 3.0. Pure functions: view -> documents."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

from velib_predictor.simulation.city import SYSTEM_ID, City
from velib_predictor.simulation.simulation import Counts
from velib_predictor.utils.temporal import format_time

Flavour = Literal["velib", "2.3", "3.0"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
Document = dict[str, Any]

NAME = "Ville d'essai"
_LANGUAGE = "fr"
_TYPES = ("mechanical", "ebike")
_TTL_S = 60
# Vélib's ttl is 3600 although its counts move every minute; its last_reported is refreshed every 3607 s, all stations
# within some seconds (measured on 2025-11-20 to 2025-12-16). Its address of the list has the language "en".
_VELIB_TTL_S = 3_600
_VELIB_REFRESH_S = 3_607
_VELIB_SPREAD_S = 12


@dataclass(frozen=True, eq=False)
class View:
    """What a feed shows.

    Attributes:
        counts: of the stations.
        at: when the documents were generated, by the feed's own clock (UTC).
        shown: how many stations are listed in the status, the first ones.
    """

    city: City
    counts: Counts
    at: datetime
    shown: int

    @property
    def seconds(self) -> int:
        """POSIX time of the documents."""
        return int(self.at.timestamp())


class Row(NamedTuple):
    """One station now, as plain numbers."""

    station_id: int
    code: str
    mechanical: int
    ebikes: int
    docks: int
    bikes_disabled: int
    docks_disabled: int

    @property
    def bikes(self) -> int:
        """Of both kinds."""
        return self.mechanical + self.ebikes


def names(flavour: Flavour) -> tuple[str, ...]:
    """The documents of a flavour; the first one lists the others."""
    common = ("gbfs", "system_information", "station_information", "station_status")
    return common if flavour == "velib" else (*common, "vehicle_types")


def document(name: str, flavour: Flavour, view: View, base_url: str) -> Document:
    """One document.

    Args:
        name: of `names(flavour)`.
        base_url: where the documents are, without a slash at its end.
    """
    data = _DATA[flavour](name, view, base_url)
    match flavour:
        case "velib":
            return {"lastUpdatedOther": view.seconds, "ttl": _VELIB_TTL_S, "data": data}
        case "2.3":
            return {"last_updated": view.seconds, "ttl": _TTL_S, "version": flavour, "data": data}
        case "3.0":
            return {"last_updated": format_time(view.at), "ttl": _TTL_S, "version": flavour, "data": data}


def _velib(name: str, view: View, base_url: str) -> Document:
    city = view.city
    match name:
        case "gbfs":
            return {"en": {"feeds": _feeds("velib", base_url)}}
        case "system_information":
            zone = city.config.timezone
            return {"system_id": SYSTEM_ID, "name": NAME, "url": "", "timezone": zone, "language": "en"}
        case "station_information":
            return {"stations": [_velib_place(city, index) for index in range(len(city))]}
        case _:
            refreshed = view.seconds - view.seconds % _VELIB_REFRESH_S
            return {"stations": [_velib_station(row, refreshed) for row in rows(view)]}


def _velib_place(city: City, index: int) -> Document:
    place: Document = {
        "station_id": int(city.stations.id[index]),
        "stationCode": city.stations.code[index],
        "name": city.stations.name[index],
        "lat": float(city.stations.lat[index]),
        "lon": float(city.stations.lon[index]),
        "capacity": int(city.stations.capacity[index]),
        "station_opening_hours": None,
    }
    if index % 5 < 2:
        place["rental_methods"] = ["CREDITCARD"]
    return place


def _velib_station(row: Row, refreshed: int) -> Document:
    return {
        "station_id": row.station_id,
        "num_bikes_available": row.bikes,
        "numBikesAvailable": row.bikes,
        "num_bikes_available_types": [{"mechanical": row.mechanical}, {"ebike": row.ebikes}],
        "num_docks_available": row.docks,
        "numDocksAvailable": row.docks,
        "is_installed": 1,
        "is_returning": 1,
        "is_renting": 1,
        "last_reported": refreshed - row.station_id % _VELIB_SPREAD_S,
        "stationCode": row.code,
        "station_opening_hours": None,
    }


def _gbfs2(name: str, view: View, base_url: str) -> Document:
    city = view.city
    match name:
        case "gbfs":
            return {_LANGUAGE: {"feeds": _feeds("2.3", base_url)}}
        case "system_information":
            zone = city.config.timezone
            return {"system_id": SYSTEM_ID, "name": NAME, "timezone": zone, "language": _LANGUAGE}
        case "vehicle_types":
            return _vehicle_types()
        case "station_information":
            return {"stations": [_place(city, index) for index in range(len(city))]}
        case _:
            return {"stations": [_station(row, "bikes") | {"last_reported": view.seconds} for row in rows(view)]}


def _gbfs3(name: str, view: View, base_url: str) -> Document:
    city = view.city
    match name:
        case "gbfs":
            return {"feeds": _feeds("3.0", base_url)}
        case "system_information":
            return {
                "system_id": SYSTEM_ID,
                "name": _said(NAME),
                "languages": [_LANGUAGE],
                "opening_hours": "24/7",
                "feed_contact_email": "city@example.org",
                "timezone": city.config.timezone,
            }
        case "vehicle_types":
            return _vehicle_types()
        case "station_information":
            places = [_place(city, index) for index in range(len(city))]
            return {
                "stations": [p | {"name": _said(p["name"]), "short_name": _said(p["short_name"])} for p in places],
            }
        case _:
            at = format_time(view.at)
            return {"stations": [_station(row, "vehicles") | {"last_reported": at} for row in rows(view)]}


_DATA = {"velib": _velib, "2.3": _gbfs2, "3.0": _gbfs3}


def _feeds(flavour: Flavour, base_url: str) -> list[Document]:
    # 2.3 and 3.0 leave it open whether the list names itself; Vélib' does (2022-02-25).
    own = 0 if flavour == "velib" else 1
    return [{"name": name, "url": f"{base_url}/{name}.json"} for name in names(flavour)[own:]]


def _vehicle_types() -> Document:
    mechanical = {"vehicle_type_id": _TYPES[0], "form_factor": "bicycle", "propulsion_type": "human"}
    electric = {"vehicle_type_id": _TYPES[1], "form_factor": "bicycle", "propulsion_type": "electric_assist"}
    return {"vehicle_types": [mechanical, electric | {"max_range_meters": 50_000}]}


def _place(city: City, index: int) -> Document:
    return {
        "station_id": str(city.stations.id[index]),
        "short_name": city.stations.code[index],
        "name": city.stations.name[index],
        "lat": float(city.stations.lat[index]),
        "lon": float(city.stations.lon[index]),
        "capacity": int(city.stations.capacity[index]),
    }


def _station(row: Row, noun: str) -> Document:
    """One station of 2.3 (`noun` bikes) or 3.0 (vehicles), but for its time."""
    by_type = zip(_TYPES, (row.mechanical, row.ebikes), strict=True)
    return {
        "station_id": str(row.station_id),
        f"num_{noun}_available": row.bikes,
        f"num_{noun}_disabled": row.bikes_disabled,
        "vehicle_types_available": [{"vehicle_type_id": kind, "count": count} for kind, count in by_type],
        "num_docks_available": row.docks,
        "num_docks_disabled": row.docks_disabled,
        "is_installed": True,
        "is_renting": True,
        "is_returning": True,
    }


def _said(text: str) -> list[Document]:
    return [{"text": text, "language": _LANGUAGE}]


def rows(view: View) -> list[Row]:
    """The stations that a view shows."""
    stations, counts = view.city.stations, view.counts
    columns = zip(stations.id.tolist(), stations.code, *(column.tolist() for column in counts), strict=True)
    return [Row(*values) for values in columns][: view.shown]


def skewed(at: datetime, seconds: float) -> datetime:
    """A feed's time by a clock that is wrong."""
    return at + timedelta(seconds=seconds)
