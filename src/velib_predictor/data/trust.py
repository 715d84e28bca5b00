"""What turned out not to be true: spells in which the feed stood still, and values that were taken back at once.

Judged with hindsight, from the rows alone, so that history without a ledger is judged too. For fitting and
scoring; nothing that forecasts may read it. (The collector's own judgement, made as it goes on, is `checks`.)
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from velib_predictor.data.calendar import LocalTime, local_time
from velib_predictor.data.panel import CHANNELS

Micros = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_LONGEST = 3 * 3600.0
"""Seconds between two observations over which the rate of changes still says something."""
_LIVELY, _USUAL = 0.75, 0.5
"""Quantiles over days of an hour's rate. By day the lively days count: with hindsight even a feed that stood still on
half of the days is seen. At night the usual ones: many networks close on all nights but those of the weekend."""
_DAY_HOURS = range(9, 20)
"""Local hours in which a network does not rest."""
_ENOUGH_EVIDENCE = 30.0
"""Expected changes below which silence proves nothing: P(at most 1 | 30) is 3e-12, on a day half as lively 5e-6."""
_SILENCE = 0.05
"""Share of the expected changes up to which a spell counts as silent."""
_LEAST_S = 10 * 60.0 - 30.0
"""Seconds that a freeze lasts at least, less the jitter of polls: what is repeated for less is merely a little old."""
_STILL_MOVING = 3
"""Stations that may move in a freeze (Vélib' portal, 2024-11-01 to 03)."""
_AROUND_S = 2 * 3600.0
"""How long before and after a spell tells how lively that day was: storms empty the streets (seen 2023-01-04)."""
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
    for name in CHANNELS:
        value = rows[name].fill_null(-1).to_numpy()
        changed[1:] |= value[1:] != value[:-1]
    changed[1:] &= key[1:] == key[:-1]
    return changed


def frozen_polls(
    times: Micros, changed: npt.NDArray[np.int64], stations: int, timezone: str, called: Mask | None = None
) -> Mask:
    """Which observations only repeat what the feed had said before it stood still, bool[poll].

    A spell is a run of intervals in each of which hardly a station moved, and in which all together saw at most a
    twentieth of the changes to expect at those local hours of that day. It begins with the first repetition; after a
    gap in the observations, or at their start, already with what is repeated, since nobody saw how old that is.

    Args:
        times: of the system's observations, ascending, microseconds since 1970, [poll].
        changed: stations whose values changed at each, [poll].
        stations: how many there are.
        timezone: IANA zone of the system.
        called: observations that the collector called frozen as it went on. It needed minutes to be sure: the run of
            quiet intervals that one of them lies in is a spell from its beginning.
    """
    called = np.zeros(len(times), dtype=bool) if called is None else called
    frozen = called.copy()
    if len(times) < 2 or not stations:
        return frozen
    seconds = np.diff(times) / 1e6  # [interval]
    moved, doubted = changed[1:], called[1:]
    local = local_time(times[1:].astype("datetime64[us]"), timezone)
    usable = seconds <= _LONGEST
    rate = _rates(local, seconds, moved, usable & ~doubted, stations)  # [hour]
    expected = stations * -np.expm1(-rate[local.hour] * seconds)
    quiet = (usable & (moved <= np.maximum(_STILL_MOVING, _SILENCE * expected))) | doubted
    first, last = (
        np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2).T
    )  # intervals [first, last)
    lasted, hoped, seen = (_sums(values, first, last) for values in (seconds, expected, moved))
    silent = (lasted >= _LEAST_S) & (hoped >= _ENOUGH_EVIDENCE) & (seen <= _SILENCE * hoped)
    known = _sums(doubted, first, last) > 0
    suspect = np.flatnonzero(silent | known)  # [run]
    first, last = first[suspect], last[suspect]
    hoped, seen = hoped[suspect] * _pace(times, expected, moved, usable, first, last), seen[suspect]
    sure = known[suspect] | ((hoped >= _ENOUGH_EVIDENCE) & (seen <= _SILENCE * hoped))
    gap = np.append(np.inf, seconds)  # before each poll
    for start, end in zip(first[sure], last[sure], strict=True):
        unseen = gap[start] > max(_LEAST_S, 2 * seconds[start])
        frozen[start + (not unseen) : end + 1] = True
    return frozen


def _rates(
    local: LocalTime, seconds: npt.NDArray[np.float64], moved: npt.NDArray[np.int64], usable: Mask, stations: int
) -> npt.NDArray[np.float64]:
    """Changes a station and second to expect by local hour, float64[hour]; 0 where nothing is known.

    An hour of the night beside a quieter one is taken to be as quiet: networks close at half past.
    """
    # A station that moves twice between two observations is seen once: the share that moved is 1 - exp(-rate * time).
    hazard = -np.log1p(-np.minimum(moved / stations, 0.99))
    rates = np.full(24, np.nan)
    for hour in range(24):
        here = usable & (local.hour == hour)
        days, place = np.unique(local.day[here], return_inverse=True)
        if len(days):
            each = np.bincount(place, hazard[here]) / np.maximum(np.bincount(place, seconds[here]), 1.0)  # [day]
            rates[hour] = np.quantile(each, _LIVELY if hour in _DAY_HOURS else _USUAL)
    quieter = np.fmin(np.fmin(np.roll(rates, 1), np.roll(rates, -1)), rates)
    by_day = np.isin(np.arange(24), _DAY_HOURS)
    return np.nan_to_num(np.where(by_day | np.isnan(rates), rates, quieter))


def _pace(
    times: Micros,
    expected: npt.NDArray[np.float64],
    moved: npt.NDArray[np.int64],
    usable: Mask,
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """How lively the hours around each run of intervals [first, last) were, without all runs, float64[run].

    1 is as lively as expected or more, or not known.
    """
    beside = usable.copy()
    for start, end in zip(first, last, strict=True):
        beside[start:end] = False
    low = np.searchsorted(times[:-1], times[first] - _AROUND_S * 1e6)
    high = np.searchsorted(times[1:], times[last] + _AROUND_S * 1e6, side="right")
    hoped, seen = (_sums(np.where(beside, values, 0), low, high) for values in (expected, moved))
    enough = hoped >= _ENOUGH_EVIDENCE
    return np.where(enough, np.minimum(seen / np.where(enough, hoped, 1.0), 1.0), 1.0)


def _sums(
    values: npt.NDArray[Any], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Of each run [first, last) the sum of its values, float64[run]."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    sums: npt.NDArray[np.float64] = total[last] - total[first]
    return sums


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
    for name in CHANNELS:
        value = rows[name].fill_null(-1).to_numpy()
        same &= value[2:] == value[:-2]
    bikes = rows["bikes"].fill_null(-1).to_numpy().astype(np.int32)
    seen = (bikes[1:-1] >= 0) & (bikes[:-2] >= 0)
    spike[1:-1] = same & seen & (np.abs(bikes[1:-1] - bikes[:-2]) >= _SPIKE)
    return spike
