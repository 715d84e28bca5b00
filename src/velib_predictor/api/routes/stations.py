"""The stations and what is there now."""

import math
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from velib_predictor.api.caching import GEOJSON, JSON, Body, answer
from velib_predictor.api.dependencies import ServiceDep
from velib_predictor.api.served import meta
from velib_predictor.api.service import Known
from velib_predictor.inference.current import StationNow
from velib_predictor.utils.errors import UsageError

router = APIRouter(prefix="/v1/systems/{system}/stations", tags=["stations"])
_MAX_AGE_S = 15


class Format(StrEnum):
    """How a list is written."""

    JSON = "json"
    GEOJSON = "geojson"


@router.get(
    "",
    summary="All stations and what is there now",
    response_class=Response,
    responses={200: {"description": "All of them, or those that were asked for.", "content": {JSON: {}, GEOJSON: {}}}},
)
def list_stations(
    request: Request,
    service: ServiceDep,
    system: str,
    format: Annotated[Format, Query(description="json or geojson.")] = Format.JSON,
    bbox: Annotated[str | None, Query(description="west,south,east,north in degrees: only stations inside.")] = None,
    q: Annotated[str | None, Query(description="Only stations whose name or code contains this.")] = None,
) -> Response:
    """Counts as the last poll found them."""
    known = service.system(system)
    if bbox is None and q is None:  # what maps ask for again and again is made once for each poll
        if (body := known.lists.get(format)) is None:
            body = known.lists[format] = _list(known, list(known.current.stations.values()), format)
        return answer(request, body, _MAX_AGE_S)
    inside = _box(bbox) if bbox is not None else None
    chosen = [
        station
        for station in known.current.stations.values()
        if (inside is None or _is_inside(station, inside)) and (q is None or _matches(station, q))
    ]
    return answer(request, _list(known, chosen, format), _MAX_AGE_S)


def _list(known: Known, chosen: list[StationNow], format: Format) -> Body:
    rows = [described(station, known) for station in chosen]
    if format is Format.JSON:
        return Body.of({"stations": rows, "meta": meta(known.about)}, level=1)
    features = [
        {
            "type": "Feature",
            "id": row["station_id"],
            "geometry": None
            if row["lat"] is None or row["lon"] is None
            else {"type": "Point", "coordinates": [row["lon"], row["lat"]]},
            "properties": {key: value for key, value in row.items() if key not in ("lat", "lon")},
        }
        for row in rows
    ]
    content = {"type": "FeatureCollection", "meta": meta(known.about), "features": features}
    return Body.of(content, GEOJSON, level=1)


@router.get("/{station}", summary="One station and what is there now")
async def one_station(request: Request, service: ServiceDep, system: str, station: str) -> Response:
    """By its id, or by the code on its kiosk."""
    known = service.system(system)
    found = described(known.station(station), known)
    return answer(request, Body.of({**found, "meta": meta(known.about)}), _MAX_AGE_S)


def described(station: StationNow, known: Known) -> dict[str, Any]:
    """A station as plain values, times with the offset of its city."""
    values = station._asdict()
    values["observed_at"] = known.local(station.observed_at)
    for name in ("lat", "lon"):
        values[name] = values[name] if values[name] is not None and math.isfinite(values[name]) else None
    return values


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"bbox={text!r}: expected west,south,east,north in degrees, such as 2.2,48.8,2.4,48.9"
        ) from None
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise UsageError(f"bbox={text!r}: west must not exceed east nor south north, within -180..180 and -90..90")
    return west, south, east, north


def _is_inside(station: StationNow, box: tuple[float, float, float, float]) -> bool:
    if station.lat is None or station.lon is None:
        return False
    west, south, east, north = box
    return west <= station.lon <= east and south <= station.lat <= north


def _matches(station: StationNow, text: str) -> bool:
    wanted = text.casefold()
    return any(wanted in (value or "").casefold() for value in (station.name, station.code, station.station_id))
