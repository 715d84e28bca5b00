"""Polling a system over real loopback HTTP: what is asked for and when, and what happens when it is not there."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.test_data import feeds
from tests.test_data.feeds import AT, VERSIONS
from tests.test_data.feedserver import FeedServer
from tests.test_data.town import ALL, Town, publish
from velib_predictor.config.config import FallbackSettings
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.raw import DISCOVERY, INFORMATION, STATUS, SYSTEM, DecodeError
from velib_predictor.data.snapshot import StationInfo, SystemInfo, Values
from velib_predictor.utils.errors import VelibError


@pytest.mark.parametrize("version", ["1.0", *VERSIONS])
def test_every_version_is_polled_and_decoded_to_the_same(
    server: FeedServer, town: Callable[..., Town], version: str
) -> None:
    publish(server, version)
    snapshot = town().snapshot()
    typed = version >= "2.1"  # from there on the feed has vehicle types
    first = Values(5, 5 if typed else None, 0 if typed else None, 10, None, None, True, True, True)
    second = Values(0, 0 if typed else None, 0 if typed else None, 20, None, None, True, True, True)
    assert [(station.station_id, station.values) for station in snapshot.stations] == [("1", first), ("2", second)]
    assert {station.last_reported for station in snapshot.stations} == {AT}
    assert snapshot.feed_time == AT
    assert snapshot.ttl_s == 60
    assert snapshot.information == (
        StationInfo("1", None, "One", 48.85, 2.35, 20),
        StationInfo("2", None, "Two", 48.85, 2.35, 20),
    )
    assert snapshot.system == SystemInfo("town", "Town Bikes", "Europe/Paris", "en")
    assert snapshot.rejected == ()


def test_the_information_object_is_the_same_until_the_document_changes(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    first, second = one.snapshot(), one.snapshot()
    assert second.information is first.information
    server.serve("/station_information.json", feeds.information("2.3", [feeds.described("2.3", "1", "Uno")]))
    one.feed.information_due = True
    assert [info.name for info in one.snapshot().information] == ["Uno"]


def test_a_poll_decodes_on_its_own_to_the_same_snapshot(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server, "3.0")
    one = town()
    one.poll()
    raw, bodies = one.poll()
    assert Decoder().decode(raw, bodies.__getitem__) == one.decoder.decode(raw, bodies.__getitem__)
    assert set(bodies) == {document.sha256 for document in raw.documents}


# -- polling ---------------------------------------------------------------------------------------------------


def test_a_first_poll_asks_for_the_list_the_status_and_then_the_rest(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    raw, _ = one.poll()
    assert server.paths() == [
        "/gbfs.json",
        "/station_status.json",
        "/station_information.json",
        "/system_information.json",
        "/vehicle_types.json",
    ]
    status = raw.document(STATUS)
    assert status is not None
    assert raw.polled_at == status.fetched_at
    assert raw.scheduled_at == one.now
    assert (raw.kind, raw.fallback, raw.error) == ("gbfs", False, None)


def test_what_rarely_changes_is_asked_for_hourly_and_the_list_daily(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    one.poll()
    server.forget()
    one.now += timedelta(minutes=59)
    raw, bodies = one.poll()
    assert server.paths() == ["/station_status.json"]
    assert {document.name for document in raw.documents} == {DISCOVERY, *ALL}
    assert len(bodies) == 5
    one.now += timedelta(minutes=2)
    one.poll()
    assert server.paths()[1:] == [
        "/station_status.json", "/station_information.json", "/system_information.json", "/vehicle_types.json",
    ]  # fmt: skip
    server.forget()
    one.now += timedelta(days=1)
    one.poll()
    assert server.paths()[0] == "/gbfs.json"


def test_information_is_fetched_at_once_when_an_unknown_station_was_seen(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    one.poll()
    one.feed.information_due = True
    server.forget()
    one.poll()
    assert "/station_information.json" in server.paths()
    assert one.feed.information_due is False


def test_an_unchanged_status_is_confirmed_with_its_old_body(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server, etag=True)
    one = town()
    first, _ = one.poll()
    raw, bodies = one.poll()
    before, status = first.document(STATUS), raw.document(STATUS)
    assert before is not None
    assert status is not None
    assert (before.status, status.status, status.sha256, status.size) == (200, 304, before.sha256, before.size)
    assert bodies[status.sha256]
    assert raw.polled_at == status.fetched_at > before.fetched_at
    # And once more: the 304 must not have lost the validators.
    assert one.statuses()[STATUS] == 304


def test_optional_documents_may_be_missing(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    server.remove("/vehicle_types.json")
    server.remove("/system_information.json")
    snapshot = town().snapshot()
    assert len(snapshot.stations) == 2
    assert snapshot.system is None


def test_a_bad_answer_does_not_replace_station_information_that_is_good(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    publish(server)
    one = town()
    good = one.snapshot().information
    for bad in (b"<html>", b'{"data": {"stations": []}}', b'{"data": {"sta', b'{"error": "x"}'):
        server.serve("/station_information.json", bad)
        one.feed.information_due = True
        one.now += timedelta(hours=1)
        server.forget()
        assert one.snapshot().information is good
        assert one.feed.information_due
        assert server.asked("/station_information.json")


def test_a_restarted_feed_takes_over_what_was_in_force(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server, etag=True)
    raw, bodies = town().poll()
    restarted = town()
    restarted.feed.resume(raw, bodies.__getitem__)
    assert restarted.statuses()[INFORMATION] == 304


@pytest.mark.parametrize("error", [VelibError("damaged"), OSError("unreadable")])
def test_a_restart_leaves_out_an_archived_document_that_cannot_be_read(
    server: FeedServer, town: Callable[..., Town], error: Exception
) -> None:
    publish(server, etag=True)
    raw, bodies = town().poll()
    damaged = raw.document(INFORMATION)
    assert damaged is not None

    def body(sha: str) -> bytes:
        if sha == damaged.sha256:
            raise error
        return bodies[sha]

    restarted = town()
    restarted.feed.resume(raw, body)
    statuses = restarted.statuses()
    assert (statuses[INFORMATION], statuses[SYSTEM]) == (200, 304)


def test_after_a_restart_while_the_feed_is_down_the_fallback_still_knows_the_ids(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    server.serve("/gbfs.json", feeds.discovery("1.0", server.url, (STATUS, INFORMATION)))
    server.serve("/station_status.json", feeds.velib_status([feeds.velib_station(213688169, "16107", 1, 2, 30)]))
    server.serve("/station_information.json", feeds.velib_information([feeds.velib_described(213688169, "16107")]))
    raw, bodies = town().poll()
    server.serve("/gbfs.json", b"busy", status=503)
    server.serve("/station_status.json", b"busy", status=503)
    restarted = town(**with_fallback(server))
    restarted.feed.resume(raw, bodies.__getitem__)
    assert [station.station_id for station in restarted.snapshot().stations] == ["213688169"]


# -- failures --------------------------------------------------------------------------------------------------


def test_a_failed_poll_says_why_and_keeps_the_answer(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    page = b"<html>Attention Required! | Cloudflare</html>"
    server.serve("/station_status.json", page, status=403)
    one = town()
    raw, bodies = one.poll()
    assert raw.error is not None
    assert "HTTP 403" in raw.error
    assert raw.polled_at == one.now
    status = raw.document(STATUS)
    assert status is not None
    assert (status.status, bodies[status.sha256]) == (403, page)
    with pytest.raises(DecodeError, match="HTTP 403"):
        one.decoder.decode(raw, bodies.__getitem__)


def test_a_host_that_is_gone_is_an_error_and_not_an_exception(town: Callable[..., Town]) -> None:
    with FeedServer() as gone:
        address = gone.url
    raw, bodies = town(f"{address}/gbfs.json").poll()
    assert raw.error is not None
    assert "no connection" in raw.error
    assert (raw.documents, bodies) == ((), {})


def with_fallback(server: FeedServer) -> dict[str, Any]:
    server.serve("/portal.json", [feeds.portal_row("16107", 3, 4, 20)])
    return {"fallback": FallbackSettings(kind="opendata_paris", url=f"{server.url}/portal.json")}


def test_the_fallback_is_asked_in_the_same_poll(server: FeedServer, town: Callable[..., Town]) -> None:
    server.serve("/gbfs.json", b"busy", status=503)
    one = town(**with_fallback(server))
    raw, bodies = one.poll()
    assert (raw.kind, raw.fallback, raw.error) == ("opendata_paris", True, None)
    snapshot = one.decoder.decode(raw, bodies.__getitem__)
    assert [(station.station_id, station.code) for station in snapshot.stations] == [("16107", "16107")]
    assert snapshot.information[0].name == "Là"


def test_the_fallbacks_stations_are_placed_by_the_feeds_own_information(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    server.serve("/gbfs.json", feeds.discovery("1.0", server.url, (STATUS, INFORMATION)))
    server.serve("/station_status.json", feeds.velib_status([feeds.velib_station(213688169, "16107", 1, 2, 30)]))
    described = feeds.velib_information([feeds.velib_described(213688169, "16107", "Benjamin Godard", 35)])
    server.serve("/station_information.json", described)
    one = town(**with_fallback(server))
    good = one.snapshot()
    server.serve("/station_status.json", b"busy", status=503)
    server.serve("/portal.json", [feeds.portal_row("16107", 3, 4, 20), feeds.portal_row("99999", 1, 1, 1)])
    raw, bodies = one.poll()
    snapshot = one.decoder.decode(raw, bodies.__getitem__)
    assert raw.fallback
    assert [(station.station_id, station.values.bikes) for station in snapshot.stations] == [("213688169", 7)]
    assert snapshot.information is good.information
    assert snapshot.rejected == ("station code 99999 is not in station_information, so that its station_id is unknown",)


def test_a_first_poll_that_needs_the_fallback_still_asks_for_station_information(
    server: FeedServer, town: Callable[..., Town]
) -> None:
    server.serve("/gbfs.json", feeds.discovery("1.0", server.url, (STATUS, INFORMATION)))
    server.serve("/station_status.json", b"busy", status=503)
    server.serve("/station_information.json", feeds.velib_information([feeds.velib_described(213688169, "16107")]))
    snapshot = town(**with_fallback(server)).snapshot()
    assert [station.station_id for station in snapshot.stations] == ["213688169"]


def test_repairs_of_station_information_are_noted_once(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    mangled = [feeds.described("2.3", "1", "TchaÃ¯kovski"), feeds.described("2.3", "2")]
    server.serve("/station_information.json", feeds.information("2.3", mangled))
    one = town()
    first, second = one.snapshot(), one.snapshot()
    assert first.notes == ("name was UTF-8 encoded more than once, repaired: 1 station (1)",)
    assert second.notes == ()


def test_a_time_zone_that_is_none_is_unknown_and_noted_once(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    server.serve("/system_information.json", feeds.system("2.3", timezone="America/New York"))
    one = town()
    first, second = one.snapshot(), one.snapshot()
    assert first.system == second.system == SystemInfo("town", "Town Bikes", None, "en")
    assert first.notes == ("system_information: timezone is 'America/New York', no IANA time zone, taken as unknown",)
    assert second.notes == ()


def test_a_challenge_page_with_status_200_leads_to_the_fallback(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    server.serve("/station_status.json", b"<!DOCTYPE html><title>Just a moment...</title>")
    raw, _ = town(**with_fallback(server)).poll()
    assert (raw.fallback, raw.error) == (True, None)


def test_when_both_sources_fail_the_error_names_both(server: FeedServer, town: Callable[..., Town]) -> None:
    publish(server)
    server.serve("/station_status.json", b"busy", status=503)
    one = town(**with_fallback(server))
    server.serve("/portal.json", b"quota", status=429, headers={"Retry-After": "3600"})
    raw, bodies = one.poll()
    assert raw.error is not None
    assert "HTTP 503" in raw.error
    assert "the fallback failed too" in raw.error
    assert "HTTP 429" in raw.error
    assert raw.fallback is False
    status = raw.document(STATUS)
    assert status is not None
    assert bodies[status.sha256] == b"busy"


def test_the_portal_can_be_the_source_itself(server: FeedServer, town: Callable[..., Town]) -> None:
    server.serve("/portal.json", [feeds.portal_row("16107", 3, 4, 20)], etag=True)
    one = town("/portal.json", kind="opendata_paris")
    assert one.snapshot().stations[0].values == Values(7, 3, 4, 20, None, None, True, True, False)
    assert one.statuses() == {STATUS: 304}
    assert server.paths() == ["/portal.json"] * 2
