"""Forecasts that know the true rates: many futures drawn from them, from what the feed shows now or from all there is.

Both know the rates, the weather to come, and how riders, trucks and repairs behave. `truth` sees of the present what
the feed shows: no forecaster from the counts of one moment can be better in the mean, but for what is approximated
here and for the chance of finitely many draws. `oracle` also sees what is hidden (who is under way, what is broken):
no forecaster at all can be better. One that has seen the feed's past may come to lie between the two.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from velib_predictor.simulation.city import City
from velib_predictor.simulation.demand import FIELDS, FROM, KIND, MINUTE, RIDE, RIDE_FIELDS
from velib_predictor.simulation.engine import Engine
from velib_predictor.simulation.layout import Ints
from velib_predictor.simulation.simulation import MINUTE_US, Simulation
from velib_predictor.simulation.state import ELECTRIC, MECHANICAL, State
from velib_predictor.simulation.upkeep import DRIVE_MIN, drive_trucks, trucks_at
from velib_predictor.utils.temporal import to_micros

Random = np.random.Generator
Probabilities = npt.NDArray[np.float32]

TARGETS = ("bikes", "mechanical", "ebikes", "docks")
_UNDER_WAY_MIN = 75  # nobody rides longer
_BROKEN_BIKE = 0.4  # of the docks that are missing; what the rates of breaking and repairing lead to
_TURNED_AWAY = 0.5  # of those who wanted a bike where there is none now, soon before; less so the longer ago
_FORGOTTEN_MIN = 45.0
_POOLED_MIN = 1  # minutes before and after a horizon that count as it
_PRIOR_DRAWS = 24.0  # weight of the smoothed shape


def truth(
    city: City,
    at: datetime,
    mechanical: npt.ArrayLike,
    ebikes: npt.ArrayLike,
    docks: npt.ArrayLike,
    horizons: Sequence[timedelta],
    draws: int = 256,
    *,
    seed: int = 0,
) -> Probabilities:
    """The probability of each count, float32[station, horizon, target, count], with counts 0..the largest capacity.

    Who is under way is drawn from the rates of the last hour, trucks load and drive as they would choose now, and it
    is drawn whether a missing dock is broken or holds a broken bike.

    Nothing is likely beyond a station's own capacity. Few draws leave holes in a histogram, so the minute before and
    after a horizon count as well, and a smoothed shape (a kernel as wide as Silverman 1986 says, reflected at 0)
    weighs as much as `_PRIOR_DRAWS` draws.

    Args:
        at: the origin, aware; its seconds are ignored.
        mechanical, ebikes, docks: what the feed shows there, int[station].
        horizons: whole minutes.
        draws: futures.
    """
    minute = to_micros(at) // MINUTE_US
    random = np.random.default_rng([city.config.seed, seed, minute])
    state = _drawn(city, minute, np.array([mechanical, ebikes], dtype=np.int32), np.asarray(docks), draws, random)
    return _futures(city, state, horizons, draws, random)


def oracle(simulation: Simulation, horizons: Sequence[timedelta], draws: int = 256, *, seed: int = 0) -> Probabilities:
    """As `truth`, from all that there is now; the simulation stays where it is."""
    state = simulation.state
    random = np.random.default_rng([simulation.city.config.seed, seed, state.minute])
    return _futures(simulation.city, state.copies(draws), horizons, draws, random)


def _futures(city: City, state: State, horizons: Sequence[timedelta], draws: int, random: Random) -> Probabilities:
    """Distributions of the counts to come, float32[station, horizon, target, count], from copies of a state."""
    minute = state.minute
    engine = Engine(city, state, lambda _stream, _index: random, draws, since=minute)
    size = int(city.stations.capacity.max()) + 1
    found = np.zeros((len(city), len(horizons), len(TARGETS), size), dtype=np.float32)
    ahead = [horizon // timedelta(minutes=1) for horizon in horizons]
    for step in sorted({h + near for h in ahead for near in range(-_POOLED_MIN, _POOLED_MIN + 1)}):
        engine.run(minute + max(step, 0))
        shape = _histogram(state, draws, size)
        for index, horizon in enumerate(ahead):
            if abs(step - horizon) <= _POOLED_MIN:
                found[:, index] += shape / (2 * _POOLED_MIN + 1)
    return _smoothed(found, city.stations.capacity, draws)


def _drawn(city: City, minute: int, bikes: Ints, docks: Ints, draws: int, random: Random) -> State:
    """Copies of the city that all show the same and differ in what is not shown; bikes int32[kind, station]."""
    missing = np.tile(np.maximum(city.stations.capacity - bikes.sum(axis=0) - docks, 0), draws)
    broken = random.binomial(missing, _BROKEN_BIKE).astype(np.int32)
    electric = random.binomial(broken, city.config.ebikes).astype(np.int32)
    state = State(
        minute=minute,
        bikes=np.tile(bikes, draws),
        broken=np.stack([broken - electric, electric]),
        docks=np.tile(docks, draws).astype(np.int32),
        broken_docks=(missing - broken).astype(np.int32),
        rides={},
        walkers=np.zeros((FIELDS, 0), dtype=np.int32),
    )
    state.send(_under_way(city, minute, bikes, draws, random))
    for loaded in range(minute - DRIVE_MIN, minute):
        if trucks := trucks_at(city, loaded):
            state.minute = loaded
            drive_trucks(city, state, trucks, random, draws, loaded=True)
    state.minute = minute
    return state


def _under_way(city: City, minute: int, bikes: Ints, draws: int, random: Random) -> Ints:
    """Rides that have begun and not ended, int32[field, ride]."""
    riders, _ = city.demand.riders(minute - _UNDER_WAY_MIN, minute, draws, random)
    arrival = riders[MINUTE] + np.maximum(riders[RIDE], 1)
    riders, arrival = riders[:, arrival >= minute], arrival[arrival >= minute]
    empty = (bikes.sum(axis=0) == 0)[riders[FROM] % len(city)]
    ago = minute - riders[MINUTE]
    served = random.random(len(ago)) >= empty * _TURNED_AWAY * np.exp(-ago / _FORGOTTEN_MIN)
    rides = riders[:RIDE_FIELDS, served]
    rides[MINUTE] = arrival[served]
    # Who found no bike of the preferred kind took the other one.
    station = riders[FROM, served] % len(city)
    none, other = bikes[rides[KIND], station] == 0, bikes[1 - rides[KIND], station] > 0
    rides[KIND] ^= none & other & (random.random(len(station)) < np.exp(-ago[served] / _FORGOTTEN_MIN))
    return rides


def _histogram(state: State, draws: int, size: int) -> Probabilities:
    """How often each count is among the draws, float32[station, target, count]."""
    mechanical, electric = state.bikes[MECHANICAL], state.bikes[ELECTRIC]
    stations = len(state.docks) // draws
    station = np.tile(np.arange(stations), draws) * size
    shapes = [
        np.bincount(station + counts, minlength=stations * size).reshape(stations, size)
        for counts in (mechanical + electric, mechanical, electric, state.docks)
    ]
    return (np.stack(shapes, axis=1) / draws).astype(np.float32)


def _smoothed(found: Probabilities, capacity: Ints, draws: int) -> Probabilities:
    """Histograms without holes, float32[station, horizon, target, count], of histograms of the same shape."""
    size = found.shape[-1]
    count = np.arange(size, dtype=np.float32)
    mean = found @ count
    spread = np.sqrt(np.maximum(found @ count**2 - mean**2, 0)) + 0.3  # [station, horizon, target]
    width = np.maximum(1.06 * draws**-0.2 * spread, 0.35)[..., None]
    reach = min(int(np.ceil(4 * width.max())), size - 1)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / width) ** 2).astype(np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    wide = np.zeros((*found.shape[:-1], size + 2 * reach), dtype=np.float32)  # from -reach on
    for index in range(len(offsets)):
        wide[..., index : index + size] += found * weights[..., index, None]
    kernel = wide[..., reach : reach + size]
    kernel[..., 1 : reach + 1] += wide[..., reach - 1 :: -1][..., :reach]
    within = count <= capacity[:, None, None, None]
    kernel *= within
    kernel /= kernel.sum(axis=-1, keepdims=True)
    return np.asarray((found * draws + kernel * _PRIOR_DRAWS) / (draws + _PRIOR_DRAWS), dtype=np.float32)
