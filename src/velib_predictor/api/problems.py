"""Errors as RFC 9457 problem documents: what was wrong, in words, and what is allowed."""

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.logger import get_logger

MEDIA_TYPE = "application/problem+json"
METHODS = "GET, HEAD, OPTIONS"
MISTAKE = "a mistake in this program; its log says what happened"
UNREADABLE = "the database cannot be read; the log of this program says why"
_log = get_logger(__name__)

_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong, and what is allowed."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "One entry a parameter."},
    },
}
_CONTENT = {MEDIA_TYPE: {"schema": _SCHEMA}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    304: {"description": "What the client has (If-None-Match) still holds."},
    404: {"description": "No such system or station, or nothing at this address.", "content": _CONTENT},
    422: {"description": "A parameter cannot be meant.", "content": _CONTENT},
    503: {"description": "It cannot be answered yet; try again after Retry-After seconds.", "content": _CONTENT},
}
"""The answers beside 200, for the OpenAPI document."""


class NotFoundError(UsageError):
    """What was asked for does not exist."""


class NotReadyError(VelibError):
    """It cannot be answered yet; later it can."""


def problem(request: Request, status: int, detail: str, **extra: Any) -> Response:
    """A problem document."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.scope["path"],
        **extra,
    }
    headers = {"Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "10"
    return Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let the application answer all its errors so."""

    @app.exception_handler(VelibError)
    async def refused(request: Request, error: VelibError) -> Response:
        if isinstance(error, NotFoundError):
            return problem(request, HTTPStatus.NOT_FOUND, str(error))
        if isinstance(error, UsageError):
            return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        if isinstance(error, NotReadyError):
            return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        # Where the database stands is nobody's business outside.
        _log.error("a request failed", path=request.scope["path"], error=str(error))
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, UNREADABLE)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"parameter": str(entry["loc"][-1]), "detail": entry["msg"], "given": str(entry.get("input"))[:100]}
            for entry in error.errors()
        ]
        detail = "; ".join(f"{entry['parameter']}: {entry['detail']}" for entry in errors)
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = f"there is nothing at {request.scope['path']}; / lists what there is"
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not possible here; everything can only be read: {METHODS}"
        answer = problem(request, error.status_code, detail)
        answer.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["Allow"] = METHODS
        return answer
