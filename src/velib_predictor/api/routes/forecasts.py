"""Forecasts: of one station, and of all of them."""

from fastapi import APIRouter, Request, Response

from velib_predictor.api.caching import GEOJSON, answer
from velib_predictor.api.dependencies import At, Horizon, Least, ServiceDep, ahead, instant, place_of
from velib_predictor.api.service import Service

router = APIRouter(prefix="/v1/systems/{system}", tags=["forecasts"])
_NOW_MOVES_S = 30
"""How long an answer that counts from now is kept."""


@router.get("/stations/{station}/forecast", summary="Forecast of one station")
async def station_forecast(
    request: Request,
    system: str,
    station: str,
    at: At = None,
    horizon: Horizon = None,
    least: Least = 1,
) -> Response:
    """All horizons of the newest issue, or one instant: the probability of at least one bike and dock, and more."""
    service: Service = request.app.state.service  # a dependency would take a tenth of the whole time
    known, served = service.forecasts(system)
    place = place_of(known, served, station)
    when = instant(service, served, at, horizon)
    max_age = service.until_next(served)
    if when is None and least == 1:
        return answer(request, served.station(place), max_age)
    if when is None:
        return answer(request, served.station_at_all(place, least), max_age)
    if horizon is not None:
        max_age = min(max_age, _NOW_MOVES_S)
    return answer(request, served.station_at(place, when, least), max_age)


@router.get(
    "/forecast",
    summary="Forecast of the whole network as GeoJSON",
    response_class=Response,
    responses={200: {"description": "A point a station.", "content": {GEOJSON: {}}}},
)
def network_forecast(
    request: Request,
    service: ServiceDep,
    system: str,
    at: At = None,
    horizon: Horizon = None,
    least: Least = 1,
) -> Response:
    """All stations at one instant; half an hour from now if none is named."""
    _, served = service.forecasts(system)
    when = instant(service, served, at, horizon) or ahead(service, served, served.default_horizon)
    max_age = service.until_next(served)
    if at is None:
        max_age = min(max_age, _NOW_MOVES_S)
    return answer(request, served.network(when, least), max_age)
