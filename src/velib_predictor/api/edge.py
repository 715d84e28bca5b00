"""What holds everywhere: HEAD is GET without a body, OPTIONS says what is possible, other sites' pages may read it."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from velib_predictor.api.problems import METHODS, MISTAKE, problem
from velib_predictor.utils.logger import get_logger

_log = get_logger(__name__)
_EVERYBODY = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"ETag, Retry-After"),
]
_POSSIBLE = {
    "Allow": METHODS,
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "86400",
}


class Edge:
    """ASGI middleware. That an answer to HEAD has no body is the server's work (ASGI, HTTP message format).

    The header that lets other pages read an answer is always sent, not only to those who name their origin: a shared
    cache would hand what it got without to a browser that needs it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=_POSSIBLE)(scope, receive, send)
            return
        head, begun = scope["method"] == "HEAD", False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], *_EVERYBODY]
            await send(message)

        try:
            await self._app({**scope, "method": "GET"} if head else scope, receive, sent)
        except Exception as error:  # not left to the server, which would cut the connection
            _log.exception("a request failed", path=scope["path"], error=repr(error))
            if begun:
                raise
            await problem(Request(scope), HTTPStatus.INTERNAL_SERVER_ERROR, MISTAKE)(scope, receive, sent)
