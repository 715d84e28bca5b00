"""Whether it lives, whether it can answer, and what it measures."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from velib_predictor import __version__
from velib_predictor.api.caching import Body
from velib_predictor.api.dependencies import ServiceDep
from velib_predictor.api.problems import problem

router = APIRouter(tags=["health"])
_NEVER_KEPT = {"Cache-Control": "no-store"}


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> Response:
    """Says nothing of the data."""
    body = Body.of({"status": "ok", "version": __version__})
    return Response(body.data, media_type=body.media_type, headers=_NEVER_KEPT)


@router.get("/readyz", summary="Whether it can answer")
async def readyz(request: Request, service: ServiceDep) -> Response:
    """200 if the database can be read and some system has an issue, else 503. A stale issue is still an answer."""
    issues = {name: known.served.summary() if known.served else None for name, known in service.systems.items()}
    if service.trouble is not None:
        return problem(request, 503, service.trouble, systems=issues)
    if not any(issues.values()):
        return problem(request, 503, "no forecast has been issued yet", systems=issues)
    body = Body.of({"status": "ready", "systems": issues})
    return Response(body.data, media_type=body.media_type, headers=_NEVER_KEPT)


@router.get("/metrics", summary="Prometheus metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """Of this process: requests, and the age of what is served."""
    text = generate_latest(request.app.state.measures.registry)
    return Response(text, headers={**_NEVER_KEPT, "Content-Type": CONTENT_TYPE_LATEST})
