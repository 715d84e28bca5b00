"""Identities that meet under two names, and versions that say what was known when."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from velib_predictor.data.database import Database
from velib_predictor.data.schema import Station, StationVersion, System
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system

T0 = datetime(2024, 11, 5, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
VICTOIRES: dict[str, Any] = {"name": "Place des Victoires", "lat": 48.8657, "lon": 2.3413, "capacity": 30}


def register(
    database: Database, infos: list[StationInfo], at: datetime = T0, claimed: Collection[str] = ()
) -> StationBook:
    """Register in a book of its own, and check that a freshly loaded one says the same."""
    with database.write() as connection:
        key = ensure_system(connection, "velib")
        book = StationBook(connection, key)
        book.register(connection, infos, at, claimed=claimed)
        again = StationBook(connection, key)
    assert again.all_names() == book.all_names()
    assert again.names == book.names
    assert [again.latest(k) for k in again.names] == [book.latest(k) for k in again.names]
    return book


def stations(database: Database) -> list[tuple[str, str | None]]:
    with database.read() as connection:
        return [
            (r[0], r[1]) for r in connection.execute(select(Station.station_id, Station.code).order_by(Station.key))
        ]


def versions(database: Database) -> list[tuple[float, float | None, int | None]]:
    """(from, to, capacity), in hours after T0."""
    v = StationVersion
    with database.read() as connection:
        rows = connection.execute(
            select(v.valid_from, v.valid_to, v.capacity).order_by(v.station_key, v.valid_from)
        ).all()
    return [((r[0] - T0) / HOUR, (r[1] - T0) / HOUR if r[1] else None, r[2]) for r in rows]


def test_a_system_is_made_once_and_only_what_is_said_is_written(database: Database) -> None:
    with database.write() as connection:
        key = ensure_system(connection, "velib", name="Vélib'", timezone="Europe/Paris")
        assert ensure_system(connection, "velib", licence="LO 2.0") == key
        assert ensure_system(connection, "oslo") != key
    with database.read() as connection:
        row = connection.execute(select(System.name, System.timezone, System.licence).where(System.key == key)).one()
    assert tuple(row) == ("Vélib'", "Europe/Paris", "LO 2.0")


def test_history_under_the_code_is_adopted_by_the_live_feed(database: Database) -> None:
    old = register(database, [StationInfo("16107", **VICTOIRES)]).resolve("16107")
    book = register(database, [StationInfo("213688169", "16107", **VICTOIRES)], T0 + HOUR)
    assert stations(database) == [("213688169", "16107")]
    assert book.resolve("16107") == book.resolve("213688169") == old


def test_history_that_comes_after_the_live_feed_meets_it_by_the_code(database: Database) -> None:
    live = register(database, [StationInfo("213688169", "16107", **VICTOIRES)]).resolve("16107")
    book = register(database, [StationInfo("16107", **VICTOIRES)], T0 - HOUR)
    assert stations(database) == [("213688169", "16107")]
    assert book.resolve("16107") == live
    assert versions(database) == [(-1, None, 30)]


@pytest.mark.parametrize("first", [StationInfo("16107"), StationInfo("213688169", "16107")])
def test_a_station_claimed_in_the_same_call_is_not_adopted(database: Database, first: StationInfo) -> None:
    register(database, [first])
    both = [StationInfo("213688169", "16107"), StationInfo("16107")]
    book = register(database, both, T0 + HOUR)
    assert sorted(stations(database)) == [("16107", None), ("213688169", "16107")]
    assert book.resolve("16107") != book.resolve("213688169")


def test_a_number_used_over_a_kilometre_away_is_another_station(database: Database) -> None:
    register(database, [StationInfo("16107", lat=48.8657, lon=2.3413)])
    register(database, [StationInfo("213688169", "16107", lat=48.8657, lon=2.3413 + 0.0138)])  # 1,010 m east
    assert len(stations(database)) == 2
    register(database, [StationInfo("99", "16108"), StationInfo("16108", lat=48.0, lon=2.0)])
    assert len(stations(database)) == 4


def test_up_to_a_kilometre_it_is_the_same_station(database: Database) -> None:
    register(database, [StationInfo("16107", lat=48.8657, lon=2.3413)])
    register(database, [StationInfo("213688169", "16107", lat=48.8657, lon=2.3413 + 0.0135)])  # 988 m east
    assert stations(database) == [("213688169", "16107")]


def test_a_station_with_a_code_of_its_own_is_not_adopted(database: Database) -> None:
    register(database, [StationInfo("16107", "A1")])
    register(database, [StationInfo("213688169", "16107")])
    assert stations(database) == [("16107", "A1"), ("213688169", "16107")]


def test_ids_that_change_overnight_split_no_station(database: Database) -> None:
    before = register(database, [StationInfo("7", "16107", **VICTOIRES), StationInfo("8", "16108")])
    changed = [StationInfo("70", "16107", **VICTOIRES), StationInfo("80", "16108")]
    book = register(database, changed, T0 + HOUR)
    assert stations(database) == [("70", "16107"), ("80", "16108")]
    assert book.by_id("70") == book.resolve("16107") == before.by_id("7")
    assert (book.by_id("80"), book.by_id("7")) == (before.by_id("8"), None)
    assert versions(database) == [(0, None, 30)]


@pytest.mark.parametrize(
    ("newcomer", "claimed"),
    [
        (StationInfo("70", "16107", **VICTOIRES), ["7", "70"]),  # both are in the feed
        (StationInfo("70", "16107", **(VICTOIRES | {"lat": 48.88})), ["70"]),  # 1,590 m north
    ],
)
def test_a_code_shared_with_a_station_that_stays_or_lies_elsewhere(
    database: Database, newcomer: StationInfo, claimed: list[str]
) -> None:
    register(database, [StationInfo("7", "16107", **VICTOIRES)])
    register(database, [newcomer], T0 + HOUR, claimed)
    assert stations(database) == [("7", "16107"), ("70", "16107")]


def test_two_newcomers_with_one_code_do_not_become_one(database: Database) -> None:
    register(database, [StationInfo("7", "16107")])
    register(database, [StationInfo("70", "16107"), StationInfo("71", "16107")], T0 + HOUR)
    assert stations(database) == [("70", "16107"), ("71", "16107")]


def test_a_newcomer_whose_id_is_another_stations_code_is_a_station_of_its_own(database: Database) -> None:
    register(database, [StationInfo("1", "3")])
    book = register(database, [StationInfo("3")], T0 + HOUR, ["1", "3"])
    assert stations(database) == [("1", "3"), ("3", None)]
    assert book.by_id("3") == book.resolve("3") != book.by_id("1")


def test_a_source_that_knows_codes_alone_means_the_stations_of_the_feed(database: Database) -> None:
    """Vélib's portal, when the feed is away: codes stand where ids should be, and no id is in use."""
    register(database, [StationInfo("213688169", "16107")])
    book = register(database, [StationInfo("16107")], T0 + HOUR, ["16107"])
    assert stations(database) == [("213688169", "16107")]
    assert book.by_id("16107") is None
    assert book.resolve("16107") == book.by_id("213688169")


