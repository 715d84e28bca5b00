"""The HTTP server: a port bound before anything else is begun, and Uvicorn in a thread of its own."""

import errno
import socket
import threading

import uvicorn
from fastapi import FastAPI

from velib_predictor.utils.errors import VelibError


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        VelibError: the port is taken or not ours to take, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise VelibError(f"port {port} on {host} is taken by another program; choose one with --port") from None
        if error.errno == errno.EACCES:
            raise VelibError(f"port {port} may not be opened by this user; choose one above 1023 with --port") from None
        raise VelibError(f"cannot listen on {host}:{port}: {error.strerror or error}; check --host") from None
    return listening


class Server:
    """Serves an application from a socket, beside whatever else the process does. Use as a context manager."""

    def __init__(self, app: FastAPI, listening: socket.socket) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
        self._server = uvicorn.Server(config)
        self._listening = listening
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, name="api")

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._listening.close()

    @property
    def address(self) -> str:
        """Where it is reached."""
        host, port = self._listening.getsockname()[:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
        return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()
