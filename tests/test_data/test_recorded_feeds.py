"""Recorded payloads of real systems, decoded and compared value by value with a plain reading of the JSON.

The plain readings below are written out per system and share no code with the decoders.
"""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from velib_predictor.data.decoder import Decoder
from velib_predictor.data.gbfs import StatusPart, decode_status
from velib_predictor.data.information import decode_information, decode_system, decode_vehicle_kinds
from velib_predictor.data.opendata_paris import decode_export
from velib_predictor.data.raw import INFORMATION, STATUS, DecodeError, Document, RawPoll, content_hash
from velib_predictor.data.snapshot import StationInfo, StationStatus, Values

AT = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
"""Later than all recordings."""

VELIB = ["2020-01-24_chaincode", "2022-02-25_samhrrl", "2024-11-19_banacchini"]
COUNTS = {"2020-01-24_chaincode": 20, "2022-02-25_samhrrl": 1439, "2024-11-19_banacchini": 1485}


def sample(shared_data: Path, *parts: str) -> bytes:
    path = shared_data.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"no {'/'.join(parts)} in ../shared/data")
    return path.read_bytes()


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def in_utc(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").astimezone(UTC)


def by_id(part: StatusPart) -> dict[str, StationStatus]:
    assert part.rejected == ()
    return {station.station_id: station for station in part.stations}


# -- Vélib' ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", VELIB)
def test_velib_status_is_read_value_by_value(shared_data: Path, folder: str) -> None:
    body = sample(shared_data, "velib_feed_samples", folder, "station_status.json")
    plain = json.loads(body)
    rows = plain["data"]["stations"]
    part = decode_status(body, AT)
    assert (len(rows), len(part.stations)) == (COUNTS[folder], COUNTS[folder])
    assert part.feed_time == utc(plain["lastUpdatedOther"])
    assert part.ttl_s == 3600
    assert (part.rejected, part.notes) == ((), ())
    for row, station in zip(rows, part.stations, strict=True):
        kinds: dict[str, int] = {}
        for entry in row["num_bikes_available_types"]:
            kinds.update(entry)
        assert station == StationStatus(
            str(row["station_id"]),
            row["stationCode"],
            Values(
                bikes=row["num_bikes_available"],
                mechanical=kinds["mechanical"],
                ebikes=kinds["ebike"],
                docks=row["num_docks_available"],
                is_installed=row["is_installed"] == 1,
                is_renting=row["is_renting"] == 1,
                is_returning=row["is_returning"] == 1,
            ),
            utc(row["last_reported"]) if row["last_reported"] >= 1450137600 else None,
        )


@pytest.mark.parametrize("folder", VELIB)
def test_the_lenient_reading_of_velib_equals_the_typed_one(shared_data: Path, folder: str) -> None:
    body = sample(shared_data, "velib_feed_samples", folder, "station_status.json")
    odd = body.replace(b'"ttl"', b'"odd": NaN, "ttl"', 1)  # which the typed reading refuses
    assert odd != body
    assert decode_status(odd, AT) == decode_status(body, AT)


@pytest.mark.parametrize("folder", VELIB[1:])
def test_velib_information_is_read_value_by_value(shared_data: Path, folder: str) -> None:
    body = sample(shared_data, "velib_feed_samples", folder, "station_information.json")
    rows = json.loads(body)["data"]["stations"]
    part = decode_information(body)
    assert len(part.stations) == len(rows) == COUNTS[folder]
    for row, info in zip(rows, part.stations, strict=True):
        assert (info.station_id, info.code) == (str(row["station_id"]), row["stationCode"])
        assert (info.lat, info.lon) == (row["lat"], row["lon"])
        assert info.capacity == (row["capacity"] if row["capacity"] > 0 else None)
        if "Ã" not in row["name"]:
            assert info.name == " ".join(row["name"].split())


def test_velibs_twice_encoded_names_become_those_of_two_years_before(shared_data: Path) -> None:
    broken = sample(shared_data, "velib_feed_samples", "2024-11-19_banacchini", "station_information.json")
    whole = sample(shared_data, "velib_feed_samples", "2022-02-25_samhrrl", "station_information.json")
    before = {str(row["station_id"]): row["name"] for row in json.loads(whole)["data"]["stations"]}
    mangled = {str(row["station_id"]) for row in json.loads(broken)["data"]["stations"] if "Ã" in row["name"]}
    repaired = {info.station_id: info.name for info in decode_information(broken).stations}
    assert len(mangled) > 500
    assert not any("Ã" in (name or "") or "Â" in (name or "") for name in repaired.values())
    both = [station_id for station_id in mangled if station_id in before]
    same = [station_id for station_id in both if repaired[station_id] == " ".join(before[station_id].split())]
    # The others were renamed in between ("Manufacture Nationale" to "Quai de Sèvres - Manufacture Nationale").
    assert len(both) - len(same) <= 5
    assert "Tchaïkovski - Rostand" in repaired.values() or any(
        "Tchaïkovski" in (name or "") for name in repaired.values()
    )


def test_velib_status_and_information_join_on_the_id(shared_data: Path) -> None:
    folder = ("velib_feed_samples", "2024-11-19_banacchini")
    status, information = (sample(shared_data, *folder, f"{name}.json") for name in (STATUS, INFORMATION))
    documents = [
        Document(name=name, url="", status=200, fetched_at=AT, duration_s=0, sha256=content_hash(body), size=len(body))
        for name, body in ((STATUS, status), (INFORMATION, information))
    ]
    raw = RawPoll(system_id="velib", polled_at=AT, scheduled_at=AT, documents=tuple(documents))
    bodies = {content_hash(body): body for body in (status, information)}
    snapshot = Decoder().decode(raw, bodies.__getitem__)
    assert snapshot.fetched_at == AT
    codes = {info.station_id: info.code for info in snapshot.information}
    assert {station.station_id: station.code for station in snapshot.stations} == codes


def test_velib_system_information(shared_data: Path) -> None:
    card = decode_system(sample(shared_data, "velib_feed_samples", "2022-02-25_samhrrl", "system_information.json"))
    assert (card.system_id, card.name, card.timezone, card.language) == ("Paris", "Paris", "Europe/Paris", "en")


# -- the Paris Data portal -------------------------------------------------------------------------------------


def expected_portal_station(row: dict[str, Any]) -> StationStatus:
    def number(key: str) -> int | None:
        return None if row[key] is None else int(row[key])

    return StationStatus(
        row["stationcode"],
        row["stationcode"],
        Values(
            bikes=number("numbikesavailable"),
            mechanical=number("mechanical"),
            ebikes=number("ebike"),
            docks=number("numdocksavailable"),
            is_installed=row["is_installed"] == "OUI",
            is_renting=row["is_renting"] == "OUI",
            is_returning=row["is_returning"] == "OUI",
        ),
        in_utc(row["duedate"]),
    )


def portal_position(value: Any) -> tuple[float | None, float | None]:
    if value is None:
        return None, None
    return (value["lat"], value["lon"]) if isinstance(value, dict) else (value[0], value[1])


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        (("opendata_paris", "2026-09-18_v2.1_export.json"), 5),
        (("opendata_paris", "2020-06-24_v1_export.json"), 2),
        (("malformed_and_frozen", "null_join.json"), 30),
        *[
            (("malformed_and_frozen", f"opendata_20241107_{time}.json"), 60)
            for time in ("093502", "094001", "094501", "101001", "101502")
        ],
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_portal_exports_are_read_value_by_value(shared_data: Path, parts: tuple[str, ...], count: int) -> None:
    body = sample(shared_data, "velib_feed_samples", *parts)
    rows = [row.get("fields", row) for row in json.loads(body)]
    part = decode_export(body, AT)
    assert part.rejected == ()
    assert list(part.stations) == [expected_portal_station(row) for row in rows]
    assert len(rows) == count
    for row, info in zip(rows, part.information, strict=True):
        name = " ".join(row["name"].split()) if row["name"] else None
        position = portal_position(row["coordonnees_geo"])
        assert info == StationInfo(row["stationcode"], row["stationcode"], name, *position, row["capacity"] or None)


def test_a_portal_table_with_french_headings_is_read_value_by_value(shared_data: Path) -> None:
    body = sample(shared_data, "velib_feed_samples", "opendata_paris", "2026-04-06_v2.1_export_use_labels.csv")
    part = decode_export(body, AT)
    lines = list(csv.reader(body.decode("utf-8-sig").splitlines(), delimiter=";"))[1:]
    assert len(lines) == 4
    for line, station, info in zip(lines, part.stations, part.information, strict=True):
        code, name, installed, capacity, docks, bikes, mechanical, ebikes, renting, returning, due, position = line[:12]
        counts = Values(int(bikes), int(mechanical), int(ebikes), int(docks))
        flags = {"is_installed": installed, "is_renting": renting, "is_returning": returning}
        values = counts._replace(**{key: word == "OUI" for key, word in flags.items()})
        assert station == StationStatus(code, code, values, in_utc(due))
        lat, lon = (float(part) for part in position.split(", "))
        assert info == StationInfo(code, code, name, lat, lon, int(capacity))


def test_a_failed_join_of_the_portal_keeps_the_counts(shared_data: Path) -> None:
    part = decode_export(sample(shared_data, "velib_feed_samples", "malformed_and_frozen", "null_join.json"), AT)
    assert len(part.stations) == 30
    assert all(station.values.bikes is not None and station.values.docks is not None for station in part.stations)
    assert {(info.name, info.lat, info.lon, info.capacity) for info in part.information} == {(None, None, None, None)}


def test_rows_of_the_portal_without_code_are_all_rejected(shared_data: Path) -> None:
    part = decode_export(sample(shared_data, "velib_feed_samples", "malformed_and_frozen", "null_stationcode.json"), AT)
    assert part.stations == ()
    assert len(part.rejected) == 30
    assert part.rejected[7] == "row 7 has no stationcode"


def test_a_truncated_download_is_refused_with_its_size(shared_data: Path) -> None:
    body = sample(shared_data, "velib_feed_samples", "malformed_and_frozen", "truncated_shell_20241105_112001.json")
    with pytest.raises(DecodeError, match=r"524,288 bytes that start with '\[\{\"stationcode\": \"16107\""):
        decode_export(body, AT)


def test_counts_of_the_portal_move_while_its_duedate_stands(shared_data: Path) -> None:
    parts = [
        decode_export(
            sample(shared_data, "velib_feed_samples", "malformed_and_frozen", f"opendata_20241107_{t}.json"), AT
        )
        for t in ("094001", "094501")
    ]
    before, after = ({station.station_id: station for station in part.stations} for part in parts)
    moved = [code for code in before if before[code].values != after[code].values]
    assert moved
    assert all(before[code].last_reported == after[code].last_reported for code in moved)


# -- other systems ---------------------------------------------------------------------------------------------


def expected_values(row: dict[str, Any], kinds: tuple[int | None, int | None]) -> Values:
    """Plain reading of a record that keeps to GBFS 2 or 3, or to Oslo's or MEVO's older names."""

    def yes(*keys: str) -> bool | None:
        return next((bool(row[key]) for key in keys if key in row), None)

    bikes, bikes_disabled = (
        next((row[key] for key in (f"num_bikes_{end}", f"num_vehicles_{end}") if key in row), None)
        for end in ("available", "disabled")
    )
    return Values(
        bikes,
        *kinds,
        row.get("num_docks_available"),
        bikes_disabled,
        row.get("num_docks_disabled"),
        yes("is_installed"),
        yes("is_renting", "can_rent"),
        yes("is_returning", "can_return"),
    )


SYSTEMS: dict[str, dict[str, tuple[int | None, int | None]]] = {
    "oslo-legacy-v1": {},
    "mevo-minimal": {},  # vehicle types by count, but no document that says what they are
    "bicikelj-v3-inttime": {},
    "dublinbikes-fixture": {},
    "lamassu-v2": {},  # its scooter type is not in vehicle_types, so that the kinds stay unknown
    "lamassu-v3": {"station1": (1, 0), "station2": (2, 0)},
    "spec-v2.3": {"TST:Station:1": (0, 0), "TST:Station:2": (4, 0)},
    "spec-v3.0": {},
    "spec-v3.1-RC3": {"station1": (1, 0), "station2": (2, 0)},
}
"""Mechanical bikes and e-bikes by hand, where they can be known; the rest of each record is read plainly."""


@pytest.mark.parametrize("folder", SYSTEMS)
def test_other_systems_are_read_value_by_value(shared_data: Path, folder: str) -> None:
    body = sample(shared_data, "gbfs_samples", folder, "station_status.json")
    types = shared_data / "gbfs_samples" / folder / "vehicle_types.json"
    kinds = decode_vehicle_kinds(types.read_bytes()) if types.is_file() else None
    stations = by_id(decode_status(body, AT, kinds))
    rows = {row["station_id"]: row for row in json.loads(body)["data"]["stations"]}
    assert list(stations) == list(rows)
    for station_id, row in rows.items():
        by_hand = SYSTEMS[folder].get(station_id, (None, None))
        assert stations[station_id].values == expected_values(row, by_hand), station_id
        assert stations[station_id].code is None


@pytest.mark.parametrize(
    ("folder", "feed_time", "reported"),
    [
        ("oslo-legacy-v1", utc(1789726569), [None, None, None]),
        ("mevo-minimal", None, [None, None]),
        ("bicikelj-v3-inttime", utc(1757500800), [utc(1757500790), None]),
        ("dublinbikes-fixture", utc(1784623200), [utc(1784623140), utc(1784623100), None]),
        ("lamassu-v2", None, [None, None]),  # June 2015: before GBFS
        ("lamassu-v3", utc(1640887163), [utc(1609866125), utc(1609866106)]),
        ("spec-v2.3", utc(1751437263), [utc(1751437263)] * 2),
        ("spec-v3.0", utc(1562247183.969), [utc(1562247183.969)]),
        ("spec-v3.1-RC3", utc(1689593653), [utc(1689593653)] * 2),
    ],
)
def test_times_of_other_systems(
    shared_data: Path, folder: str, feed_time: datetime | None, reported: list[datetime | None]
) -> None:
    part = decode_status(sample(shared_data, "gbfs_samples", folder, "station_status.json"), AT)
    assert part.feed_time == feed_time
    assert [station.last_reported for station in part.stations] == reported


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_of_a_station_listed_twice_the_newest_record_counts(shared_data: Path, version: str) -> None:
    body = sample(shared_data, "gbfs_samples", f"duplicate-stations-{version}", "station_status.json")
    part = decode_status(body, AT)
    stations = by_id(part)
    assert list(stations) == ["station_1", "station_duplicate", "station_3"]
    assert (stations["station_duplicate"].values.bikes, stations["station_duplicate"].values.docks) == (8, 7)
    assert len(part.notes) == 1
    assert "station_duplicate" in part.notes[0]


@pytest.mark.parametrize(
    "folder",
    ["dublinbikes-fixture", "duplicate-stations-v2", "duplicate-stations-v3", "lamassu-v2", "lamassu-v3", "spec-v2.3",
     "spec-v3.0", "spec-v3.1-RC3"],
)  # fmt: skip
def test_information_of_other_systems_is_read_value_by_value(shared_data: Path, folder: str) -> None:
    body = sample(shared_data, "gbfs_samples", folder, "station_information.json")
    rows = json.loads(body)["data"]["stations"]
    stations = decode_information(body).stations
    assert len(stations) == len(rows)
    for row, info in zip(rows, stations, strict=True):
        name = row["name"] if isinstance(row["name"], str) else row["name"][0]["text"]
        expected = StationInfo(row["station_id"], None, name.strip(), row["lat"], row["lon"], row.get("capacity"))
        assert info == expected


def test_smoove_before_gbfs(shared_data: Path) -> None:
    body = sample(shared_data, "gbfs_samples", "otp-smoove", "smoove.json")
    rows = json.loads(body)["result"]
    stations, information = by_id(decode_status(body, AT)), decode_information(body).stations
    assert list(stations) == ["A04", "B05", "B06", "B08", "B09"]
    for row, station, info in zip(rows, stations.values(), information, strict=True):
        bikes, docks, on = row["avl_bikes"], row["free_slots"], row["operative"]
        assert station.values == Values(bikes, docks=docks, is_renting=on, is_returning=on)
        assert info.name == row["name"].split(" ", 1)[1]
        assert info.capacity == row["total_slots"]
    assert [(info.lat, info.lon) for info in information] == [
        (60.167913, 24.952269), (60, 24), (61, 25), (None, None), (60.168913, 24.953269),
    ]  # fmt: skip


def test_a_smoove_poll_brings_its_own_information(shared_data: Path) -> None:
    body = sample(shared_data, "gbfs_samples", "otp-smoove", "smoove.json")
    sha = content_hash(body)
    document = Document(name=STATUS, url="", status=200, fetched_at=AT, duration_s=0, sha256=sha, size=len(body))
    raw = RawPoll(system_id="hsl", polled_at=AT, scheduled_at=AT, documents=(document,))
    decoder = Decoder()
    snapshot = decoder.decode(raw, {sha: body}.__getitem__)
    assert [info.station_id for info in snapshot.information] == [station.station_id for station in snapshot.stations]
    assert decoder.decode(raw, {sha: body}.__getitem__).information is snapshot.information
