"""The as-of rule against a slow loop that spells it out, and bulk reads of a window."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from velib_predictor.data import bulk
from velib_predictor.data.database import Database
from velib_predictor.data.preprocessor import accepted_polls, as_of, grid_ticks, read_status, take
from velib_predictor.data.schema import Poll, StationStatus
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.utils.temporal import from_micros, to_micros

T0 = datetime(2024, 11, 5, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def status_table(rows: list[tuple[int, int, int | None]]) -> pa.Table:
    """(station, minute, bikes) in `bulk.ROWS`, by station and time."""
    columns: dict[str, list[object]] = {name: [None] * len(rows) for name in bulk.ROWS.names}
    ordered = sorted(rows)
    columns["station_key"] = [station for station, _, _ in ordered]
    columns["observed_at"] = [T0 + minute * MINUTE for _, minute, _ in ordered]
    columns["docks"] = [bikes for _, _, bikes in ordered]  # any count makes a row known, not bikes alone
    columns["is_renting"] = [True] * len(rows)  # a flag does not
    return pa.table(columns, schema=bulk.ROWS)


def minutes(values: list[int]) -> np.ndarray:
    return np.array([to_micros(T0 + value * MINUTE) for value in values], dtype=np.int64).view("datetime64[us]")


def slow_as_of(
    rows: list[tuple[int, int, int | None]], station: int, tick: int, polls: list[int], tolerance: int
) -> int | None:
    """The rule in words: the last row at or before the tick, if it was written or confirmed not too long ago."""
    last = None
    for row_station, minute, bikes in sorted(rows):
        if row_station == station and minute <= tick:
            last = (minute, bikes)
    if last is None or last[1] is None:
        return None
    confirmed = last[0]
    for poll in polls:
        if poll <= tick:
            confirmed = max(confirmed, poll)
    return last[1] if tick - confirmed <= tolerance else None


ROWS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(-30, 60), st.none() | st.integers(0, 9)),
    max_size=40,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=300, deadline=None)
@given(
    rows=ROWS,
    polls=st.lists(st.integers(-30, 60), max_size=12).map(sorted),
    ticks=st.lists(st.integers(-40, 70), max_size=20, unique=True).map(sorted),
    tolerance=st.integers(1, 30),
)
def test_as_of_is_the_slow_loop(
    rows: list[tuple[int, int, int | None]], polls: list[int], ticks: list[int], tolerance: int
) -> None:
    stations = [1, 3, 5]  # 2 and 4 are not asked for, 5 has no rows
    table = status_table(rows)
    held = as_of(table, np.array(stations, np.int32), minutes(ticks), minutes(polls), tolerance * MINUTE)
    expected = [[slow_as_of(rows, station, tick, polls, tolerance) for station in stations] for tick in ticks]
    found = [take(table, held[:, column], minutes(ticks))["docks"].to_pylist() for column in range(len(stations))]
    assert np.array(found, dtype=object).T.tolist() == expected or not ticks
    assert held.shape == (len(ticks), len(stations))


def test_what_is_taken_bears_the_tick_as_its_time() -> None:
    table = status_table([(1, 0, 5), (1, 7, 6)])
    held = as_of(table, np.array([1], np.int32), minutes([-5, 5, 10, 30]), minutes([]), 10 * MINUTE)
    taken = take(table, held[:, 0], minutes([-5, 5, 10, 30]))
    assert taken["observed_at"].to_pylist() == [T0 + m * MINUTE for m in (-5, 5, 10, 30)]
    assert taken["docks"].to_pylist() == [None, 5, 6, None]
    assert taken["is_renting"].to_pylist() == [None, True, True, None]


def test_grid_ticks_are_multiples_of_the_step_in_a_half_open_period() -> None:
    ticks = grid_ticks(T0 - MINUTE, T0 + 30 * MINUTE, 15 * MINUTE)
    assert [from_micros(int(t)) for t in ticks.astype(np.int64)] == [T0, T0 + 15 * MINUTE]


@pytest.mark.parametrize("apart", [-3, 4, 34])
def test_grid_ticks_may_be_counted_from_any_instant(apart: int) -> None:
    ticks = grid_ticks(T0, T0 + 30 * MINUTE, 15 * MINUTE, T0 + apart * MINUTE)
    first = T0 + apart % 15 * MINUTE
    assert [from_micros(int(t)) for t in ticks.astype(np.int64)] == [first, first + 15 * MINUTE]


def fill(database: Database, rows: list[tuple[str, int, int | None]]) -> dict[str, int]:
    with database.write() as connection:
        system = ensure_system(connection, "velib")
        book = StationBook(connection, system)
        book.register(connection, [StationInfo(name) for name in sorted({name for name, _, _ in rows})], T0)
        names = book.all_names()
        connection.execute(
            insert(StationStatus),
            [
                {"station_key": names[n], "observed_at": T0 + m * MINUTE, "bikes": b, "is_renting": True}
                for n, m, b in rows
            ],
        )
        other = StationBook(connection, ensure_system(connection, "oslo"))
        other.register(connection, [StationInfo("z")], T0)
        connection.execute(insert(StationStatus).values(station_key=other.resolve("z"), observed_at=T0, bikes=1))
    return names


def test_a_window_begins_with_what_held_at_its_start(database: Database) -> None:
    keys = fill(database, [("b", -90, 1), ("b", -10, 2), ("b", 5, None), ("a", 0, 3), ("a", 10, 4), ("c", 20, 5)])
    names = {key: name for name, key in keys.items()}

    def read(**kwargs: object) -> list[tuple[str, float, int | None]]:
        table = read_status(database, "velib", **kwargs)  # type: ignore[arg-type]
        assert table.schema == bulk.ROWS
        records = table.to_pylist()
        assert all(record["is_renting"] is True for record in records)
        return [(names[r["station_key"]], (r["observed_at"] - T0) / MINUTE, r["bikes"]) for r in records]

    everything = [("a", 0, 3), ("a", 10, 4), ("b", -90, 1), ("b", -10, 2), ("b", 5, None), ("c", 20, 5)]
    assert read() == everything
    assert read(end=T0 + 10 * MINUTE) == [("a", 0, 3), ("b", -90, 1), ("b", -10, 2), ("b", 5, None)]
    assert read(start=T0) == [("a", 0, 3), ("a", 10, 4), ("b", -10, 2), ("b", 5, None), ("c", 20, 5)]
    assert read(start=T0, before=False) == [("a", 0, 3), ("a", 10, 4), ("b", 5, None), ("c", 20, 5)]
    assert read(start=T0, end=T0 + 5 * MINUTE) == [("a", 0, 3), ("b", -10, 2)]
    assert read(stations=[keys["c"]]) == [("c", 20, 5)]
    assert len(read_status(database, "nowhere")) == 0


def test_only_accepted_polls_confirm(database: Database) -> None:
    outcomes = ["ok", "frozen", "not_modified", "failed", "missed", "quarantined", "ok"]
    with database.write() as connection:
        system = ensure_system(connection, "velib")
        for minute, outcome in enumerate(outcomes):
            connection.execute(insert(Poll).values(system_key=system, polled_at=T0 + minute * MINUTE, outcome=outcome))
    assert accepted_polls(database, "velib").tolist() == minutes([0, 2, 6]).tolist()
    assert accepted_polls(database, "velib", T0 + 2 * MINUTE).tolist() == minutes([2, 6]).tolist()
    assert accepted_polls(database, "velib", T0 + 3 * MINUTE).tolist() == minutes([2, 6]).tolist()
    assert accepted_polls(database, "velib", T0 - MINUTE, T0 + 2 * MINUTE).tolist() == minutes([0]).tolist()
    assert len(accepted_polls(database, "oslo")) == 0
