"""Wrong, odd and broken input, each case seen in the wild: the numbers are those of the list that was collected.

One bad station never costs the others; one bad document costs a poll and says so in a sentence. Here: documents and
lists. Counts, times, places and answers over the network are in the files `test_bad_*.py` beside this one.
"""

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.test_data import feeds
from tests.test_data.decoding import encode, information_of, only, snapshot_of, status_of
from tests.test_data.feeds import AT
from velib_predictor.data.gbfs import decode_status
from velib_predictor.data.information import decode_information
from velib_predictor.data.opendata_paris import decode_export
from velib_predictor.data.raw import DecodeError
from velib_predictor.data.snapshot import StationInfo

# -- 1, 2: Vélib's own ways ----------------------------------------------------------------------------------------


def test_01_last_updated_other_stands_in_for_last_updated() -> None:
    part = decode_status(encode(feeds.velib_status([feeds.velib_station(213688169, "16107", 1, 4, 30)])), AT)
    assert part.feed_time == AT
    assert only(part).code == "16107"


def test_02_counts_move_while_last_reported_stands_or_steps_back() -> None:
    times = [AT, AT - timedelta(seconds=35), AT]
    polls = [
        snapshot_of(
            feeds.velib_status([feeds.velib_station(1, "9020", bikes, 0, 20, reported=time)]),
            at=AT + timedelta(minutes=minute),
        )
        for minute, (bikes, time) in enumerate(zip((3, 4, 5), times, strict=True))
    ]
    assert [poll.stations[0].values.bikes for poll in polls] == [3, 4, 5]
    assert [poll.stations[0].last_reported for poll in polls] == times
    assert [poll.fetched_at for poll in polls] == [AT + timedelta(minutes=minute) for minute in range(3)]


# -- 3: what is no document ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "it is empty"),
        (b"  \n ", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"<html><body>Just a moment...</body></html>", r"42 bytes that start with '<html>"),
        (b"GBFS disabled", "13 bytes that start with 'GBFS disabled'"),
        (b"[" * 100_000, "100,000 bytes"),
        (b"null", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b"[]", "no JSON object"),
        (b"{}", "no list of stations under data.stations"),
        (b'{"data": null}', "no list of stations"),
        (b'{"data": []}', "no list of stations"),
        (b'{"data": {"stations": {"a": 1}}}', "no list of stations"),
    ],
)
def test_03_what_is_no_status_document_is_refused_with_size_and_beginning(body: bytes, expected: str) -> None:
    with pytest.raises(DecodeError, match=expected):
        decode_status(body, AT)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
def test_03_a_truncated_document_is_refused_wherever_it_breaks_off(share: float) -> None:
    stations = [feeds.velib_station(number, str(number), 1, 2, 3) for number in range(50)]
    for decode, document in (
        (decode_status, feeds.velib_status(stations)),
        (decode_export, [feeds.portal_row(str(number), 1, 2, 3) for number in range(50)]),
    ):
        body = encode(document)
        with pytest.raises(DecodeError, match="no JSON document"):
            decode(body[: int(len(body) * share)], AT)


# -- 4, 5: the portal ----------------------------------------------------------------------------------------------


def test_04_a_row_without_code_is_rejected_and_one_without_name_kept() -> None:
    nameless = feeds.portal_row(
        "9020", None, None, 4, name=None, capacity=None, coordonnees_geo=None, numbikesavailable=7
    )
    part = decode_export(encode([feeds.portal_row(None, 1, 1, 4), nameless]), AT)
    assert part.rejected == ("row 0 has no stationcode",)
    assert [(s.station_id, s.values.bikes, s.values.mechanical, s.values.docks) for s in part.stations] == [
        ("9020", 7, None, 4)
    ]
    assert part.information == (StationInfo("9020", "9020", None, None, None, None),)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: rows,
        lambda rows: {"total_count": 1, "results": rows},
        lambda rows: {"nhits": 1, "records": [{"datasetid": "v", "fields": row} for row in rows]},
        lambda rows: [{"datasetid": "v", "fields": row, "geometry": {}} for row in rows],
        lambda rows: {"records": [{"links": [], "record": {"id": "x", "fields": row}} for row in rows]},
    ],
)
def test_04_every_shape_of_the_portal_says_the_same(wrap: Any) -> None:
    part = decode_export(encode(wrap([feeds.portal_row("9020", 1, 2, 3)])), AT)
    assert (only(part).values.bikes, only(part).values.is_returning) == (3, False)
    assert part.information == (StationInfo("9020", "9020", "Là", 48.85, 2.35, 30),)


