"""Keys and passwords in addresses: used for asking, and found in no message, no archived poll."""

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from tests.test_data import feeds
from tests.test_data.feedserver import FeedServer, reply
from tests.test_data.town import Town
from velib_predictor.config.config import CollectorSettings, FallbackSettings
from velib_predictor.data.discovery import dataset_address
from velib_predictor.data.fields import without_query
from velib_predictor.data.raw import DISCOVERY, INFORMATION, STATUS, SYSTEM, DecodeError, RawPoll
from velib_predictor.data.transport import FetchError, HttpTransport

KEY = "?api_key=hunter2"
BASIC = "Basic bWU6aHVudGVyMg=="  # me:hunter2


def told(raw: RawPoll) -> str:
    """All that is archived, stored and printed of a poll."""
    text = msgspec.json.encode(raw).decode()
    assert "hunter2" not in text
    assert "me:" not in text
    return text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://town.test/gbfs.json", "https://town.test/gbfs.json"),
        ("https://town.test:8443/a/@b/gbfs.json?api_key=hunter2", "https://town.test:8443/a/@b/gbfs.json"),
        ("http://me:hunter2@town.test/gbfs.json#hunter2", "http://town.test/gbfs.json"),
        ("http://hunter2@[::1]:80/gbfs.json", "http://[::1]:80/gbfs.json"),
        ("http://me:hun@ter2@town.test", "http://town.test"),
        ("http://me:hunter2/x@town.test/", "http://..."),
        ("http://me:hunter2?x@town.test/", "http://..."),
        ("http://town.test?next=http://hunter2", "http://town.test"),
        ("status.json?//hunter2", "status.json"),
        ("me:hunter2@town.test/x", "town.test/x"),
        ("//me:hunter2@town.test/x", "//town.test/x"),
        ("", ""),
    ],
)
def test_an_address_is_named_without_its_secrets(url: str, expected: str) -> None:
    assert without_query(url) == expected


@pytest.mark.parametrize(
    "url", ["http://me:hunter2/x@127.0.0.1/", "http://me:hunter2?x@127.0.0.1/", "me:hunter2@127.0.0.1/x"]
)
def test_a_password_that_breaks_an_address_is_not_repeated(url: str) -> None:
    with HttpTransport(CollectorSettings()) as transport, pytest.raises(FetchError) as caught:
        transport.get(url)
    assert "hunter2" not in str(caught.value)


def test_a_key_that_is_no_header_is_not_repeated(server: FeedServer) -> None:
    with HttpTransport(CollectorSettings(), {"X-Key": "hunter2\n"}) as transport, pytest.raises(FetchError) as caught:
        transport.get(f"{server.url}/gbfs.json")
    assert "hunter2" not in str(caught.value)
    assert "header" in str(caught.value)


def test_a_refused_redirect_names_its_target_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(301, headers={"Location": f"http://me:hunter2@feeds.test/status{KEY}"})

    with HttpTransport(CollectorSettings()) as transport:
        monkeypatch.setattr(transport, "_client", httpx.Client(transport=httpx.MockTransport(answer)))
        with pytest.raises(FetchError, match=r"redirects from https to http://feeds\.test/status$"):
            transport.get("https://feeds.test/status")


@pytest.mark.parametrize("datasets", [[], [{"system_id": "town", "versions": []}]])
def test_a_manifest_without_our_system_is_named_without_secrets(datasets: list[Any]) -> None:
    with pytest.raises(DecodeError, match=r"the manifest at http://town\.test/manifest\.json ") as caught:
        dataset_address({"datasets": datasets}, f"http://me:hunter2@town.test/manifest.json{KEY}", "town")
    assert "hunter2" not in str(caught.value)


