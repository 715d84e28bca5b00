"""A whole system on a loopback server, and a feed that polls it."""

from datetime import UTC, datetime
from typing import Any

from tests.test_data import feeds
from tests.test_data.feeds import KINDS
from tests.test_data.feedserver import FeedServer
from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.feed import Feed
from velib_predictor.data.raw import INFORMATION, STATUS, SYSTEM, VEHICLE_TYPES, RawPoll
from velib_predictor.data.snapshot import Snapshot
from velib_predictor.data.transport import HttpTransport

ALL = (SYSTEM, INFORMATION, STATUS, VEHICLE_TYPES)


class Town:
    """A system on a server, and a feed that polls it at a time that the test moves."""

    def __init__(self, server: FeedServer, url: str = "/gbfs.json", **system: Any) -> None:
        self.server = server
        self.now = datetime.now(UTC)
        settings = CollectorSettings.model_validate({"connect_timeout": "1s", "attempts": 2, "information_every": "1h"})
        full = url if "://" in url else f"{server.url}{url}"
        self.transport = HttpTransport(settings, backoff_s=0.001)
        self.feed = Feed("town", SystemSettings(url=full, **system), settings, self.transport)
        self.decoder = Decoder()

    def poll(self) -> tuple[RawPoll, dict[str, bytes]]:
        return self.feed.poll(self.now, lambda: self.now)

    def snapshot(self) -> Snapshot:
        raw, bodies = self.poll()
        assert raw.error is None
        return self.decoder.decode(raw, bodies.__getitem__)

    def statuses(self) -> dict[str, int]:
        return {document.name: document.status for document in self.poll()[0].documents}


def publish(server: FeedServer, version: str = "2.3", *, names: tuple[str, ...] = ALL, **options: Any) -> None:
    """Serve a whole system of two stations."""
    discovery = feeds.discovery(version, server.url, names)
    server.serve("/gbfs.json", discovery, **options)
    stations = [feeds.station(version, "1", 5, 10), feeds.station(version, "2", 0, 20)]
    server.serve("/station_status.json", feeds.status(version, stations), **options)
    described = [feeds.described(version, "1", "One"), feeds.described(version, "2", "Two")]
    server.serve("/station_information.json", feeds.information(version, described), **options)
    server.serve("/system_information.json", feeds.system(version), **options)
    server.serve("/vehicle_types.json", feeds.vehicle_types(version, KINDS), **options)
