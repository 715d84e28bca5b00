"""What the tests of feeds share: a server on loopback, and a town that is fed from it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.test_data.feedserver import FeedServer
from tests.test_data.town import Town


@pytest.fixture
def server() -> Iterator[FeedServer]:
    """A real HTTP server that says what the test tells it to."""
    with FeedServer() as running:
        yield running


@pytest.fixture
def town(server: FeedServer) -> Iterator[Callable[..., Town]]:
    """Makes feed clients of the server's town: `town(path, **system settings)`."""
    made: list[Town] = []

    def make(url: str = "/gbfs.json", **system: Any) -> Town:
        made.append(Town(server, url, **system))
        return made[-1]

    yield make
    for one in made:
        one.transport.close()