@pytest.mark.parametrize("place", [{"lon": 2.35, "lat": 48.85}, "48.85, 2.35", [48.85, 2.35]])
def test_04_the_portals_three_ways_to_write_a_position(place: Any) -> None:
    part = decode_export(encode([feeds.portal_row("9020", 1, 2, 3, coordonnees_geo=place)]), AT)
    assert (part.information[0].lat, part.information[0].lon) == (48.85, 2.35)


def test_04_a_table_of_the_portal_with_field_names_and_empty_cells() -> None:
    table = (
        "stationcode;name;is_installed;capacity;numdocksavailable;numbikesavailable;mechanical;ebike;is_renting;"
        'duedate;coordonnees_geo\r\n9020;"A; B";OUI;;4;7;;;NON;2025-11-23T18:40:00+01:00;\r\n;x;OUI;1;1;1;1;0;OUI;;\r\n'
    )
    part = decode_export(table.encode(), AT)
    assert part.rejected == ("row 1 has no stationcode",)
    station = part.stations[0]
    assert (station.values.bikes, station.values.mechanical, station.values.docks) == (7, None, 4)
    assert (station.values.is_installed, station.values.is_renting, station.values.is_returning) == (True, False, None)
    assert part.information[0] == StationInfo("9020", "9020", "A; B", None, None, None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html></html>", "neither JSON nor a table"),
        (b"", "neither JSON nor a table"),
        (b'{"error_code": "QuotaExceeded"}', "no list of rows"),
        (b"stationcode;name;numbikesavailable\n9020;A;1\n9021;", "breaks off in row 2"),
    ],
)
def test_04_what_is_no_export_is_refused(body: bytes, expected: str) -> None:
    with pytest.raises(DecodeError, match=expected):
        decode_export(body, AT)


def test_05_a_frozen_network_is_decoded_as_it_is_even_with_newer_times() -> None:
    rows = [feeds.portal_row(str(code), 1, 2, 3) for code in range(9001, 9020)]
    later = [{**row, "duedate": "2025-11-23T18:55:00+01:00"} for row in rows]
    before, after = decode_export(encode(rows), AT), decode_export(encode(later), AT)
    assert [station.values for station in before.stations] == [station.values for station in after.stations]
    assert all(a.last_reported != b.last_reported for a, b in zip(before.stations, after.stations, strict=True))


# -- 7: ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (20702946965, "20702946965"),
        (213688169.0, "213688169"),
        (0, "0"),
        ("001", "001"),
        ("6efbec5a-6b8c-455b-bed2-8d66be6d6a4b", "6efbec5a-6b8c-455b-bed2-8d66be6d6a4b"),
        ("YLS:Station:3", "YLS:Station:3"),
        (12345678901234567890123, "12345678901234567890123"),
    ],
)
def test_07_any_id_becomes_text(given: Any, expected: str) -> None:
    assert only(status_of(feeds.station("2.3", given))).station_id == expected


def test_07_a_number_in_information_and_text_in_the_status_join() -> None:
    snapshot = snapshot_of(
        feeds.status("2.3", [feeds.station("2.3", "7")]), feeds.information("2.3", [feeds.described("2.3", 7)])
    )
    assert snapshot.stations[0].station_id == snapshot.information[0].station_id == "7"


def test_07_blanks_around_an_id_do_not_keep_it_from_joining() -> None:
    snapshot = snapshot_of(
        feeds.status("2.3", [feeds.station("2.3", " 7 ")]), feeds.information("2.3", [feeds.described("2.3", "7 ")])
    )
    assert snapshot.stations[0].station_id == snapshot.information[0].station_id == "7"


@pytest.mark.parametrize("missing", [None, "", "  ", True, [], {}])
def test_07_a_record_without_id_goes_by_its_code_or_is_rejected(missing: Any) -> None:
    coded, bare = feeds.station("1.1", missing, stationCode="16107"), feeds.station("1.1", missing)
    part = status_of(bare, coded, feeds.station("1.1", "1"), version="1.1")
    assert [station.station_id for station in part.stations] == ["16107", "1"]
    assert part.rejected == ("record 0 has neither station_id nor code",)
    del bare["station_id"]
    assert len(status_of(bare, version="1.1").rejected) == 1


