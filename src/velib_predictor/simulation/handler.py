"""The HTTP side of a city's server: a request in, an answer out."""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from velib_predictor.utils.errors import VelibError

_LONGEST_BODY = 65_536
_DRAINED = 4 << 20


class Serves(Protocol):
    """What answers."""

    def get(self, path: str, query: dict[str, str], accepts_gzip: bool, etag: str | None) -> tuple[Any, ...]:
        """Status, body (None: close the connection), headers and announced length."""
        ...

    def control(self, wishes: dict[str, Any]) -> dict[str, Any]:
        """What was posted to /control, and how things stand."""
        ...


class Handler(BaseHTTPRequestHandler):
    """Bound to a city by a subclass that sets `city`."""

    city: Serves
    protocol_version = "HTTP/1.1"
    server_version = "velib-city"
    timeout = 30

    def do_GET(self) -> None:
        """A document."""
        parts = urlsplit(self.path)
        gzip = "gzip" in self.headers.get("Accept-Encoding", "")
        query = dict(parse_qsl(parts.query))
        self._answer(*self.city.get(parts.path, query, gzip, self.headers.get("If-None-Match")))

    def do_POST(self) -> None:
        """Faults and time."""
        length = self.headers.get("Content-Length", "")
        if self.path != "/control" or not length.isdecimal() or int(length) > _LONGEST_BODY:
            self.close_connection = True
            # Read all the same: closed before that, the client's system might throw the answer away.
            self.rfile.read(min(int(length) if length.isdecimal() else 0, _DRAINED))
            self._say(404 if self.path != "/control" else 413, {"error": "post a short JSON object to /control"})
            return
        try:
            wishes = json.loads(self.rfile.read(int(length)) or b"{}")
            if not isinstance(wishes, dict):
                raise ValueError("it is no JSON object")
            self._say(200, self.city.control(wishes))
        except (VelibError, ValueError, TypeError) as error:
            self._say(400, {"error": str(error)})

    def _say(self, status: int, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self._answer(status, body, {"Content-Type": "application/json"}, len(body))

    def _answer(self, status: int, body: bytes | None, headers: dict[str, str], announced: int) -> None:
        if body is None:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(announced))
        if self.close_connection:  # else the client asks again on a connection that is about to close
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        if len(body) < announced:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a collector's log tells what was asked."""