def test_a_code_means_the_newest_station_that_has_not_vanished(database: Database) -> None:
    first, second = StationInfo("7", "1", "A", 48.1, 2.0, 10), StationInfo("8", "1", "A", 48.2, 2.0, 10)
    assert register(database, [first]).resolve("1") == 1
    book = register(database, [second], T0 + HOUR)
    assert book.resolve("1") == book.by_id("8")
    book = register(database, [StationInfo("9", "1", "A", 48.3, 2.0, 10)], T0 - 99 * HOUR)  # from an old file
    assert book.resolve("1") == book.by_id("8")
    with database.write() as connection:
        book.vanish(connection, [key for key in book.names if key != book.by_id("7")], T0 + 2 * HOUR)
        assert book.resolve("1") == book.by_id("7")
        assert StationBook(connection, 1).all_names() == book.all_names()


def test_an_id_wins_over_a_code_and_ids_are_text(database: Database) -> None:
    book = register(database, [StationInfo("001", "1"), StationInfo("1", "9")])
    assert book.resolve("1") != book.resolve("001")
    assert book.resolve("9") == book.resolve("1")
    assert book.resolve("01") is None


CAPACITY = [
    # (hours after T0, capacity), ... -> versions
    ([(0, 30), (1, 30)], [(0, None, 30)]),
    ([(0, 30), (1, 31)], [(0, 1, 30), (1, None, 31)]),
    ([(0, 30), (0, 31)], [(0, None, 31)]),
    ([(0, 30), (-1, 30)], [(-1, None, 30)]),
    ([(0, 30), (-1, 29)], [(-1, 0, 29), (0, None, 30)]),
    ([(0, 30), (2, 31), (1, 29)], [(0, 1, 30), (1, 2, 29), (2, None, 31)]),
    ([(0, 30), (1, None)], [(0, None, 30)]),
    ([(0, None), (1, 30)], [(0, 1, None), (1, None, 30)]),
    ([(0, 30), (2, "vanish"), (3, 30)], [(0, 2, 30), (3, None, 30)]),
    ([(0, 30), (2, "vanish"), (3, None)], [(0, 2, 30), (3, None, 30)]),
    ([(0, 30), (2, "vanish"), (1, 31)], [(0, 1, 30), (1, 2, 31)]),
    ([(0, 30), (2, "vanish"), (2, 30)], [(0, 2, 30), (2, None, 30)]),
    ([(0, 30), (2, "vanish"), (4, 30), (3, 30)], [(0, 2, 30), (3, None, 30)]),
    ([(0, 30), (2, "vanish"), (4, 30), (3, 31)], [(0, 2, 30), (3, 4, 31), (4, None, 30)]),
    ([(0, 30), (0, "vanish"), (0, 31)], [(0, None, 31)]),
]


