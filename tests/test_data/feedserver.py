"""A real HTTP server on the loopback interface that says what a test tells it to, and remembers what it was asked."""

import gzip
import hashlib
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self


class Reply(NamedTuple):
    """One answer. `truncate_to` sends only so many bytes of the body but announces all of it."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    truncate_to: int | None = None
    drop: bool = False
    """Close the connection without an answer."""
    etag: bool = False
    """Send an ETag, and answer 304 to a request that brings it."""
    compressed: bool = False
    pieces: int = 1
    """In how many pieces the body is sent, with `delay_s` before each."""


class Asked(NamedTuple):
    """One request as it came; header names in lower case."""

    path: str
    headers: dict[str, str]


class FeedServer:
    """Use as a context manager, then `serve` answers by path. Unknown paths answer 404."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self._replies: defaultdict[str, deque[Reply]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Address of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve(self, path: str, body: bytes | str | object = b"", **options: Any) -> None:
        """Answer `path` from now on with `body` (bytes, text, or what becomes JSON); `options` as in `Reply`."""
        self.script(path, [reply(body, **options)])

    def script(self, path: str, replies: Iterable[Reply]) -> None:
        """Answer `path` with one reply after the other; the last one stays."""
        with self._lock:
            self._replies[path] = deque(replies)

    def remove(self, path: str) -> None:
        """Answer `path` with 404 from now on."""
        with self._lock:
            self._replies.pop(path, None)

    def asked(self, path: str | None = None) -> list[Asked]:
        """The requests so far, of one path or all."""
        with self._lock:
            return [request for request in self.requests if path in (None, request.path)]

    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [request.path for request in self.asked()]

    def forget(self) -> None:
        """Start the record of requests anew."""
        with self._lock:
            self.requests.clear()

    def _next(self, asked: Asked) -> Reply:
        with self._lock:
            self.requests.append(asked)
            replies = self._replies.get(asked.path)
            if not replies:
                return Reply(b"not found", status=404)
            return replies.popleft() if len(replies) > 1 else replies[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                _send(self, server._next(Asked(self.path, headers)), headers)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the tests' output clean."""

        return Handler


def reply(body: bytes | str | object = b"", **options: Any) -> Reply:
    """A `Reply` whose body may be bytes, text, or anything that becomes JSON."""
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False).encode()
    headers = options.pop("headers", {})
    return Reply(body=body, headers=tuple(dict(headers).items()), **options)


def _send(handler: BaseHTTPRequestHandler, answer: Reply, headers: dict[str, str]) -> None:
    if answer.delay_s and answer.pieces == 1:
        time.sleep(answer.delay_s)
    if answer.drop:
        handler.close_connection = True
        return
    body, status = answer.body, answer.status
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    if answer.etag and headers.get("if-none-match") == etag:
        body, status = b"", 304
    if answer.compressed:
        body = gzip.compress(body)
    handler.send_response(status)
    for name, value in answer.headers:
        handler.send_header(name, value)
    if answer.etag and status != 304:  # a 304 need not repeat it
        handler.send_header("ETag", etag)
    if answer.compressed:
        handler.send_header("Content-Encoding", "gzip")
    if status != 304:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if answer.truncate_to is not None:
        body = body[: answer.truncate_to]
        handler.close_connection = True
    _write(handler, body, answer)


def _write(handler: BaseHTTPRequestHandler, body: bytes, answer: Reply) -> None:
    size = max(1, -(-len(body) // answer.pieces))
    try:
        for start in range(0, len(body), size):
            if answer.pieces > 1:
                time.sleep(answer.delay_s)
            handler.wfile.write(body[start : start + size])
            handler.wfile.flush()
    except OSError:  # the client has hung up, as some tests mean it to
        handler.close_connection = True
