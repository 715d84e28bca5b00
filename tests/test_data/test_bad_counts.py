"""Counts that are wrong, missing or written in an operator's own way (cases 6, 22, 23; see `test_bad_input`)."""

from typing import Any

import pytest

from tests.test_data import feeds
from tests.test_data.decoding import encode, one, only, status_of
from tests.test_data.feeds import AT
from velib_predictor.data.information import decode_vehicle_kinds
from velib_predictor.data.opendata_paris import decode_export

# -- 6: bikes by kind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_bikes_available_types": [{"mechanical": 2}, {"ebike": 3}]}, (2, 3)),
        ({"num_bikes_available_types": [{"ebike": 3}, {"mechanical": 2}]}, (2, 3)),
        ({"num_bikes_available_types": {"mechanical": 2, "ebike": 3}}, (2, 3)),
        ({"num_bikes_available_types": []}, (None, None)),
        ({"num_bikes_available_types": [{"mechanical": 2}]}, (2, None)),
        ({"num_bikes_available_types": [{"mechanical": "2"}, {"ebike": 3.0}]}, (2, 3)),
        ({"num_bikes_available_types": [{"mechanical": -2}, {"ebike": 3}]}, (None, None)),
        ({"num_bikes_available_types": [{"mechanical": 2}, {"ebike": 4}]}, (None, None)),
        ({"num_bikes_available_types": "many"}, (None, None)),
        ({"num_ebikes_available": 3}, (2, 3)),
        ({"num_ebikes_available": 6}, (None, None)),
        ({"num_ebikes_available": "?"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_06_bikes_by_kind_in_every_shape(fields: dict[str, Any], expected: tuple[int | None, int | None]) -> None:
    station = one("2.0", **fields)
    assert station.values.bikes == 5
    assert (station.values.mechanical, station.values.ebikes) == expected


@pytest.mark.parametrize(
    ("by_type", "expected"),
    [
        ([("bike", 2), ("ebike", 3)], (2, 3)),
        ([("bike", 2), ("ebike", 3), ("new", 0)], (None, None)),
        ([("bike", 2), ("bike", 3)], (5, 0)),
        ([("bike", 4), ("ebike", 3)], (None, None)),
        ([("bike", "2")], (2, 0)),
        ([("bike", None)], (0, 0)),
        ([], (0, 0)),
    ],
)
def test_06_bikes_by_vehicle_type(by_type: list[tuple[str, Any]], expected: tuple[int | None, int | None]) -> None:
    kinds = decode_vehicle_kinds(encode(feeds.vehicle_types("2.3", feeds.KINDS)))
    entries = [{"vehicle_type_id": name, "count": number} for name, number in by_type]
    part = status_of(feeds.station("2.3", "1", 5, vehicle_types_available=entries), kinds=kinds)
    assert (only(part).values.mechanical, only(part).values.ebikes) == expected


# -- 22, 23: counts ------------------------------------------------------------------------------------------------


def test_22_no_bikes_although_the_types_add_up_to_some() -> None:
    by_type = [{"vehicle_type_id": "bike", "count": 5}, {"vehicle_type_id": "ebike", "count": 10}]
    kinds = decode_vehicle_kinds(encode(feeds.vehicle_types("2.3", feeds.KINDS)))
    for version, key in (("2.3", "num_bikes_available"), ("3.0", "num_vehicles_available")):
        record = feeds.station(version, "1", 0, **{key: 0}, vehicle_types_available=by_type)
        part = status_of(record, version=version, kinds=kinds)
        values = only(part).values
        assert (values.bikes, values.mechanical, values.ebikes) == (15, 5, 10)
        assert len(part.notes) == 1


def test_22_types_that_add_up_to_more_than_a_station_holds_reject_it_with_a_sentence() -> None:
    by_type = [{"vehicle_type_id": "bike", "count": 30_000}, {"vehicle_type_id": "ebike", "count": 30_000}]
    kinds = decode_vehicle_kinds(encode(feeds.vehicle_types("2.3", feeds.KINDS)))
    many = feeds.station("2.3", "many", 0, vehicle_types_available=by_type)
    part = status_of(many, feeds.station("2.3", "good"), kinds=kinds)
    assert [station.station_id for station in part.stations] == ["good"]
    assert part.rejected == ("station many: the sum of vehicle_types_available is 60000, not a count from 0 to 32767",)
    assert part.notes == ()


def test_22_kinds_never_add_up_to_more_than_the_bikes() -> None:
    by_type = [{"vehicle_type_id": "bike", "count": 30_000}, {"vehicle_type_id": "bike", "count": 30_000}]
    named = [{"mechanical": 30_000}, {"ebike": 30_000}]
    kinds = decode_vehicle_kinds(encode(feeds.vehicle_types("2.3", feeds.KINDS)))
    for fields in ({"vehicle_types_available": by_type}, {"num_bikes_available_types": named}):
        values = only(status_of(feeds.station("2.3", "1", 32_767, **fields), kinds=kinds)).values
        assert (values.bikes, values.mechanical, values.ebikes) == (32_767, None, None)


@pytest.mark.parametrize("bad", [-1, 32768, "five", "", 5.5, True, [], {}, 1e300])
@pytest.mark.parametrize("key", ["num_bikes_available", "num_docks_available"])
def test_23_a_count_that_is_none_rejects_its_station_with_a_sentence(bad: Any, key: str) -> None:
    part = status_of(feeds.station("2.3", "good"), feeds.station("2.3", "bad", **{key: bad}))
    assert [station.station_id for station in part.stations] == ["good"]
    assert len(part.rejected) == 1
    assert part.rejected[0].startswith(f"station bad: {key} is {bad!r}, not a count")


def test_23_counts_as_text_and_whole_floats_are_read() -> None:
    values = one(num_bikes_available="5", num_docks_available=" 7 ", num_bikes_disabled=2.0).values
    assert (values.bikes, values.docks, values.bikes_disabled) == (5, 7, 2)


def test_23_missing_docks_are_unknown_and_missing_bikes_reject() -> None:
    virtual, silent = feeds.station("2.3", "1"), feeds.station("2.3", "2", None)
    del virtual["num_docks_available"]
    part = status_of(virtual, silent)
    assert part.stations[0].values.docks is None
    assert part.rejected == ("station 2: num_bikes_available is missing, and so are its other names",)


def test_23_what_is_disabled_may_be_unreadable() -> None:
    part = status_of(feeds.station("2.3", "1", num_bikes_disabled=-1, num_docks_disabled="x"))
    assert (only(part).values.bikes_disabled, only(part).values.docks_disabled) == (None, None)
    assert len(part.notes) == 2


@pytest.mark.parametrize("record", [None, "text", 5, [], ["a"], {}])
def test_23_a_record_that_is_none_is_rejected(record: Any) -> None:
    part = status_of(feeds.station("2.3", "1"), record)
    assert len(part.stations) == len(part.rejected) == 1


def test_23_many_bad_records_leave_the_good_ones() -> None:
    records = [feeds.station("2.3", str(n), -1 if n % 10 == 0 else n) for n in range(100)]
    part = status_of(*records)
    assert len(part.rejected) == 10
    assert {station.station_id: station.values.bikes for station in part.stations} == {
        str(n): n for n in range(100) if n % 10
    }


def test_23_the_portals_counts_are_held_to_the_same_rules() -> None:
    rows = [
        feeds.portal_row("1", 3, 4, 999, numbikesavailable=5),
        feeds.portal_row("2", -1, 4, 10, numbikesavailable=5),
        feeds.portal_row("3", 1, 1, -1),
        feeds.portal_row("4", 1, 1, 10, numbikesavailable=None),
        feeds.portal_row("5", 1, 1, 10, numbikesavailable=True),
    ]
    part = decode_export(encode(rows), AT)
    found = {station.code: station.values[:4] for station in part.stations}
    assert found == {"1": (5, None, None, None), "2": (5, None, 4, 10)}
    assert part.rejected == (
        "station 3: numdocksavailable is -1, not a count from 0 to 32767",
        "station 4: numbikesavailable is missing",
        "station 5: numbikesavailable is True, not a count from 0 to 32767",
    )
