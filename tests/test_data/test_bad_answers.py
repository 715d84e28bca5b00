"""Servers that answer with something else, elsewhere or not at all (cases 16, 17, 25; see `test_bad_input`)."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.test_data import feeds
from tests.test_data.decoding import encode, snapshot_of
from tests.test_data.feeds import AT
from tests.test_data.feedserver import FeedServer, reply
from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.discovery import listed_feeds
from velib_predictor.data.feed import Feed
from velib_predictor.data.raw import INFORMATION, STATUS, RawPoll, content_hash
from velib_predictor.data.snapshot import Snapshot
from velib_predictor.data.transport import Fetched, FetchError, HttpTransport


def poll_once(url: str, transport: Any = None) -> RawPoll:
    settings = CollectorSettings.model_validate({"connect_timeout": "1s", "attempts": 2})
    feed = Feed("town", SystemSettings(url=url), settings, transport or HttpTransport(settings, backoff_s=0.001))
    raw, bodies = feed.poll(AT, lambda: AT)
    assert {document.sha256 for document in raw.documents} == set(bodies)
    return raw


# -- 16, 17: over the network --------------------------------------------------------------------------------------


def served(server: FeedServer, version: str = "2.3") -> None:
    server.serve("/gbfs.json", feeds.discovery(version, server.url, (STATUS, INFORMATION)))
    server.serve("/station_status.json", feeds.status(version, [feeds.station(version, "1")]))
    server.serve("/station_information.json", feeds.information(version, [feeds.described(version, "1")]))


@pytest.mark.parametrize(
    "page", [b"<html>Attention Required! | Cloudflare</html>", b"GBFS disabled", b"", b'{"data": {"sta']
)
@pytest.mark.parametrize("status", [200, 403])
def test_16_a_page_in_place_of_a_feed_fails_the_poll_and_is_kept(server: FeedServer, page: bytes, status: int) -> None:
    served(server)
    server.serve("/station_status.json", page, status=status)
    raw = poll_once(f"{server.url}/gbfs.json")
    assert raw.error is not None
    assert f"HTTP {status}" in raw.error
    kept = raw.document(STATUS)
    if page:
        assert kept is not None
        assert (kept.status, kept.sha256) == (status, content_hash(page))


def test_16_too_many_requests_with_a_long_pause_end_the_poll_and_say_so(server: FeedServer) -> None:
    served(server)
    pause = {"Retry-After": "600"}
    server.serve("/station_status.json", b"maximum admitted 1 per second", status=429, headers=pause)
    raw = poll_once(f"{server.url}/gbfs.json")
    assert raw.error is not None
    assert "it asks to wait 600 s" in raw.error
    assert len(server.asked("/station_status.json")) == 1


def test_16_a_first_request_that_is_throttled_is_repeated(server: FeedServer) -> None:
    served(server)
    good = encode(feeds.status("2.3", [feeds.station("2.3", "1")]))
    server.script("/station_status.json", [reply(b"", drop=True), reply(good)])
    assert poll_once(f"{server.url}/gbfs.json").error is None


def test_17_feeds_that_are_missing_from_the_list_for_a_while_are_still_asked_for(server: FeedServer) -> None:
    server.serve("/gbfs.json", feeds.discovery("2.3", f"{server.url}/live", (STATUS,)))
    server.serve("/live/station_status.json", feeds.status("2.3", [feeds.station("2.3", "1")]))
    settings = CollectorSettings.model_validate({"connect_timeout": "1s", "attempts": 1})
    feed = Feed("town", SystemSettings(url=f"{server.url}/gbfs.json"), settings, HttpTransport(settings))
    feed.poll(AT, lambda: AT)
    server.serve("/gbfs.json", feeds.discovery("2.3", server.url, ("system_alerts",)))
    server.forget()
    raw, _ = feed.poll(AT, lambda: AT + timedelta(days=2))
    assert server.paths()[:2] == ["/gbfs.json", "/live/station_status.json"]
    assert raw.error is None


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_17_a_feed_that_is_refused_or_busy_is_not_looked_for_elsewhere(server: FeedServer, status: int) -> None:
    served(server)
    server.serve("/gbfs.json", feeds.discovery("2.3", f"{server.url}/live", (STATUS,)))
    server.serve("/live/station_status.json", b"no", status=status)
    assert poll_once(f"{server.url}/gbfs.json").error is not None
    assert "/station_status.json" not in server.paths()


@pytest.mark.parametrize("suffix", [".json", ""])
def test_17_a_list_that_never_had_the_feeds_is_helped_out_from_beside_it(server: FeedServer, suffix: str) -> None:
    server.serve("/v2/gbfs.json", feeds.discovery("2.3", server.url, ("system_alerts",)))
    server.serve(f"/v2/station_status{suffix}", feeds.status("2.3", [feeds.station("2.3", "1")]))
    assert poll_once(f"{server.url}/v2/gbfs.json").error is None


def test_17_a_list_that_names_a_dead_host_is_helped_out_from_beside_it_and_that_is_remembered(
    server: FeedServer,
) -> None:
    with FeedServer() as dead:
        old_host = dead.url
    served(server)
    server.serve("/gbfs.json", feeds.discovery("1.0", old_host, (STATUS, INFORMATION)))
    asked: list[str] = []

    class Recording(HttpTransport):
        def get(self, url: str, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
            asked.append(url)
            return super().get(url, etag=etag, last_modified=last_modified)

    settings = CollectorSettings.model_validate({"connect_timeout": "1s", "attempts": 2})
    with Recording(settings, backoff_s=0.001) as transport:
        feed = Feed("town", SystemSettings(url=f"{server.url}/gbfs.json"), settings, transport)
        assert feed.poll(AT, lambda: AT)[0].error is None
        assert [url.startswith(old_host) for url in asked] == [False, True, False, True, False]
        asked.clear()
        assert feed.poll(AT, lambda: AT)[0].error is None
    assert asked == [f"{server.url}/station_status.json"]


@pytest.mark.parametrize("url", ["file:src/test/resources/station_status.json", "file:///etc/passwd", "http://[bad"])
def test_17_addresses_that_are_not_of_the_web_are_never_opened(server: FeedServer, url: str) -> None:
    served(server)
    server.serve("/gbfs.json", feeds.document("2.3", {"en": {"feeds": [{"name": STATUS, "url": url}]}}))
    raw = poll_once(f"{server.url}/gbfs.json")
    assert raw.error is None
    status = raw.document(STATUS)
    assert status is not None
    assert status.url == f"{server.url}/station_status.json"


def test_17_plain_http_inside_a_list_from_https_is_upgraded() -> None:
    asked = []

    class Https:
        def get(self, url: str, **_: str | None) -> Fetched:
            asked.append(url)
            if not url.endswith("gbfs.json"):
                raise FetchError("not there", url=url, status=404)
            body = encode(feeds.discovery("2.3", "http://town.test:80/v2", (STATUS,)))
            return Fetched(url=url, status=200, headers={}, body=body, fetched_at=AT, duration_s=0)

    poll_once("https://town.test/gbfs.json", Https())
    assert asked[:2] == ["https://town.test/gbfs.json", "https://town.test/v2/station_status.json"]
    assert all(httpx.URL(url).scheme == "https" for url in asked)


def test_17_a_list_with_or_without_languages_and_with_nonsense_in_it() -> None:
    good = {"name": STATUS, "url": "https://town.test/status"}
    expected = {STATUS: "https://town.test/status"}
    base = "https://town.test/gbfs.json"
    for data in (
        {"feeds": [good]},
        {"nb": {"feeds": [good]}},
        {"en": None, "nb": {"feeds": [None, "x", {}, {"name": 5}, {"name": "a", "url": None}, good]}},
        {"en": {"feeds": {}}, "nb": {"feeds": [{**good, "name": "station_status.json"}]}},
    ):
        assert listed_feeds(data, base) == expected
    assert listed_feeds({}, base) == {}


def test_17_a_system_without_stations_says_so(server: FeedServer) -> None:
    server.serve("/gbfs.json", feeds.discovery("2.3", server.url, ("free_bike_status", "vehicle_types")))
    raw = poll_once(f"{server.url}/gbfs.json")
    assert raw.error is not None
    assert "lists no stations" in raw.error
    assert "free_bike_status" in raw.error


# -- 25: what of it the decoder can show ---------------------------------------------------------------------------


def test_25_a_system_that_changes_its_version_and_ids_overnight_is_decoded_either_way(server: FeedServer) -> None:
    served(server, "2.3")
    settings = CollectorSettings.model_validate({"connect_timeout": "1s", "attempts": 1})
    feed, decoder = (
        Feed("town", SystemSettings(url=f"{server.url}/gbfs.json"), settings, HttpTransport(settings)),
        Decoder(),
    )

    def poll(at: datetime) -> Snapshot:
        raw, bodies = feed.poll(at, lambda: at)
        return decoder.decode(raw, bodies.__getitem__)

    assert [station.station_id for station in poll(AT).stations] == ["1"]
    server.serve("/gbfs.json", feeds.discovery("3.0", server.url, (STATUS, INFORMATION)))
    server.serve("/station_status.json", feeds.status("3.0", [feeds.station("3.0", "TWN:1", 4)]))
    server.serve("/station_information.json", feeds.information("3.0", [feeds.described("3.0", "TWN:1", "One")]))
    after = poll(AT + timedelta(hours=6))
    assert [(station.station_id, station.values.bikes) for station in after.stations] == [("TWN:1", 4)]
    assert [(info.station_id, info.name) for info in after.information] == [("TWN:1", "One")]


def test_25_decoding_the_same_poll_again_changes_nothing() -> None:
    status = feeds.status(
        "2.3", [feeds.station("2.3", "1"), feeds.station("2.3", "1", 9), feeds.station("2.3", "2", -1)]
    )
    information = feeds.information("2.3", [feeds.described("2.3", "1", "TchaÃ¯kovski")])
    assert snapshot_of(status, information) == snapshot_of(status, information)
