"""How good the forecasts turned out to be."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from velib_predictor.api.caching import Body, answer
from velib_predictor.api.dependencies import ServiceDep
from velib_predictor.api.served import meta
from velib_predictor.jobs.score import summary

router = APIRouter(prefix="/v1/systems/{system}", tags=["scores"])


@router.get("/scores", summary="Live scores")
def scores(
    request: Request,
    service: ServiceDep,
    system: str,
    days: Annotated[int, Query(ge=1, le=366, description="Of the last so many days.")] = 7,
) -> Response:
    """Mean scores of what was served, by model, target and horizon, beside persistence on the same rows."""
    known = service.system(system)
    found = summary(service.database, system, service.now() - timedelta(days=days))
    return answer(request, Body.of({"days": days, "scores": found, "meta": meta(known.about)}), 300)
