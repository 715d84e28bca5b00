"""What the operator does: bikes and docks are repaired (and docks break), and trucks carry bikes, mostly at night."""

import numpy as np

from velib_predictor.simulation.city import City
from velib_predictor.simulation.demand import KIND, MINUTE, RIDE_FIELDS, TO, Ints
from velib_predictor.simulation.state import State

REPAIRED_AN_HOUR = 0.06  # of the broken bikes and docks, by day
DOCK_BREAKS_AN_HOUR = 0.0008  # of the free docks
DOCK_REPAIRED_AN_HOUR = 0.04
RUN_MIN, DRIVE_MIN = 20, 15
LOAD, LEAST_LOAD = 12, 3
_NIGHT = (22 * 60, 6 * 60)
_DAY_SHARE = 0.25
_WHIM = 1.5  # bikes; drivers do not always go where the most are missing


def repair(city: City, state: State, random: np.random.Generator) -> None:
    """One hour's breaking and repairing of what stands at stations."""
    _, local = city.demand.local(np.array([state.minute]))
    by_day = 7 * 60 <= local[0] < 21 * 60
    breaks = random.binomial(state.docks, DOCK_BREAKS_AN_HOUR).astype(np.int32)
    state.docks -= breaks
    state.broken_docks += breaks
    if by_day:
        bikes = random.binomial(state.broken, REPAIRED_AN_HOUR).astype(np.int32)
        state.broken -= bikes
        state.bikes += bikes
        docks = random.binomial(state.broken_docks, DOCK_REPAIRED_AN_HOUR).astype(np.int32)
        state.broken_docks -= docks
        state.docks += docks


def trucks_at(city: City, minute: int) -> int:
    """How many trucks load at this minute."""
    if minute % RUN_MIN:
        return 0
    _, local = city.demand.local(np.array([minute]))
    fleet = -(-len(city) // city.config.stations_a_truck)
    night = local[0] >= _NIGHT[0] or local[0] < _NIGHT[1]
    return fleet if night else round(fleet * _DAY_SHARE)


def drive_trucks(
    city: City, state: State, trucks: int, random: np.random.Generator, draws: int, *, loaded: bool = False
) -> None:
    """Load trucks where the most bikes are too many; they come where the most are missing, after `DRIVE_MIN`.

    With `loaded` they have loaded and left `state.minute - DRIVE_MIN + 1` to `state.minute` ago, and only come.
    """
    stations = len(city)
    missing = city.target - state.bikes.sum(axis=0).reshape(draws, stations)  # [draw, station]
    wish = missing + _WHIM * random.standard_normal(missing.shape, dtype=np.float32)
    trucks = min(trucks, stations // 2)
    order = np.argpartition(wish, (trucks - 1, stations - trucks), axis=1)
    fullest, emptiest = order[:, :trucks], order[:, stations - trucks :]
    offset = stations * np.arange(draws)[:, None]
    start, end = (offset + fullest).reshape(-1), (offset + emptiest).reshape(-1)  # [draw and truck]
    spare, lack = -missing.reshape(-1)[start], missing.reshape(-1)[end]
    load = np.minimum(np.minimum(spare, lack), LOAD).astype(np.int32)
    load[load < LEAST_LOAD] = 0
    load = np.minimum(load, state.bikes[:, start].sum(axis=0))
    total = np.maximum(state.bikes[:, start].sum(axis=0), 1)
    electric = np.minimum((load * state.bikes[1, start] + total // 2) // total, state.bikes[1, start])
    mechanical = load - electric
    if not loaded:
        # A station is no two trucks' start: plain indexing counts each once.
        state.bikes[0, start] -= mechanical
        state.bikes[1, start] -= electric
        state.docks[start] += load
    for kind, count in enumerate((mechanical, electric)):
        state.send(_rides(end, count, kind, state.minute))


def _rides(end: Ints, count: Ints, kind: int, minute: int) -> Ints:
    rides = np.zeros((RIDE_FIELDS, int(count.sum())), dtype=np.int32)
    rides[TO] = np.repeat(end, count)
    rides[KIND] = kind
    rides[MINUTE] = minute + DRIVE_MIN
    return rides
