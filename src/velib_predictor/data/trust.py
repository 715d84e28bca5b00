"""What turned out not to be true: spells in which the feed stood still, and values that were taken back at once.

Judged with hindsight, from the rows alone, so that history without a ledger is judged too. For fitting and
scoring; nothing that forecasts may read it. (The collector's own judgement, made as it goes on, is `checks`.)
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from velib_predictor.data.calendar import local_time
from velib_predictor.data.tidy import COUNTS

Micros = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_LONGEST = 3 * 3600.0
"""Seconds between two observations over which the rate of changes still says something."""
_LIVELY = 0.75
"""Quantile over days of an hour's rate: with hindsight even a feed that stood still on half of the days is seen."""
_ENOUGH_EVIDENCE = 30.0
"""Expected changes below which silence proves nothing: P(at most 1 | 30) is 3e-12, on a day half as lively 5e-6."""
_SILENCE = 0.05
"""Share of the expected changes up to which a spell counts as silent."""
_LEAST_S = 10 * 60.0 - 30.0
"""Seconds that a freeze lasts at least, less the jitter of polls: what is repeated for less is merely a little old."""
_STILL_MOVING = 3
"""Stations that may move in a freeze (Vélib' portal, 2024-11-01 to 03)."""
_SPIKE = 5
"""Bikes by which a value must jump, and return to the very same state, to be taken for another replica's."""
_SPIKE_S = 15 * 60.0
"""Longest time from the value before a spike to the one after it."""


def changed_rows(rows: pa.Table) -> Mask:
    """Whether each row differs in a count from its station's row before, bool[row]; the first of a station does not.

    `rows` are by station and time, in `bulk.ROWS`.
    """
    key = rows["station_key"].to_numpy()
    changed = np.zeros(len(rows), dtype=bool)
    for name in COUNTS:
        value = rows[name].fill_null(-1).to_numpy()
        changed[1:] |= value[1:] != value[:-1]
    changed[1:] &= key[1:] == key[:-1]
    return changed


def frozen_polls(times: Micros, changed: npt.NDArray[np.int64], stations: int, timezone: str) -> Mask:
    """Which observations only repeat what the feed had said before it stood still, bool[poll].

    A spell is a run of intervals in each of which hardly a station moved, and in which all together saw at most a
    twentieth of the changes that the lively quarter of days had at those local hours.

    Args:
        times: of the system's observations, ascending, microseconds since 1970, [poll].
        changed: stations whose values changed at each, [poll].
        stations: how many there are.
        timezone: IANA zone of the system.
    """
    frozen = np.zeros(len(times), dtype=bool)
    if len(times) < 2 or not stations:
        return frozen
    seconds = np.diff(times) / 1e6  # [interval]
    moved = changed[1:]
    local = local_time(times[1:].astype("datetime64[us]"), timezone)
    usable = seconds <= _LONGEST
    rate = _lively_rates(local.day, local.hour, seconds, moved, usable, stations)  # [hour]
    expected = stations * -np.expm1(-rate[local.hour] * seconds)
    quiet = usable & (moved <= np.maximum(_STILL_MOVING, _SILENCE * expected))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2):  # intervals [first, last)
        hoped, seen = expected[first:last].sum(), moved[first:last].sum()
        lasted = seconds[first:last].sum() >= _LEAST_S
        if lasted and hoped >= _ENOUGH_EVIDENCE and seen <= _SILENCE * hoped:
            frozen[first + 1 : last + 1] = True
    return frozen


def _lively_rates(
    day: npt.NDArray[np.int32],
    hour: npt.NDArray[np.int8],
    seconds: npt.NDArray[np.float64],
    moved: npt.NDArray[np.int64],
    usable: Mask,
    stations: int,
) -> npt.NDArray[np.float64]:
    """Changes a station and second on a lively day, by local hour, float64[hour]; 0 where nothing is known."""
    # A station that moves twice between two observations is seen once: the share that moved is 1 - exp(-rate * time).
    share = np.minimum(moved / stations, 0.99)
    hazard = -np.log1p(-share)
    rates = np.zeros(24)
    for which in range(24):
        here = usable & (hour == which)
        days, place = np.unique(day[here], return_inverse=True)
        if len(days):
            total = np.bincount(place, hazard[here]) / np.maximum(np.bincount(place, seconds[here]), 1.0)
            rates[which] = np.quantile(total, _LIVELY)
    return rates


def spikes(rows: pa.Table) -> Mask:
    """Rows whose station jumped and, at the next one, stood exactly as before, within a quarter of an hour, bool[row].

    Replicas of a feed lag each other by minutes, and now and then one of them answers with something else.
    `rows` are by station and time, in `bulk.ROWS`.
    """
    spike = np.zeros(len(rows), dtype=bool)
    if len(rows) < 3:
        return spike
    key, time = rows["station_key"].to_numpy(), pc.cast(rows["observed_at"], pa.int64()).to_numpy()
    same = (key[2:] == key[:-2]) & (time[2:] - time[:-2] <= _SPIKE_S * 1e6)
    for name in COUNTS:
        value = rows[name].fill_null(-1).to_numpy()
        same &= value[2:] == value[:-2]
    bikes = rows["bikes"].fill_null(-1).to_numpy().astype(np.int32)
    seen = (bikes[1:-1] >= 0) & (bikes[:-2] >= 0)
    spike[1:-1] = same & seen & (np.abs(bikes[1:-1] - bikes[:-2]) >= _SPIKE)
    return spike