@pytest.mark.parametrize(("said", "expected"), CAPACITY)
def test_versions(database: Database, said: list[tuple[int, int | str | None]], expected: list[object]) -> None:
    for hours, capacity in said:
        at = T0 + hours * HOUR
        if capacity == "vanish":
            with database.write() as connection:
                book = StationBook(connection, ensure_system(connection, "velib"))
                book.vanish(connection, list(book.names), at)
        else:
            assert capacity is None or isinstance(capacity, int)
            register(database, [StationInfo("a", name="A", capacity=capacity)], at)
    assert versions(database) == expected


def test_unchanged_stations_cost_no_statement(database: Database) -> None:
    infos = [StationInfo(f"s{n}", f"{n}", f"Station {n}", 48 + n / 1e4, 2.3, 20) for n in range(1_500)]
    with database.write() as connection:
        book = StationBook(connection, ensure_system(connection, "velib"))
        book.register(connection, infos, T0)
        statements: list[str] = []
        event.listen(connection, "before_cursor_execute", lambda _c, _cur, text, *_: statements.append(text))
        book.register(connection, infos, T0 + HOUR)
        assert statements == []
        book.register(connection, [infos[7], StationInfo("s8", capacity=21), *infos[9:]], T0 + HOUR)
        assert len(statements) == 2  # close and insert: one station changed


def test_a_station_told_twice_in_one_call_ends_as_told_last(database: Database) -> None:
    twice = [StationInfo("a", capacity=1), StationInfo("b", capacity=5), StationInfo("a", capacity=2)]
    register(database, twice)
    assert versions(database) == [(0, None, 2), (0, None, 5)]
