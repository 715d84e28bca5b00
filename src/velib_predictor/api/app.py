"""The application: routes, errors, metrics, and the page that lists what there is."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Response

from velib_predictor import __version__
from velib_predictor.api import problems
from velib_predictor.api.edge import Edge
from velib_predictor.api.measures import Measured, Measures
from velib_predictor.api.routes import forecasts, health, scores, stations, systems
from velib_predictor.api.service import Service

WEB = Path(__file__).parent / "web"


def create_app(service: Service) -> FastAPI:
    """The API over what `service` knows."""
    app = FastAPI(
        title="Vélib Predictor",
        version=__version__,
        summary="Calibrated probabilities of finding a bike, an e-bike or a free dock.",
        docs_url=None,  # its page would come from somebody else's server; ours needs no network
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    app.state.service = service
    app.state.measures = Measures(service)
    problems.install(app)
    for part in (forecasts, stations, systems, scores, health):
        app.include_router(part.router)
    for path, name in (("/", "index.html"), ("/docs", "docs.html")):
        app.add_api_route(path, _page((WEB / name).read_bytes()), include_in_schema=False)

    app.add_middleware(Measured, measures=app.state.measures)
    app.add_middleware(Edge)
    return app


def _page(content: bytes) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, media_type="text/html", headers={"Cache-Control": "public, max-age=300"})

    return page
