"""The server: a port that is taken is said in plain words, and it stops when told to."""

import socket
import threading
from contextlib import closing

import httpx
import pytest

from tests.test_api.conftest import Api
from velib_predictor.api.app import create_app
from velib_predictor.api.server import Server, bind
from velib_predictor.utils.errors import VelibError


def test_a_taken_port_is_said_in_plain_words() -> None:
    with closing(bind("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(VelibError, match=rf"^port {port} on 127\.0\.0\.1 is taken by another program; .*--port$"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_here_is_said_in_plain_words(host: str) -> None:
    with pytest.raises(VelibError, match=rf"^cannot listen on {host}:0: .*check --host$"):
        bind(host, 0)


def test_it_shuts_down_also_with_open_connections(empty: Api) -> None:
    before = threading.active_count()
    listening = bind("127.0.0.1", 0)
    with Server(create_app(empty.service), listening) as server, httpx.Client(base_url=server.address) as client:
        assert client.get("/healthz").status_code == 200
        assert server.alive
        idle = socket.create_connection(("127.0.0.1", listening.getsockname()[1]), timeout=10)
        address = listening.getsockname()
        server.__exit__()
        assert not server.alive
        assert idle.recv(1) == b"", "told that it is over"
        idle.close()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{address[1]}/healthz", timeout=5)
    assert threading.active_count() <= before
    bind("127.0.0.1", address[1]).close()


def test_it_says_where_it_is_reached(empty: Api) -> None:
    app = create_app(empty.service)
    with closing(bind("0.0.0.0", 0)) as listening:
        assert Server(app, listening).address == f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        ours = bind("::1", 0)
    except VelibError:
        pytest.skip("no IPv6 here")
    with closing(ours):
        assert Server(app, ours).address == f"http://[::1]:{ours.getsockname()[1]}"
