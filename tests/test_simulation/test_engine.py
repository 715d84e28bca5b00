"""Bikes are neither made nor lost, stations hold what they can, and what happens depends on the seed and time alone."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_simulation.small import START, city, engine, living, tiled, values
from velib_predictor.simulation import checkpoint
from velib_predictor.simulation.demand import FIELDS, FLEXIBLE, FROM, KIND, MINUTE, RIDE, TO, TRIES, WALKS, Ints
from velib_predictor.simulation.engine import REDIRECT_MIN, WALK_MIN, Engine, first_come
from velib_predictor.simulation.simulation import Simulation
from velib_predictor.simulation.state import ELECTRIC, MECHANICAL, State
from velib_predictor.simulation.upkeep import drive_trucks, trucks_at

NOBODY = 0.0


def still(riders: float = NOBODY) -> tuple[Engine, State]:
    """A city in which nobody wants to ride, at a minute without trucks and repairs, all stations half full."""
    quiet = city(riders=riders)
    state = living().state.copy()
    half = quiet.stations.capacity // 2
    state.bikes = np.stack([half - half // 2, half // 2]).astype(np.int32)
    state.docks = (quiet.stations.capacity - half).astype(np.int32)
    state.broken[:], state.broken_docks[:] = 0, 0
    state.rides, state.walkers = {}, state.walkers[:, :0]
    state.minute += 1
    return engine(quiet, state), state


def rider(state: State, **traits: int) -> Ints:
    one = np.zeros((FIELDS, 1), dtype=np.int32)
    names = {"start": FROM, "to": TO, "ride": RIDE, "kind": KIND, "flexible": FLEXIBLE, "walks": WALKS}
    one[MINUTE] = state.minute
    for name, value in traits.items():
        one[names[name]] = value
    return one


def coming(state: State, to: int, kind: int = MECHANICAL) -> Ints:
    ride = rider(state, to=to, kind=kind)
    return ride


def whole(state: State, capacity: npt.NDArray[np.int32]) -> bool:
    """Whether every dock is accounted for and nothing is negative."""
    held = state.bikes.sum(axis=0) + state.broken.sum(axis=0) + state.docks + state.broken_docks
    least = min(array.min() for array in (state.bikes, state.broken, state.docks, state.broken_docks))
    return bool((held == capacity).all() and least >= 0)


def test_no_bike_is_made_or_lost() -> None:
    simulation = living()
    fleet, capacity = simulation.city.fleet, simulation.city.stations.capacity
    for hour in range(26):
        simulation.advance(START + timedelta(hours=hour))
        assert simulation.state.fleet == fleet
        assert whole(simulation.state, capacity)
    assert simulation.state.served > 1_000
    assert simulation.state.broken.sum() > 0
    assert simulation.state.broken_docks.sum() > 0


def test_each_copy_keeps_its_bikes() -> None:
    draws = 5
    state = tiled(living().state, draws)
    engine(city(), state, draws=draws).run(state.minute + 700)
    stations = len(city())
    held = (state.bikes + state.broken).sum(axis=0).reshape(draws, stations).sum(axis=1)
    for pieces in state.rides.values():
        for piece in pieces:
            held += np.bincount(piece[TO] // stations, minlength=draws)
    assert held.tolist() == [city().fleet] * draws
    assert whole(state, np.tile(city().stations.capacity, draws))
    assert len({tuple(copy) for copy in state.docks.reshape(draws, stations).tolist()}) == draws


def test_it_does_not_matter_how_often_it_is_advanced() -> None:
    one, other = living(), living()
    end = START + timedelta(hours=5, minutes=13)
    one.advance(end)
    for minute in range(0, 314, 7):
        other.advance(START + timedelta(minutes=minute))
    other = other.copy()
    other.advance(end + timedelta(seconds=59))
    other.advance(START)
    assert one.now == other.now == end
    for mine, theirs in zip(one.counts(), other.counts(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one.state.under_way == other.state.under_way


def test_a_copy_goes_its_own_way() -> None:
    one = living()
    before = values(one.counts())
    twin = one.copy()
    twin.advance(START + timedelta(hours=2))
    np.testing.assert_array_equal(values(one.counts()), before)
    one.advance(START + timedelta(hours=2))
    np.testing.assert_array_equal(values(one.counts()), values(twin.counts()))


def test_a_kept_state_goes_on_as_it_would_have(tmp_path: Path) -> None:
    one = living()
    one.advance(START + timedelta(hours=1, minutes=17))
    checkpoint.save(one, tmp_path / "city.npz")
    other = checkpoint.load(city(), tmp_path / "city.npz")
    assert other.now == one.now
    for simulation in (one, other):
        simulation.advance(START + timedelta(hours=6))
    np.testing.assert_array_equal(values(one.counts()), values(other.counts()))
    assert other.state.fleet == city().fleet


def test_the_same_seed_lives_the_same_days() -> None:
    one, other = (Simulation(city(), START, warmup=timedelta(hours=3)) for _ in range(2))
    np.testing.assert_array_equal(values(one.counts()), values(other.counts()))
    changed = Simulation(city(seed=2), START, warmup=timedelta(hours=3))
    assert not np.array_equal(values(one.counts()), values(changed.counts()))


def test_a_ride_takes_a_bike_and_brings_it() -> None:
    moved, state = still()
    before = state.bikes.copy()
    moved._begin_rides(rider(state, start=3, to=5, ride=10, kind=ELECTRIC))
    assert state.bikes[ELECTRIC, 3] == before[ELECTRIC, 3] - 1
    assert state.under_way == 1
    moved.run(state.minute + 10)
    assert state.bikes[ELECTRIC, 5] == before[ELECTRIC, 5]
    moved.run(state.minute + 1)
    assert state.bikes[ELECTRIC, 5] == before[ELECTRIC, 5] + 1
    assert state.under_way == 0


def test_who_finds_no_dock_rides_to_the_neighbour() -> None:
    moved, state = still()
    near = city().stations.near[4]
    for full in near[:2]:
        state.bikes[MECHANICAL, full] += state.docks[full]
        state.docks[full] = 0
    before = state.bikes.copy()
    state.send(coming(state, to=4))
    moved.run(state.minute + 1)
    assert state.redirected == living().state.redirected + 1
    moved.run(state.minute + REDIRECT_MIN)
    assert (state.bikes == before).all(), "the first neighbour is full, too"
    moved.run(state.minute + REDIRECT_MIN)
    expected = before.copy()
    expected[MECHANICAL, near[2]] += 1
    np.testing.assert_array_equal(state.bikes, expected)


def test_of_two_who_come_to_one_dock_the_first_gets_it() -> None:
    moved, state = still()
    state.bikes[MECHANICAL, 4] += state.docks[4] - 1
    state.docks[4] = 1
    state.send(np.concatenate([coming(state, 4, ELECTRIC), coming(state, 4, MECHANICAL)], axis=1))
    electric = state.bikes[ELECTRIC, 4]
    moved.run(state.minute + 1)
    assert state.docks[4] == 0
    assert state.bikes[ELECTRIC, 4] == electric + 1
    assert state.under_way == 1


@pytest.mark.parametrize(
    ("traits", "expected"),
    [({"flexible": 1}, "other kind"), ({"walks": 1}, "neighbour"), ({}, "lost")],
    ids=["takes the other kind", "walks on", "gives up"],
)
def test_who_finds_no_bike(traits: dict[str, int], expected: str) -> None:
    moved, state = still()
    state.docks[7] += state.bikes[ELECTRIC, 7]
    state.bikes[ELECTRIC, 7] = 0
    lost, before = state.lost, state.bikes.copy()
    moved._begin_rides(rider(state, start=7, to=2, ride=30, kind=ELECTRIC, **traits))
    if expected == "other kind":
        assert state.bikes[MECHANICAL, 7] == before[MECHANICAL, 7] - 1
    elif expected == "neighbour":
        assert state.walkers[TRIES].tolist() == [1]
        moved.run(state.minute + WALK_MIN + 1)
        near = city().stations.near[7, 1]
        assert state.bikes[ELECTRIC, near] == before[ELECTRIC, near] - 1
    else:
        assert (state.lost, state.under_way) == (lost + 1, 0)
    assert state.lost == lost + (expected == "lost")


def slow_first_come(cell: list[int], room: list[int]) -> list[bool]:
    left, found = list(room), []
    for at in cell:
        found.append(left[at] > 0)
        left[at] -= 1
    return found


@given(st.data())
def test_first_come_first_served(data: st.DataObject) -> None:
    room = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    cell = data.draw(st.lists(st.integers(0, len(room) - 1), max_size=25))
    found = first_come(np.array(cell, dtype=np.int32), np.array(room, dtype=np.int32))
    assert found.tolist() == slow_first_come(cell, room)


def test_trucks_drive_mostly_at_night() -> None:
    day = range(living().state.minute // 1440 * 1440, living().state.minute // 1440 * 1440 + 1440)
    many = city(200)
    trucks = np.array([trucks_at(many, minute) for minute in day]).reshape(24, 60).max(axis=1)  # by UTC hour
    assert trucks[1] == 4
    assert trucks[10] == 1


def test_trucks_bring_bikes_where_they_are_missing() -> None:
    moved, state = still()
    full, empty = 6, 11
    state.bikes[:, full] = [city().stations.capacity[full], 0]
    state.docks[full] = 0
    state.docks[empty] = city().stations.capacity[empty]
    state.bikes[:, empty] = 0
    sure = np.random.default_rng(0)
    before = state.bikes.copy()
    drive_trucks(moved.city, state, 1, sure, 1)
    load = before[0, full] - state.bikes[0, full]
    assert 3 <= load <= 12
    assert state.under_way == load
    moved.run(state.minute + 16)
    assert state.bikes[0, empty] == load


def test_broken_docks_and_bikes_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    moved, state = still()
    state.broken_docks += state.docks
    state.docks[:] = 0
    state.broken += state.bikes
    state.bikes[:] = 0
    broken = state.broken.sum(), state.broken_docks.sum()
    monkeypatch.setattr("velib_predictor.simulation.engine.trucks_at", lambda *_: 0)
    moved.run(state.minute + 8 * 60)
    assert 0.4 * broken[0] < state.broken.sum() < 0.8 * broken[0]
    assert state.broken_docks.sum() < broken[1]
    assert whole(state, city().stations.capacity)
