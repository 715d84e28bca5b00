"""Finding a system's feeds from its discovery document, over real loopback HTTP."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.test_data import feeds
from tests.test_data.feedserver import FeedServer, reply
from tests.test_data.town import Town, publish
from velib_predictor.data.raw import DISCOVERY, STATUS


def test_of_several_systems_in_a_manifest_ours_is_taken_in_its_newest_version(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server, "3.0")
    versions = {"2.3": f"{server.url}/2/gbfs.json", "3.0": "/gbfs.json", "4.0": f"{server.url}/4/gbfs.json"}
    server.serve("/manifest.json", feeds.manifest({"elsewhere": {"3.0": f"{server.url}/no"}, "town": versions}))
    one = town("/manifest.json")
    assert len(one.snapshot().stations) == 2
    assert server.paths()[:3] == ["/manifest.json", "/gbfs.json", "/station_status.json"]
    assert {"manifest", DISCOVERY} <= set(one.statuses())


def test_the_only_system_of_a_manifest_is_taken_whatever_its_name(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server, "3.0")
    server.serve("/manifest.json", feeds.manifest({"other_name": {"3.0": f"{server.url}/gbfs.json"}}))
    assert len(town("/manifest.json").snapshot().stations) == 2


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ({"a": {"3.0": "/a"}, "b": {"3.0": "/b"}}, "no system 'town'; it lists: a, b"),
        ({"a": {"4.0": "/a"}}, "up to 3.1"),
    ],
)
def test_a_manifest_without_our_system_is_an_error_that_says_what_it_has(
    server: FeedServer, town: Callable[..., Town], datasets: dict[str, dict[str, str]], expected: str
) -> None:
    server.serve("/manifest.json", feeds.manifest(datasets))
    error = town("/manifest.json").poll()[0].error
    assert error is not None
    assert expected in error


def test_french_is_preferred_then_english_then_whatever_has_stations(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)

    def layer(path: str, name: str = STATUS) -> dict[str, Any]:
        return {"feeds": [{"name": name, "url": f"{server.url}/{path}"}]}

    stations = feeds.status("2.3", [feeds.station("2.3", "1")])
    for path in ("nb", "en", "fr"):
        server.serve(f"/{path}", stations)
    data = {"nb": layer("nb"), "en": layer("en"), "fr": layer("fr")}
    for expected in ("fr", "en", "nb"):
        server.serve("/gbfs.json", feeds.document("2.3", data))
        server.forget()
        town().poll()
        assert f"/{expected}" in server.paths()
        del data[expected]
    server.serve("/gbfs.json", feeds.document("2.3", {"en": layer("x", "system_alerts"), "nb": layer("nb")}))
    server.forget()
    town().poll()
    assert "/nb" in server.paths()


def test_relative_addresses_start_from_the_list(server: FeedServer, town: Callable[..., Town]) -> None:
    data = {"en": {"feeds": [{"name": STATUS, "url": "live/status"}]}}
    server.serve("/town/gbfs.json", feeds.document("2.3", data))
    server.serve("/town/live/status", feeds.status("2.3", [feeds.station("2.3", "1")]))
    assert len(town("/town/gbfs.json").snapshot().stations) == 1


def test_a_redirected_list_is_resolved_where_it_lies(server: FeedServer, town: Callable[..., Town]) -> None:
    server.serve("/old/gbfs.json", b"", status=301, headers={"Location": "/new/gbfs.json"})
    server.serve("/new/gbfs.json", feeds.document("2.3", {"en": {"feeds": [{"name": STATUS, "url": "status"}]}}))
    server.serve("/new/status", feeds.status("2.3", [feeds.station("2.3", "1")]))
    assert len(town("/old/gbfs.json").snapshot().stations) == 1


def test_a_status_that_moved_is_found_by_reading_the_list_again_in_the_same_poll(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    one.poll()
    server.remove("/station_status.json")
    server.serve("/v3/station_status.json", feeds.status("3.0", [feeds.station("3.0", "7")]))
    server.serve("/gbfs.json", feeds.discovery("3.0", f"{server.url}/v3", (STATUS,)))
    assert [station.station_id for station in one.snapshot().stations] == ["7"]


def test_after_a_failed_address_the_list_is_read_again(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    one = town()
    one.poll()
    server.script("/station_status.json", [reply(b"", status=403)])
    assert one.poll()[0].error is not None
    publish(server)
    server.forget()
    one.poll()
    assert server.paths() == ["/gbfs.json", "/station_status.json"]


def test_an_answer_in_a_wrapper_of_json_is_no_list(server: FeedServer, town: Callable[..., Town]) -> None:
    server.serve("/gbfs.json", b'{"error": "unknown system"}')
    error = town().poll()[0].error
    assert error is not None
    assert "gbfs holds no object under data" in error


def test_a_broken_list_does_not_hide_feeds_that_stand_beside_it(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    server.serve("/gbfs.json", b"<html>maintenance</html>")
    assert len(town().snapshot().stations) == 2


def test_an_address_is_not_asked_to_confirm_what_came_from_another(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server, etag=True)
    one = town()
    one.poll()
    server.serve("/gbfs.json", feeds.discovery("2.3", f"{server.url}/new", (STATUS,)))
    server.serve("/new/station_status.json", feeds.status("2.3", [feeds.station("2.3", "7")]), etag=True)
    one.now += timedelta(days=2)
    assert [station.station_id for station in one.snapshot().stations] == ["7"]
    assert "if-none-match" not in server.asked("/new/station_status.json")[0].headers
