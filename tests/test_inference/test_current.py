"""What is there now: the last word on every station, on both engines."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.test_data.polls import raw_poll, snapshot
from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.database import Database
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import ensure_system
from velib_predictor.data.store import Store
from velib_predictor.inference.current import current, heard_at, systems

START = datetime(2026, 3, 2, 10, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
INFORMATION = tuple(StationInfo(name, f"c{name}", f"Place {name}", 48.8, 2.3, 20) for name in "12345678")
BIKES = {name: int(name) for name in "12345678"}


@pytest.fixture
def store(database: Database) -> Store:
    system = SystemSettings(url="http://127.0.0.1/gbfs.json", name="Vélib'", timezone="Europe/Paris", licence="LO 2.0")
    return Store(database, "velib", system, CollectorSettings())


def poll(store: Store, at: datetime, bikes: dict[str, int], information: tuple[StationInfo, ...] = INFORMATION) -> None:
    entry = store.record(raw_poll(at), snapshot(at, bikes, information=information))
    assert entry.outcome.accepted


def test_the_latest_state_of_each_station_is_told(database: Database, store: Store) -> None:
    poll(store, START, BIKES)
    poll(store, START + MINUTE, {**BIKES, "2": 9})
    found = current(database, "velib")
    assert found.heard_at == START + MINUTE
    assert list(found.stations) == sorted(BIKES)
    two = found.stations["2"]
    assert (two.bikes, two.mechanical, two.ebikes, two.docks) == (9, 9, 0, 11)
    assert (two.code, two.name, two.lat, two.lon, two.capacity) == ("c2", "Place 2", 48.8, 2.3, 20)
    assert (two.is_installed, two.is_renting, two.is_returning) == (True, True, True)
    assert two.observed_at == START + MINUTE


def test_a_later_poll_confirms_what_has_not_changed_and_a_failed_one_does_not(database: Database, store: Store) -> None:
    poll(store, START, BIKES)
    poll(store, START + 5 * MINUTE, BIKES)
    assert current(database, "velib").stations["1"].observed_at == START + 5 * MINUTE
    store.record(raw_poll(START + 6 * MINUTE, error="no connection"), None)
    store.record(raw_poll(START + 7 * MINUTE), snapshot(START + 7 * MINUTE, {}))  # quarantined
    found = current(database, "velib")
    assert found.heard_at == heard_at(database, "velib") == START + 5 * MINUTE
    assert {station.observed_at for station in found.stations.values()} == {START + 5 * MINUTE}


def test_a_station_whose_state_is_not_known_is_there_without_numbers(database: Database, store: Store) -> None:
    poll(store, START, BIKES)
    poll(store, START + MINUTE, {name: count for name, count in BIKES.items() if name != "3"})
    gone = current(database, "velib").stations["3"]
    assert (gone.name, gone.capacity) == ("Place 3", 20)
    assert (gone.bikes, gone.mechanical, gone.ebikes, gone.docks) == (None,) * 4
    assert (gone.is_installed, gone.is_renting, gone.is_returning) == (None,) * 3


def test_a_station_that_has_vanished_is_absent_until_it_is_back(database: Database, store: Store) -> None:
    poll(store, START, BIKES)
    left = {name: count for name, count in BIKES.items() if name != "3"}
    known = tuple(info for info in INFORMATION if info.station_id != "3")
    poll(store, START + MINUTE, left, known)
    assert "3" in current(database, "velib").stations
    poll(store, START + 4 * HOUR, left, known)
    assert list(current(database, "velib").stations) == sorted(left)
    poll(store, START + 5 * HOUR, BIKES)
    assert current(database, "velib").stations["3"].bikes == 3


def test_what_was_described_anew_is_told_anew(database: Database, store: Store) -> None:
    poll(store, START, BIKES)
    built = tuple(
        StationInfo(info.station_id, info.code, "Nouvelle place", info.lat, info.lon, 31)
        if info.station_id == "1"
        else info
        for info in INFORMATION
    )
    poll(store, START + MINUTE, BIKES, built)
    one = current(database, "velib").stations["1"]
    assert (one.name, one.capacity, one.bikes) == ("Nouvelle place", 31, 1)


def test_systems_do_not_mix_and_one_without_polls_was_never_heard(database: Database, store: Store) -> None:
    poll(store, START, BIKES)
    with database.write() as connection:
        ensure_system(connection, "oslo", name="Oslo")
    assert [(about.system_id, about.name, about.timezone, about.licence) for about in systems(database)] == [
        ("oslo", "Oslo", None, None),
        ("velib", "Vélib'", "Europe/Paris", "LO 2.0"),
    ]
    empty = current(database, "oslo")
    assert (empty.heard_at, empty.stations) == (None, {})
    assert heard_at(database, "nowhere") is None
    assert len(current(database, "velib").stations) == 8
