"""Sources that stay broken, or ask to be left alone: how often they are asked. Time is the test's own."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.test_data import feeds
from tests.test_data.feedserver import FeedServer, reply
from tests.test_data.town import Town, publish
from velib_predictor.config.config import FallbackSettings
from velib_predictor.data.raw import DISCOVERY, INFORMATION, STATUS

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def minutes_asked(one: Town, path: str, count: int) -> list[int]:
    """The minutes, of so many with a poll each, in which the path was asked for."""
    found = []
    for minute in range(count):
        one.server.forget()
        assert one.poll()[0].error is None
        if one.server.asked(path):
            found.append(minute)
        one.now += MINUTE
    return found


# -- documents that cannot be had ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 500])
@pytest.mark.parametrize("name", ["station_information", "system_information", "vehicle_types"])
def test_a_broken_document_is_asked_for_ever_less_often_up_to_hourly(
    server: FeedServer, town: Callable[..., Town], name: str, status: int
) -> None:
    publish(server)
    server.serve(f"/{name}.json", b"broken", status=status)
    asked = minutes_asked(town(), f"/{name}.json", 240)
    assert asked == [0, 3, 9, 21, 45, 93, 153, 213]


def test_a_broken_document_does_not_cast_doubt_on_the_list_nor_hold_up_the_others(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    server.serve("/station_information.json", b"broken", status=500)
    one = town()
    one.poll()
    server.forget()
    one.now += MINUTE
    one.poll()
    assert server.paths() == ["/station_status.json"]
    one.now += 3 * MINUTE
    one.poll()
    assert set(server.paths()[1:]) == {"/station_status.json", "/station_information.json"}


def test_a_newcomer_has_information_asked_for_at_once_but_not_more_often_than_a_failure_allows(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    one.poll()
    server.serve("/station_information.json", b"broken", status=404)
    found = []
    for minute in range(1, 11):
        one.now += MINUTE
        one.feed.information_due = True
        server.forget()
        one.poll()
        if "/station_information.json" in server.paths():
            found.append(minute)
    assert found == [1, 4, 10]
    publish(server)
    one.now += HOUR
    assert one.statuses()[INFORMATION] == 200
    assert one.feed.information_due is False


def test_an_outage_of_the_whole_source_does_not_make_information_wait_longer(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    for path in ("/station_status.json", "/station_information.json"):
        server.serve(path, b"down", status=500)
    one = town()
    for _ in range(30):
        assert one.poll()[0].error is not None
        one.now += MINUTE
    publish(server)
    for _ in range(4):
        raw, _ = one.poll()
        one.now += MINUTE
    assert raw.document(INFORMATION) is not None


def test_a_clock_that_is_set_back_does_not_keep_information_waiting(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    one.poll()
    server.serve("/station_information.json", b"broken", status=404)
    one.now += HOUR
    one.poll()
    one.now -= 30 * HOUR
    server.forget()
    one.poll()
    assert "/station_information.json" in server.paths()


def test_a_list_that_cannot_be_had_is_not_asked_for_at_every_poll_while_its_addresses_serve(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    one.poll()
    server.serve("/gbfs.json", b"down", status=500)
    one.now += timedelta(days=1)
    assert minutes_asked(one, "/gbfs.json", 20) == [0, 3, 9]


# -- sources that ask to wait --------------------------------------------------------------------------------------


def busy(server: FeedServer, path: str, seconds: int, status: int = 429) -> None:
    server.serve(path, b"slow down", status=status, headers={"Retry-After": str(seconds)})


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("seconds", [600, 10**9])
def test_a_source_that_asked_to_wait_is_not_asked_before_an_hour_at_most_has_passed(
    server: FeedServer, town: Callable[..., Town], status: int, seconds: int
) -> None:
    publish(server)
    one = town()
    one.poll()
    busy(server, "/station_status.json", seconds, status)
    one.now += MINUTE
    assert "it asks to wait" in str(one.poll()[0].error)
    server.forget()
    publish(server)
    for _ in range(min(seconds // 60, 60) - 1):
        one.now += MINUTE
        error = one.poll()[0].error
        assert error is not None
        assert f"answered HTTP {status}" in error
        assert "it is asked again from " in error
    assert server.paths() == []
    one.now += MINUTE
    assert one.poll()[0].error is None


def test_the_wait_starts_with_the_answer(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    busy(server, "/station_status.json", 600)
    one = town()
    asked_at = one.now
    clock = iter(asked_at + timedelta(seconds=20 * i) for i in range(1000))
    one.feed.poll(asked_at, lambda: next(clock))
    publish(server)
    one.now = asked_at + timedelta(seconds=610)
    assert one.poll()[0].error is not None


def test_the_first_document_of_all_may_ask_to_wait(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    busy(server, "/gbfs.json", 600)
    one = town()
    assert "it asks to wait 600 s" in str(one.poll()[0].error)
    one.now += MINUTE
    assert "it is asked again from " in str(one.poll()[0].error)
    assert server.paths() == ["/gbfs.json"]


def test_a_wait_does_not_outlive_a_clock_that_is_set_back(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    one = town()
    busy(server, "/station_status.json", 3600)
    one.poll()
    publish(server)
    one.now -= timedelta(days=1)
    assert one.poll()[0].error is None


def test_an_address_that_only_ever_asks_to_wait_is_looked_up_again(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    one.poll()
    busy(server, "/station_status.json", 120, 503)
    one.poll()
    server.serve("/new/station_status.json", feeds.status("2.3", [feeds.station("2.3", "7")]))
    server.serve("/gbfs.json", feeds.discovery("2.3", f"{server.url}/new", (STATUS,)))
    one.now += 2 * MINUTE
    assert [station.station_id for station in one.snapshot().stations] == ["7"]


def test_while_the_source_waits_its_fallback_is_asked_and_nothing_else(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    busy(server, "/station_status.json", 600)
    server.serve("/portal.json", [feeds.portal_row("16107", 3, 4, 20)])
    one = town(fallback=FallbackSettings(kind="opendata_paris", url=f"{server.url}/portal.json"))
    assert one.poll()[0].fallback
    server.forget()
    one.now += MINUTE
    assert one.poll()[0].fallback
    assert server.paths() == ["/portal.json"]


def test_a_fallback_that_asked_to_wait_is_left_alone_too(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    server.serve("/station_status.json", b"down", status=500)
    busy(server, "/portal.json", 600)
    one = town(fallback=FallbackSettings(kind="opendata_paris", url=f"{server.url}/portal.json"))
    one.poll()
    server.forget()
    one.now += MINUTE
    error = one.poll()[0].error
    assert error is not None
    assert "HTTP 500" in error
    assert "the fallback failed too" in error
    assert server.asked("/portal.json") == []


def test_a_portal_that_is_the_source_itself_is_left_alone_too(server: FeedServer, town: Callable[..., Town]) -> None:
    busy(server, "/portal.json", 600)
    one = town("/portal.json", kind="opendata_paris")
    one.poll()
    one.now += MINUTE
    assert "it is asked again from " in str(one.poll()[0].error)
    assert len(server.asked()) == 1


def test_a_short_wait_that_was_obeyed_leaves_nothing_behind(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    good = feeds.status("2.3", [feeds.station("2.3", "1")])
    server.script("/station_status.json", [reply(b"", status=429, headers={"Retry-After": "0"}), reply(good)])
    one = town()
    assert one.poll()[0].error is None
    assert one.poll()[0].error is None


# -- systems without stations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_system_without_stations_says_so_and_brings_its_list(
    server: FeedServer, town: Callable[..., Town], status: int
) -> None:
    listed = feeds.discovery("2.3", server.url, ("free_bike_status", "vehicle_types"))
    for path in ("/station_status.json", "/station_status"):
        server.serve(path, b"no", status=status)
    server.serve("/gbfs.json?key=secret", listed)
    raw, bodies = town("/gbfs.json?key=secret").poll()
    assert raw.error is not None
    assert raw.error.startswith(f"{server.url}/gbfs.json lists no stations")
    found = raw.document(DISCOVERY)
    assert found is not None
    assert b"free_bike_status" in bodies[found.sha256]