# -- 8: capacity and docks -----------------------------------------------------------------------------------------


def test_08_more_bikes_than_capacity_is_kept() -> None:
    snapshot = snapshot_of(
        feeds.status("2.3", [feeds.station("2.3", "1", 58, 0)]),
        feeds.information("2.3", [feeds.described("2.3", "1", capacity=34)]),
    )
    assert (snapshot.stations[0].values.bikes, snapshot.information[0].capacity) == (58, 34)


@pytest.mark.parametrize("capacity", [0, None, -1, "many", 40_000, True, 12.5])
def test_08_a_capacity_that_is_none_is_unknown(capacity: Any) -> None:
    assert information_of(feeds.described("2.3", "1", capacity=capacity)).stations[0].capacity is None


def test_08_a_missing_capacity_is_unknown_and_one_in_words_is_read() -> None:
    bare = feeds.described("2.3", "1")
    del bare["capacity"]
    part = information_of(bare, feeds.described("2.3", "2", capacity="30"))
    assert [info.capacity for info in part.stations] == [None, 30]


@pytest.mark.parametrize("docks", [999, 9999])
def test_08_a_placeholder_is_no_number_of_docks(docks: int) -> None:
    part = status_of(*(feeds.station("2.3", str(n), docks=docks) for n in range(8)))
    assert {station.values.docks for station in part.stations} == {None}
    assert part.notes == (
        f"{docks} docks is no count but a placeholder, taken as unknown: 8 stations (0, 1, 2, 3, 4, ...)",
    )


# -- 10, 11, 12: lists that disagree -------------------------------------------------------------------------------


def test_10_a_station_listed_twice_alike_is_one() -> None:
    part = status_of(*[feeds.station("2.3", "1", 5), feeds.station("2.3", "2")] * 2)
    assert [station.station_id for station in part.stations] == ["1", "2"]
    assert part.notes == ("listed twice alike, one kept: 2 stations (1, 2)",)
    assert part.rejected == ()


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [((0, 1, 2), 30), ((2, 1, 0), 10), ((1, 1, 1), 10), ((None, 1, None), 20), ((None,) * 3, 10)],
)
def test_10_of_different_records_the_newest_counts_else_the_first(
    minutes: tuple[int | None, ...], expected: int
) -> None:
    times = [None if minute is None else feeds.posix(AT) - 3600 + 60 * minute for minute in minutes]
    records = [
        feeds.station("2.3", "1", bikes, last_reported=time) for bikes, time in zip((10, 20, 30), times, strict=True)
    ]
    part = status_of(*records)
    assert only(part).values.bikes == expected
    assert len(part.notes) == 1


def test_11_status_and_information_may_each_lack_the_others_stations() -> None:
    snapshot = snapshot_of(
        feeds.status("2.3", [feeds.station("2.3", "1"), feeds.station("2.3", "emobility:null")]),
        feeds.information("2.3", [feeds.described("2.3", "1"), feeds.described("2.3", "509")]),
    )
    assert [station.station_id for station in snapshot.stations] == ["1", "emobility:null"]
    assert [info.station_id for info in snapshot.information] == ["1", "509"]


def test_11_unreadable_information_leaves_a_note_and_the_status() -> None:
    snapshot = snapshot_of(feeds.status("2.3", [feeds.station("2.3", "1")]), b"<html>")
    assert len(snapshot.stations) == 1
    assert snapshot.information == ()
    assert snapshot.notes[0].startswith("station_information is no JSON document: 6 bytes")


@pytest.mark.parametrize("version", ["1.1", "2.3", "3.0"])
def test_12_no_stations_with_a_fresh_time_is_decoded_for_others_to_judge(version: str) -> None:
    part = status_of(version=version)
    assert (part.stations, part.rejected, part.feed_time) == ((), (), AT)


# -- 13: wrappers --------------------------------------------------------------------------------------------------


def wrapped(content: Any) -> dict[str, Any]:
    return {"data": content, "headers": [], "status": 200}


