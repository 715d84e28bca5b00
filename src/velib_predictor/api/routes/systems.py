"""Which systems there are."""

from typing import Any

from fastapi import APIRouter, Request, Response

from velib_predictor.api.caching import Body, answer
from velib_predictor.api.dependencies import ServiceDep
from velib_predictor.api.problems import NotReadyError
from velib_predictor.api.served import meta
from velib_predictor.api.service import Known

router = APIRouter(prefix="/v1/systems", tags=["systems"])


@router.get("", summary="All systems")
async def list_systems(request: Request, service: ServiceDep) -> Response:
    """The systems that are collected or were imported."""
    if service.trouble is not None and not service.systems:
        raise NotReadyError(service.trouble)
    found = [_described(known) for _, known in sorted(service.systems.items())]
    return answer(request, Body.of({"systems": found}), 10)


@router.get("/{system}", summary="One system")
async def one_system(request: Request, service: ServiceDep, system: str) -> Response:
    """What is known of a system, and its newest issue."""
    return answer(request, Body.of(_described(service.system(system))), 10)


def _described(known: Known) -> dict[str, Any]:
    about = known.about
    here = f"/v1/systems/{about.system_id}"
    return {
        "system_id": about.system_id,
        "name": about.name,
        "timezone": about.timezone,
        "stations": len(known.current.stations),
        "heard_at": known.local(known.current.heard_at),
        "forecast": known.served.summary() if known.served else None,
        "links": {
            "stations": f"{here}/stations",
            "station_forecast": f"{here}/stations/{{id}}/forecast",
            "forecast": f"{here}/forecast",
            "scores": f"{here}/scores",
        },
        "meta": meta(about),
    }