def keyed(server: FeedServer, names: tuple[str, ...] = (STATUS, INFORMATION, SYSTEM)) -> None:
    """A system that answers only where the key is in the address."""
    documents = {
        "gbfs.json": feeds.discovery("2.3", server.url, names, suffix=f".json{KEY}"),
        "station_status.json": feeds.status("2.3", [feeds.station("2.3", "1")]),
        "station_information.json": feeds.information("2.3", [feeds.described("2.3", "1")]),
        "system_information.json": feeds.system("2.3"),
    }
    for name, document in documents.items():
        server.serve(f"/{name}{KEY}", document, etag=True)


def test_no_key_is_archived_and_unchanged_documents_are_still_confirmed(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    keyed(server)
    one = town(f"/gbfs.json{KEY}")
    first, _ = one.poll()
    assert first.error is None
    assert f"{server.url}/station_status.json" in told(first)
    second, _ = one.poll()
    status = second.document(STATUS)
    assert status is not None
    assert status.status == 304
    told(second)


def test_a_restart_neither_repeats_an_archived_key_nor_takes_another_address_for_the_same(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    keyed(server)
    raw, bodies = town(f"/gbfs.json{KEY}").poll()
    again = town(f"/gbfs.json{KEY}")
    again.feed.resume(raw, bodies.__getitem__)
    assert again.statuses()[INFORMATION] == 200, "the archive does not say which key the answer was for"
    # An archive of before addresses were cleaned.
    documents = [msgspec.structs.replace(document, url=f"{document.url}{KEY}") for document in raw.documents]
    old = town(f"/gbfs.json{KEY}")
    old.feed.resume(msgspec.structs.replace(raw, documents=tuple(documents)), bodies.__getitem__)
    for name in ("gbfs", "station_status", "station_information"):
        server.serve(f"/{name}.json{KEY}", b"down", status=403)
    resumed, _ = old.poll()
    assert resumed.document(INFORMATION) is not None
    told(resumed)


@pytest.mark.parametrize("name", ["gbfs", "station_status"])
@pytest.mark.parametrize("answer", [reply(b"no", status=403), reply(b"<html>"), reply(b"no", status=404)])
def test_no_failure_repeats_a_key(server: FeedServer, town: Callable[..., Town], name: str, answer: Any) -> None:
    keyed(server)
    server.script(f"/{name}.json{KEY}", [answer])
    server.script("/portal.json?api_key=hunter2", [answer])
    fallback = FallbackSettings(kind="opendata_paris", url=f"{server.url}/portal.json{KEY}")
    raw, _ = town(f"/gbfs.json{KEY}", fallback=fallback).poll()
    assert raw.error is not None
    told(raw)


def test_a_source_that_asked_to_wait_is_named_without_its_key(server: FeedServer, town: Callable[..., Town]) -> None:
    keyed(server)
    server.serve(f"/station_status.json{KEY}", b"no", status=429, headers={"Retry-After": "600"})
    one = town(f"/gbfs.json{KEY}")
    one.poll()
    raw, _ = one.poll()
    assert f"{server.url}/station_status.json answered HTTP 429" in told(raw)


def test_user_and_password_are_used_for_all_that_stands_beside_the_list_and_named_nowhere(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    server.serve("/old.json", b"", status=302, headers={"Location": "/gbfs.json"})
    listed = feeds.document("2.3", {"en": {"feeds": [{"name": STATUS, "url": "station_status.json"}]}})
    server.serve("/gbfs.json", listed)
    server.serve("/station_status.json", feeds.status("2.3", [feeds.station("2.3", "1")]))
    server.serve("/station_information.json", feeds.information("2.3", [feeds.described("2.3", "1")]))
    one = town(server.url.replace("http://", "http://me:hunter2@") + "/old.json")
    raw, _ = one.poll()
    assert raw.error is None
    assert server.paths() == ["/old.json", "/gbfs.json", "/station_status.json", "/station_information.json"]
    assert {request.headers.get("authorization") for request in server.asked()} == {BASIC}
    assert raw.document(DISCOVERY) is not None
    told(raw)
