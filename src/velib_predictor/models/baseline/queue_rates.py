"""How fast bikes come and go at a station: rates by kind of day and slot of the local day, from changes between ticks.

Moves that cancel between two ticks are not seen, a station that is empty sees no departures, and history is sparse:
so rates are drawn towards coarser ones, and what is seen is turned into what a chain needs by a `Shape`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import DAY_TYPES, local_time
from velib_predictor.data.panel import BIKES, DOCKS, Panel
from velib_predictor.models.baseline.birth_death import Floats, Integers

Indices = npt.NDArray[np.int64]
UP, DOWN = 0, 1
FOLDS = 4
_REACH_MIN = 45
"""Slots up to this far apart inform each other, with triangular weights."""
_NETWORK_MOVES = 50.0
_LEVELS: tuple[tuple[tuple[int, ...], float], ...] = (((0, 1, 2), 3.0), ((1, 2), 100.0), ((1,), 10.0), ((), 10.0))
"""What a station is asked in turn, as axes that are added up, and with how many moves the answer before weighs: how
busy it is; which way it drifts in the long run (hardly); its hours; its hours on workdays and on free days."""
_LEVEL_TICKS = 3.0
_LEAST_RANGE = 5
_MOST_FACTOR = 5.0


class Shape(NamedTuple):
    """From the rates seen to the attempts of a chain; chosen on held-out days.

    Attributes:
        gross, crowding: seen moves (both ways, per tick) are multiplied by gross * (1 + crowding * moves): the more
            there are, the more of them cancel. What is added is added both ways.
        drift: multiplies the difference between the two rates.
        pull: towards the usual level: attempts up are exp(-pull * x) times, down exp(pull * x) times as many where
            the count lies x of the station's range above the usual one of the hour.
        edge: of n bikes 1 - exp(-n / edge) is as good as a full choice (the last ones are often broken), and so for
            docks; 0 where one is as good as many.
    """

    drift: float
    gross: float
    crowding: float
    pull: float
    edge: float


@dataclass(frozen=True, eq=False)
class Rates:
    """What is seen of stations, one more at the end for those that are not known: the network's.

    Attributes:
        moves: per tick up and down, while not blocked, float32[direction, day_type, slot, station].
        usual: usual count as a share of the range, float32[day_type, slot, station].
    """

    moves: Floats
    usual: Floats


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the ticks of each fold, kind of day and slot.

    Attributes:
        moves, exposure: counts up and down, and ticks in which such moves were possible,
            float32[direction, fold, day_type, slot, station].
        levels: sum of the counts, and how many they were, float32[2, fold, day_type, slot, station].
        largest: largest count of each station, float32[station].
        step_min: length of a slot.
    """

    moves: Floats
    exposure: Floats
    levels: Floats
    largest: Floats
    step_min: int

    @classmethod
    def of(cls, train: Panel, channel: int, folds: Indices) -> Self:
        """Sort what a training panel shows of a channel; `folds` is each tick's, [tick].

        A move belongs to the slot in which its interval begins.
        """
        local = local_time(train.ticks, train.timezone)
        step_min = max(train.step_s // 60, 1)
        slot = local.minute // step_min
        shape = (2, FOLDS, DAY_TYPES, -(-1440 // step_min), len(train.stations))
        moves, exposure, levels = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        other = BIKES if channel == DOCKS else DOCKS
        use = train.observed[:, :, channel] & train.trusted & train.open
        count = np.where(use, train.counts[:, :, channel], 0)
        room = ~train.observed[:, :, other] | (train.counts[:, :, other] > 0)
        for tick in np.flatnonzero(use.any(axis=1)):
            cell = folds[tick], local.day_type[tick], slot[tick]
            levels[0][cell] += count[tick]
            levels[1][cell] += use[tick]
            if tick + 1 == len(train):
                break
            both = use[tick] & use[tick + 1]
            change = np.where(both, count[tick + 1] - count[tick], 0)
            moves[UP][cell] += np.maximum(change, 0)
            moves[DOWN][cell] -= np.minimum(change, 0)
            # Blocked at one end of the interval: for half of it, as far as can be known.
            exposure[UP][cell] += both * (room[tick] * 0.5 + room[tick + 1] * 0.5)
            exposure[DOWN][cell] += both * ((count[tick] > 0) * 0.5 + (count[tick + 1] > 0) * 0.5)
        largest = np.maximum(count.max(axis=0), _LEAST_RANGE).astype(np.float32)
        return cls(moves, exposure, levels, largest, step_min)

    @property
    def ranges(self) -> Floats:
        """Ranges of all stations, and a middle one for those that are not known, float32[station + 1]."""
        return np.append(self.largest, np.median(self.largest)).astype(np.float32)

    def rates(self, without: int | None = None) -> Rates:
        """Rates from all folds but one."""
        folds = [fold for fold in range(FOLDS) if fold != without]
        moves, exposure, (total, weight) = (
            _spread(part[:, folds].sum(axis=1), self.step_min) for part in (self.moves, self.exposure, self.levels)
        )
        network = rates = _network(moves.sum(axis=-1, keepdims=True), exposure.sum(axis=-1, keepdims=True))
        for axes, prior in _LEVELS:
            seen, expected = _sum(moves, axes), _sum(exposure * rates, axes)
            rates = rates * (seen + prior) / (expected + prior)
        total = total / self.largest
        usual = np.full(1, total.sum() / max(weight.sum(), 1), dtype=np.float32)
        for axes in ((0, 1), (0,), ()):
            usual = (_sum(total, axes) + _LEVEL_TICKS * usual) / (_sum(weight, axes) + _LEVEL_TICKS)
        return Rates(_with_new(rates, network), _with_new(usual, usual.mean(axis=-1, keepdims=True)))


def attempts(moves: Floats, usual: Floats, shape: Shape) -> Floats:
    """Attempts per tick of a chain with `multipliers` of the same shape, float32[direction, ...].

    `moves` [direction, ...] and `usual` [...] are as in `Rates`.
    """
    seen = moves[UP] + moves[DOWN]
    drift = shape.drift * (moves[UP] - moves[DOWN])
    factor = np.minimum(shape.gross * (1 + shape.crowding * seen), _MOST_FACTOR)
    gross = np.maximum(factor * seen, np.abs(drift))
    up = (gross + drift) / 2 * np.exp(shape.pull * usual)
    down = (gross - drift) / 2 * np.exp(shape.pull * (1 - usual))
    return np.stack([up, down]).astype(np.float32)


def multipliers(k: Integers, ranges: Floats, pull: Any, edge: Any) -> tuple[Floats, Floats]:
    """Share of the attempts up and of those down that succeed at each count, both float32[count, chain].

    Args:
        k: greatest counts, [chain]; ranges: [chain]; pull, edge: of the shape, one number or [chain].
    """
    counts = np.arange(int(k.max()) + 1, dtype=np.float32)[:, None]  # [count, 1]
    share = np.minimum(counts / ranges, 1)
    climb = _choice(np.maximum(k - counts, 0), edge) * np.exp(-pull * share)
    fall = _choice(counts, edge) * np.exp(pull * (share - 1))
    return climb.astype(np.float32), fall.astype(np.float32)


def deal(train: Panel) -> Indices:
    """Folds of a training panel's ticks, int64[tick]: pieces of a day, or less where history is short, in turn."""
    usable = (train.observed.any(axis=2) & train.trusted).any(axis=1)
    days = len(np.unique(local_time(train.ticks[usable], train.timezone).day))
    pieces = max(2 * FOLDS, days)
    piece = (np.cumsum(usable) - usable) * pieces // max(int(usable.sum()), 1)
    return np.asarray(piece % FOLDS, dtype=np.int64)


def _choice(count: npt.NDArray[Any], edge: Any) -> npt.NDArray[Any]:
    return np.asarray(-np.expm1(-count / np.maximum(np.asarray(edge, dtype=np.float32), np.float32(0.01))))


def _network(moves: Floats, exposure: Floats) -> Floats:
    """Moves per tick of all stations together, float32[direction, day_type, slot, 1]; hours never seen are average."""
    rates: Floats = moves.sum(axis=(1, 2), keepdims=True) / np.maximum(exposure.sum(axis=(1, 2), keepdims=True), 1)
    for axes in ((1,), ()):
        rates = rates * (_sum(moves, axes) + _NETWORK_MOVES) / (_sum(exposure, axes) * rates + _NETWORK_MOVES)
    return rates


def _sum(values: Floats, axes: Sequence[int]) -> Floats:
    summed: Floats = values.sum(axis=tuple(axes), keepdims=True) if axes else values
    return summed


def _spread(values: Floats, step_min: int) -> Floats:
    """Neighbouring slots added with triangular weights, around the clock; float32[..., day_type, slot, station]."""
    reach = min(_REACH_MIN // step_min, (values.shape[-2] - 1) // 2)
    spread: Floats = values.copy()
    for shift in range(1, reach + 1):
        weight = np.float32(1 - shift / (reach + 1))
        spread += weight * (np.roll(values, shift, axis=-2) + np.roll(values, -shift, axis=-2))
    return spread


def _with_new(values: Floats, new: Floats) -> Floats:
    """The stations' values and, at the end of the last axis, those of a new one."""
    shape = (*values.shape[:-1], 1)
    return np.concatenate([values, np.broadcast_to(new, shape)], axis=-1).astype(np.float32)
