"""A city that lives: advanced to any time, copied, and observed as its feed shows it."""

from datetime import datetime, timedelta
from typing import NamedTuple, Self

import numpy as np

from velib_predictor.simulation.city import City
from velib_predictor.simulation.demand import FIELDS
from velib_predictor.simulation.engine import Engine
from velib_predictor.simulation.layout import Ints
from velib_predictor.simulation.state import ELECTRIC, MECHANICAL, State
from velib_predictor.utils.temporal import from_micros, to_micros

MINUTE_US = 60_000_000
WARMUP = timedelta(days=1)
_START = 9


class Counts(NamedTuple):
    """What a feed can show of the stations, each int32[station]."""

    mechanical: Ints
    ebikes: Ints
    docks: Ints
    bikes_disabled: Ints
    docks_disabled: Ints

    @property
    def bikes(self) -> Ints:
        """Of both kinds."""
        return self.mechanical + self.ebikes


class Simulation:
    """One city from a start on, at steps of a minute. What happens does not depend on how often it is advanced.

    Args:
        start: aware; the first minute that can be observed.
        warmup: how long before it the city begins to live, so that its bikes are where they usually are.
    """

    def __init__(self, city: City, start: datetime, *, warmup: timedelta = WARMUP) -> None:
        first = to_micros(start) // MINUTE_US
        begun = (first - warmup // timedelta(minutes=1)) // 60 * 60
        self._resume(city, _initial(city, begun))
        self._engine.run(first)

    @classmethod
    def resumed(cls, city: City, state: State) -> Self:
        """A city that goes on from a state of its own: the same way as the one that the state was taken from."""
        simulation = cls.__new__(cls)
        simulation._resume(city, state)
        return simulation

    def _resume(self, city: City, state: State) -> None:
        self.city = city
        seed = city.config.seed
        self._engine = Engine(city, state, lambda stream, index: np.random.default_rng([seed, stream, index]))

    @property
    def state(self) -> State:
        """All that moves, with one cell a station."""
        return self._engine.state

    @property
    def now(self) -> datetime:
        """The beginning of the minute that comes next (UTC)."""
        return from_micros(self.state.minute * MINUTE_US)

    def advance(self, until: datetime) -> None:
        """Live on to the last full minute at or before `until`; nothing happens where that is past."""
        self._engine.run(to_micros(until) // MINUTE_US)

    def counts(self) -> Counts:
        """The stations now; copies."""
        state = self.state
        return Counts(
            state.bikes[MECHANICAL].copy(),
            state.bikes[ELECTRIC].copy(),
            state.docks.copy(),
            state.broken.sum(axis=0, dtype=np.int32),
            state.broken_docks.copy(),
        )

    def copy(self) -> Self:
        """The same city at the same moment, which can go on by itself: it goes the same way."""
        twin = type(self).__new__(type(self))
        twin.city = self.city
        twin._engine = self._engine.copy()
        return twin


def _initial(city: City, minute: int) -> State:
    """All bikes in docks, by the trucks' target and at random."""
    random = np.random.default_rng([city.config.seed, _START])
    capacity = city.stations.capacity
    wish = city.target * random.lognormal(0.0, 0.5, len(city))
    total = np.minimum(wish * city.fleet / wish.sum(), 0.95 * capacity).astype(np.int32)
    free = capacity - total
    while (short := city.fleet - int(total.sum())) > 0:
        room = np.flatnonzero(free > 0)
        lucky = random.choice(room, min(short, len(room)), replace=False)
        total[lucky] += 1
        free[lucky] -= 1
    electric = random.binomial(total, city.config.ebikes).astype(np.int32)
    return State(
        minute=minute,
        bikes=np.stack([total - electric, electric]),
        broken=np.zeros((2, len(city)), dtype=np.int32),
        docks=free.astype(np.int32),
        broken_docks=np.zeros(len(city), dtype=np.int32),
        rides={},
        walkers=np.zeros((FIELDS, 0), dtype=np.int32),
    )
