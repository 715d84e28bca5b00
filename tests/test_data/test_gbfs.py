"""GBFS 1.0 to 3.1: decoding of documents that keep to the standard."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft7Validator

from tests.test_data import feeds
from tests.test_data.feeds import AT, KINDS, VERSIONS
from velib_predictor.data.gbfs import decode_status
from velib_predictor.data.information import decode_information, decode_system, decode_vehicle_kinds, read_system
from velib_predictor.data.raw import DISCOVERY, INFORMATION, STATUS, SYSTEM, VEHICLE_TYPES
from velib_predictor.data.snapshot import SystemInfo, Values

ALL = (SYSTEM, INFORMATION, STATUS, VEHICLE_TYPES)


def schema_problems(folder: Path, name: str, version: str, document: Any) -> list[str]:
    schema = json.loads((folder / f"v{version}" / f"{name}.json").read_text())
    validator = Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    return [f"{name} {version}: {error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_payloads_that_these_tests_build_keep_to_the_official_schemas(shared_data: Path, version: str) -> None:
    folder = shared_data / "gbfs_json_schema"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/gbfs_json_schema beside the repository")
    documents = {
        STATUS: feeds.status(version, [feeds.station(version, "1")]),
        INFORMATION: feeds.information(version, [feeds.described(version, "1")]),
        SYSTEM: feeds.system(version),
        DISCOVERY: feeds.discovery(version, "https://town.test", (SYSTEM, INFORMATION, STATUS)),
    }
    if version >= "2.1":
        documents[VEHICLE_TYPES] = feeds.vehicle_types(version, KINDS)
        documents[DISCOVERY] = feeds.discovery(version, "https://town.test", ALL)
    if version >= "3":
        documents["manifest"] = feeds.manifest({"town": {"3.0": "https://town.test/3/gbfs.json"}}, version)
    problems = [
        problem for name, document in documents.items() for problem in schema_problems(folder, name, version, document)
    ]
    assert problems == []


def test_disabled_bikes_and_docks_are_read_in_both_spellings() -> None:
    old = feeds.station("2.3", "1", num_bikes_disabled=2, num_docks_disabled=1)
    new = feeds.station("3.0", "1", num_vehicles_disabled=2, num_docks_disabled=1)
    for version, record in (("2.3", old), ("3.0", new)):
        values = status_values(feeds.status(version, [record]))["1"]
        assert (values.bikes_disabled, values.docks_disabled) == (2, 1)


def status_values(document: Any, kinds: dict[str, str | None] | None = None) -> dict[str, Values]:
    part = decode_status(json.dumps(document).encode(), AT, kinds)
    assert part.rejected == ()
    return {station.station_id: station.values for station in part.stations}


def test_only_bicycles_count_towards_the_kinds() -> None:
    kinds = decode_vehicle_kinds(json.dumps(feeds.vehicle_types("2.3", KINDS)).encode())
    assert kinds == {"bike": "mechanical", "ebike": "ebike", "kick": ""}
    by_type = [{"vehicle_type_id": name, "count": n} for name, n in (("bike", 1), ("ebike", 2), ("kick", 4))]
    values = status_values(feeds.status("2.3", [feeds.station("2.3", "1", 7, vehicle_types_available=by_type)]), kinds)
    assert (values["1"].bikes, values["1"].mechanical, values["1"].ebikes) == (7, 1, 2)


def test_vehicle_types_without_form_factor_are_bicycles_and_without_propulsion_unknown() -> None:
    document = {"data": {"vehicle_types": [
        {"vehicle_type_id": "a", "propulsion_type": "electric"},
        {"vehicle_type_id": "b", "form_factor": "bicycle"},
        {"vehicle_type_id": "c", "form_factor": "cargo_bicycle", "propulsion_type": "human"},
        {"vehicle_type_id": "d", "form_factor": "car", "propulsion_type": "combustion"},
    ]}}  # fmt: skip
    kinds = decode_vehicle_kinds(json.dumps(document).encode())
    assert kinds == {"a": "ebike", "b": None, "c": "mechanical", "d": ""}
    by_type = [{"vehicle_type_id": "b", "count": 3}]
    values = status_values(feeds.status("2.3", [feeds.station("2.3", "1", 7, vehicle_types_available=by_type)]), kinds)
    assert (values["1"].mechanical, values["1"].ebikes) == (None, None)


def test_the_system_card_may_lack_anything() -> None:
    assert decode_system(b'{"data": {"name": [], "timezone": 5, "language": null}}') == SystemInfo()


@pytest.mark.parametrize(
    "zone", ["America/New York", "Europe", "Mars/Base", "../../etc/passwd", "/etc/passwd", "a" * 999]
)
def test_a_time_zone_that_is_none_is_unknown_with_a_note(zone: str) -> None:
    part = read_system(json.dumps(feeds.system("2.3", timezone=zone)).encode())
    assert part.system == SystemInfo("town", "Town Bikes", None, "en")
    assert len(part.notes) == 1
    assert zone[:8] in part.notes[0]
    good = read_system(json.dumps(feeds.system("2.3", timezone="America/New_York")).encode())
    assert (good.system.timezone, good.notes) == ("America/New_York", ())


def test_information_keeps_the_public_code() -> None:
    plain = feeds.described("2.3", "1", short_name="16107")
    listed = feeds.described("3.0", "2", short_name=[{"text": "9020", "language": "en"}])
    for version, record, code in (("2.3", plain, "16107"), ("3.0", listed, "9020")):
        part = decode_information(json.dumps(feeds.information(version, [record])).encode())
        assert part.stations[0].code == code
