"""Recorded feeds, served over loopback HTTP, collected, and compared in the database value by value.

What must be stored is read from the recordings here by plain JSON, not by the decoder.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.test_data import feeds
from tests.test_data.feedserver import FeedServer
from tests.test_data.polls import as_of, stored_ledger, stored_rows
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.collector import Collector
from velib_predictor.data.database import Database
from velib_predictor.data.schema import Station, StationStatus, StationVersion, System
from velib_predictor.data.snapshot import Outcome, Values

VELIB = ["2022-02-25_samhrrl", "2024-11-19_banacchini"]
OTHERS = ["lamassu-v2", "lamassu-v3", "spec-v2.3", "spec-v3.0", "spec-v3.1-RC3", "dublinbikes-fixture"]
PORTAL = ["093502", "094001", "094501", "101001", "101502"]


def collector(server: FeedServer, database: Database, folder: Path, **more: Any) -> Collector:
    system = SystemSettings(url=f"{server.url}/gbfs.json", **more)
    return Collector("town", system, Settings(data_dir=folder, database_url="sqlite://"), database)


def serve_folder(server: FeedServer, folder: Path, names: list[str]) -> dict[str, Any]:
    """Serve the recorded documents byte for byte, under a list of our own (theirs name hosts of the time)."""
    found = [name for name in names if (folder / f"{name}.json").exists()]
    server.serve("/gbfs.json", feeds.discovery("2.3", server.url, found))
    for name in found:
        server.serve(f"/{name}.json", (folder / f"{name}.json").read_bytes())
    return {name: json.loads((folder / f"{name}.json").read_bytes()) for name in found}


def whole(value: Any) -> bool | None:
    return None if value is None else bool(value)


@pytest.mark.parametrize("folder", VELIB)
def test_velib_is_stored_value_by_value(
    shared_data: Path, server: FeedServer, database: Database, tmp_path: Path, folder: str
) -> None:
    said = serve_folder(server, shared_data / "velib_feed_samples" / folder, ["station_status", "station_information"])
    entry = collector(server, database, tmp_path).run_once()
    assert entry.outcome is Outcome.OK
    expected = {}
    for station in said["station_status"]["data"]["stations"]:
        kinds = {kind: n for part in station["num_bikes_available_types"] for kind, n in part.items()}
        values = Values(
            station["num_bikes_available"],
            kinds["mechanical"],
            kinds["ebike"],
            station["num_docks_available"],
            None,
            None,
            whole(station["is_installed"]),
            whole(station["is_renting"]),
            whole(station["is_returning"]),
        )
        reported = datetime.fromtimestamp(station["last_reported"], UTC)
        expected[str(station["station_id"])] = (station["stationCode"], values, reported)
    columns = [StationStatus.__table__.c[name] for name in Values._fields]
    query = select(Station.station_id, Station.code, StationStatus.last_reported, *columns).join(
        StationStatus, StationStatus.station_key == Station.key
    )
    with database.read() as connection:
        stored = {row[0]: (row[1], Values(*row[3:]), row[2]) for row in connection.execute(query)}
        places = select(Station.station_id, StationVersion.lat, StationVersion.lon, StationVersion.capacity)
        described = {row[0]: tuple(row[1:]) for row in connection.execute(places.join(StationVersion))}
    assert stored == expected
    assert described == {
        str(station["station_id"]): (station["lat"], station["lon"], station["capacity"] or None)
        for station in said["station_information"]["data"]["stations"]
    }


@pytest.mark.parametrize("folder", OTHERS)
def test_other_systems_are_stored_value_by_value(
    shared_data: Path, server: FeedServer, database: Database, tmp_path: Path, folder: str
) -> None:
    names = ["station_status", "station_information", "vehicle_types", "system_information"]
    said = serve_folder(server, shared_data / "gbfs_samples" / folder, names)
    entry = collector(server, database, tmp_path).run_once()
    assert entry.outcome is Outcome.OK
    stored = {name: values for name, _, values in stored_rows(database)}
    stations = said["station_status"]["data"]["stations"]
    assert len(stored) == len(stations) == entry.stations
    for station in stations:
        values = stored[station["station_id"]]
        assert values.bikes == station.get("num_bikes_available", station.get("num_vehicles_available"))
        assert values.docks == station.get("num_docks_available")
        assert values.bikes_disabled == station.get("num_bikes_disabled", station.get("num_vehicles_disabled"))
        assert values.docks_disabled == station.get("num_docks_disabled")
        assert values.is_renting == station.get("is_renting")
    zone = said.get("system_information", {"data": {}})["data"].get("timezone")
    with database.read() as connection:
        assert connection.execute(select(System.timezone)).scalar_one() == zone


def test_the_portals_exports_are_stored_poll_by_poll(
    shared_data: Path, server: FeedServer, database: Database, tmp_path: Path
) -> None:
    """Five exports of 7 November 2024: the second repeats the first, the fourth has new counts with old duedates."""
    folder = shared_data / "velib_feed_samples" / "malformed_and_frozen"
    portal = collector(server, database, tmp_path, kind="opendata_paris")
    said = []
    for name in PORTAL:
        body = (folder / f"opendata_20241107_{name}.json").read_bytes()
        server.serve("/gbfs.json", body)
        assert portal.run_once().outcome is Outcome.OK
        said.append(json.loads(body))
    rows, ledger = stored_rows(database), stored_ledger(database)
    assert [changed for *_, changed, _ in ledger][:2] == [60, 0]
    for (at, *_), snapshot in zip(ledger, said, strict=True):
        for row in snapshot:
            values = as_of(rows, row["stationcode"], at)
            assert values is not None
            assert (values.bikes, values.docks) == (row["numbikesavailable"], row["numdocksavailable"])
            assert (values.mechanical, values.ebikes) == (row["mechanical"], row["ebike"])
            assert values.is_renting is (row["is_renting"] == "OUI")


def test_recorded_failures_cost_a_poll_and_no_row(
    shared_data: Path, server: FeedServer, database: Database, tmp_path: Path
) -> None:
    folder = shared_data / "velib_feed_samples" / "malformed_and_frozen"
    portal = collector(server, database, tmp_path, kind="opendata_paris")
    for name, outcome in (
        ("truncated_shell_20241105_112001", Outcome.FAILED),
        ("null_stationcode", Outcome.QUARANTINED),
    ):
        server.serve("/gbfs.json", (folder / f"{name}.json").read_bytes())
        assert portal.run_once().outcome is outcome
    assert stored_rows(database) == []