def test_13_a_station_or_a_document_in_a_wrapper_is_unwrapped() -> None:
    stations = [feeds.station("2.3", "1"), wrapped(feeds.station("2.3", "2", 9))]
    for document in (feeds.status("2.3", stations), wrapped(feeds.status("2.3", stations))):
        part = decode_status(encode(document), AT)
        assert [(station.station_id, station.values.bikes) for station in part.stations] == [("1", 5), ("2", 9)]
        assert part.feed_time == AT
    described = wrapped(feeds.information("2.3", [wrapped(feeds.described("2.3", "1", "One"))]))
    assert decode_information(encode(described)).stations[0].name == "One"


# -- 20, 21: dead stations, odd JSON -------------------------------------------------------------------------------


def test_20_dead_and_closed_stations_keep_their_counts_and_flags() -> None:
    dead = feeds.station("2.3", "14117", 0, 30, is_installed=False, last_reported=feeds.posix(AT) - 239_575_136)
    closed = feeds.station("2.3", "2", 4, 0, is_renting=False)
    first, second = status_of(dead, closed).stations
    assert (first.values.docks, first.values.is_installed) == (30, False)
    assert first.last_reported == AT - timedelta(seconds=239_575_136)
    assert (second.values.bikes, second.values.is_renting) == (4, False)


GOOD = encode(feeds.status("2.3", [feeds.station("2.3", "1", 5, 10), feeds.station("2.3", "2", 6, 11)]))


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + GOOD,
        b"\n\n " + GOOD + b"\r\n",
        GOOD.replace(b'"num_bikes_available": 5', b'"num_bikes_available": 99, "num_bikes_available": 5'),
        GOOD.replace(b'"station_id": "1"', b'"x": {"y": [1, {}]}, "station_id": "1", "rental_uris": null'),
        GOOD.replace(b'"station_id": "1"', b'"x": NaN, "station_id": "1"'),
        GOOD.replace(b'"station_id": "1"', b'"x": -Infinity, "station_id": "1"'),
        GOOD.replace(b'"station_id": "1"', b'"x": "caf\xe9", "station_id": "1"'),
        GOOD.replace(b'"station_id": "1"', b'"x": "\\ud800", "station_id": "1"'),
        GOOD.replace(b'"station_id": "1"', b'"can_rent": "caf\xe9", "station_id": "1"'),
        GOOD.replace(b'"station_id": "1"', b'"x": 1e400, "station_id": "1"'),
        GOOD.replace(b'"station_id": "1"', b'"station_id": "1\\u0000"'),
        encode(dict(reversed(list(json.loads(GOOD).items())))),
    ],
    ids=[
        "bom",
        "blanks",
        "twice",
        "extra",
        "nan",
        "infinity",
        "latin-1",
        "surrogate",
        "latin-1 value",
        "huge",
        "nul",
        "reversed",
    ],
)
def test_21_odd_json_says_the_same(body: bytes) -> None:
    assert body != GOOD
    part = decode_status(body, AT)
    expected = decode_status(GOOD, AT)
    assert (part.stations, part.feed_time, part.rejected) == (expected.stations, expected.feed_time, ())


def test_21_an_escaped_backslash_before_u0000_is_left_alone() -> None:
    body = encode(feeds.information("2.3", [feeds.described("2.3", "1", "A\\u0000B")]))
    assert b"\\\\u0000" in body
    assert decode_information(body).stations[0].name == "A\\u0000B"


def test_21_text_that_no_database_can_hold_is_made_storable() -> None:
    body = encode(feeds.information("2.3", [feeds.described("2.3", "1", "NAME")])).replace(b"NAME", b"A\\ud800B")
    name = decode_information(body).stations[0].name
    assert name == "A?B"


def test_21_a_count_that_is_not_a_number_rejects_its_station_only() -> None:
    part = decode_status(GOOD.replace(b'"num_bikes_available": 5', b'"num_bikes_available": NaN'), AT)
    assert [station.station_id for station in part.stations] == ["2"]
    assert part.rejected == ("station 1: num_bikes_available is nan, not a count from 0 to 32767",)


@pytest.mark.parametrize("ttl", [-1, "60", 1.5, None, True, 10**12])
def test_21_a_ttl_that_is_none_is_unknown(ttl: Any) -> None:
    assert decode_status(encode({**json.loads(GOOD), "ttl": ttl}), AT).ttl_s is None
