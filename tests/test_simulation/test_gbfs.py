"""Three flavours of GBFS: valid by the official schemas, with Vélib's oddities, and decoded to the same counts."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft7Validator

from tests.test_simulation.small import START, city, living
from velib_predictor.data.gbfs import decode_status
from velib_predictor.data.information import decode_information, decode_system, decode_vehicle_kinds
from velib_predictor.data.snapshot import Values
from velib_predictor.simulation.gbfs import FLAVOURS, Flavour, View, document, names, skewed

BASE = "http://127.0.0.1:8090/gbfs"


def view(*, ahead: timedelta = timedelta(0)) -> View:
    return View(city(), living().counts(), START + ahead, len(city()))


def documents(flavour: Flavour, of: View | None = None) -> dict[str, Any]:
    return {name: document(name, flavour, of or view(), BASE) for name in names(flavour)}


def body(of: Any) -> bytes:
    return json.dumps(of).encode()


@pytest.mark.parametrize("flavour", ["2.3", "3.0"])
def test_it_keeps_to_the_official_schemas(shared_data: Path, flavour: Flavour) -> None:
    folder = shared_data / "gbfs_json_schema" / f"v{flavour}"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/gbfs_json_schema beside the repository")
    for name, found in documents(flavour).items():
        schema = json.loads((folder / f"{name}.json").read_text())
        validator = Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
        assert [error.message for error in validator.iter_errors(found)] == []


def test_velib_fails_its_schema_exactly_as_velib_does(shared_data: Path) -> None:
    folder = shared_data / "gbfs_json_schema" / "v1.0"
    real = shared_data / "velib_feed_samples" / "2022-02-25_samhrrl"
    if not (folder.is_dir() and real.is_dir()):
        pytest.skip("no ../shared/data/gbfs_json_schema beside the repository")
    for name, found in documents("velib").items():
        validator = Draft7Validator(json.loads((folder / f"{name}.json").read_text()))

        def problems(of: Any, validator: Draft7Validator = validator) -> set[tuple[str, str]]:
            errors = validator.iter_errors(of)
            return {("/".join(p for p in e.absolute_path if isinstance(p, str)), str(e.validator)) for e in errors}

        theirs = problems(json.loads((real / f"{name}.json").read_bytes()))
        assert problems(found) <= theirs
        assert ("", "required") in problems(found), "lastUpdatedOther stands for last_updated"


def test_velib_is_as_odd_as_velib(shared_data: Path) -> None:
    ours = documents("velib")
    for name in ("station_status", "station_information", "system_information"):
        path = shared_data / "velib_feed_samples" / "2022-02-25_samhrrl" / f"{name}.json"
        if not path.exists():
            pytest.skip("no ../shared/data/velib_feed_samples beside the repository")
        theirs = json.loads(path.read_bytes())
        assert ours[name].keys() == theirs.keys()
        mine, real = ours[name]["data"], theirs["data"]
        assert mine.keys() == real.keys()
        if "stations" in mine:
            new = {"station_opening_hours"}  # null, since 2025
            real_types = {(key, type(value)) for station in real["stations"] for key, value in station.items()}
            mine_types = {(key, type(v)) for s in mine["stations"] for key, v in s.items() if key not in new}
            assert mine_types == real_types
            assert all(s["station_opening_hours"] is None for s in mine["stations"])


def test_velib_refreshes_last_reported_by_the_hour() -> None:
    seen = set()
    for minute in range(0, 6 * 60, 5):
        at = START + timedelta(minutes=minute)
        stations = documents("velib", view(ahead=timedelta(minutes=minute)))["station_status"]["data"]["stations"]
        newest = max(station["last_reported"] for station in stations)
        assert 0 <= at.timestamp() - newest <= 3_607 + 12
        assert newest - min(station["last_reported"] for station in stations) <= 12
        seen.add(newest)
    assert len(seen) in (6, 7)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_it_is_decoded_to_the_counts(flavour: Flavour) -> None:
    found = documents(flavour)
    kinds = decode_vehicle_kinds(body(found["vehicle_types"])) if flavour != "velib" else None
    part = decode_status(body(found["station_status"]), START + timedelta(seconds=1), kinds)
    counts = living().counts()
    assert not part.rejected
    assert not part.notes
    assert part.feed_time == START
    hidden = flavour == "velib"
    for index, station in enumerate(part.stations):
        assert station.station_id == str(city().stations.id[index])
        assert station.values == Values(
            int(counts.bikes[index]),
            int(counts.mechanical[index]),
            int(counts.ebikes[index]),
            int(counts.docks[index]),
            None if hidden else int(counts.bikes_disabled[index]),
            None if hidden else int(counts.docks_disabled[index]),
            True,
            True,
            True,
        )
        assert station.last_reported is not None
        assert timedelta(0) <= START - station.last_reported <= timedelta(seconds=3_619)
    assert len(part.stations) == len(city())


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_its_stations_and_system_are_decoded(flavour: Flavour) -> None:
    found = documents(flavour)
    information = decode_information(body(found["station_information"]))
    stations = city().stations
    assert [info.station_id for info in information.stations] == stations.id.astype(str).tolist()
    assert [info.code for info in information.stations] == list(stations.code)
    assert [info.name for info in information.stations] == list(stations.name)
    assert [info.capacity for info in information.stations] == stations.capacity.tolist()
    assert [(info.lat, info.lon) for info in information.stations] == list(zip(stations.lat, stations.lon, strict=True))
    assert not information.notes
    assert decode_system(body(found["system_information"])).timezone == "Europe/Paris"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_list_names_every_document(flavour: Flavour) -> None:
    data = documents(flavour)["gbfs"]["data"]
    feeds = data["feeds"] if flavour == "3.0" else next(iter(data.values()))["feeds"]
    listed = {feed["name"]: feed["url"] for feed in feeds}
    assert set(listed) | {"gbfs"} == set(names(flavour))
    assert all(url == f"{BASE}/{name}.json" for name, url in listed.items())


def test_a_clock_that_is_wrong() -> None:
    assert skewed(datetime(2026, 1, 1, tzinfo=UTC), -60) == datetime(2025, 12, 31, 23, 59, tzinfo=UTC)
