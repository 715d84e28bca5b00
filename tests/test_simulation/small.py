"""A small city for tests, and what several tests look at."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import numpy.typing as npt

from velib_predictor.simulation.city import City, CityConfig
from velib_predictor.simulation.engine import Engine
from velib_predictor.simulation.simulation import Counts, Simulation
from velib_predictor.simulation.state import State

START = datetime(2026, 10, 6, 5, tzinfo=UTC)  # a Tuesday, 7:00 in Paris
MINUTE = timedelta(minutes=1)
Values = npt.NDArray[np.int32]


@cache
def city(stations: int = 30, seed: int = 1, riders: float = 80.0) -> City:
    """A city never changes, so tests share it."""
    return City.make(CityConfig(stations=stations, seed=seed, riders_a_station=riders))


@cache
def _begun() -> Simulation:
    return Simulation(city(), START)


def living() -> Simulation:
    """The city of 30 stations, at `START`."""
    return _begun().copy()


def values(counts: Counts) -> Values:
    """Bikes, mechanical, e-bikes and docks, int32[station, target]."""
    return np.stack([counts.bikes, counts.mechanical, counts.ebikes, counts.docks], axis=1)


def engine(of: City, state: State, seed: int = 0, draws: int = 1) -> Engine:
    """An engine with a randomness of its own."""
    random = np.random.default_rng(seed)
    return Engine(of, state, lambda _stream, _index: random, draws)


def tiled(state: State, draws: int) -> State:
    """Copies of a city that know who is under way."""
    twin = state.copy()
    for name in ("bikes", "broken", "docks", "broken_docks"):
        setattr(twin, name, np.tile(getattr(state, name), draws))
    stations = len(state.docks)
    twin.rides = {
        minute: [_moved(piece, draw * stations) for draw in range(draws) for piece in pieces]
        for minute, pieces in state.rides.items()
    }
    twin.walkers = np.concatenate([_moved(state.walkers, draw * stations) for draw in range(draws)], axis=1)
    return twin


def _moved(riders: Values, offset: int) -> Values:
    from velib_predictor.simulation.demand import FROM, TO

    moved = riders.copy()
    moved[TO] += offset
    if len(moved) > FROM:
        moved[FROM] += offset
    return moved
