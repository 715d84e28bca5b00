"""Each station a queue: bikes come and go at rates of the time of day, blocked when there is no room or no bike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import DAY_TYPES, LocalTime, local_time
from velib_predictor.data.panel import BIKES, DOCKS, Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster
from velib_predictor.models.baseline.birth_death import propagate

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
FOLDS = 4
_PIECES = 8
_REACH_MIN = 60
_PRIOR_STATION = 10.0
_PRIOR_SLOT = 10.0
_PRIOR_TYPE = 10.0
UP, DOWN = 0, 1
ROWS = 3000
MOST = 5.0


class Shape(NamedTuple):
    drift: float = 1.0
    linear: float = 1.5
    square: float = 0.0


@dataclass(frozen=True, eq=False)
class Tally:
    """Moves and exposure, float32[direction, fold, day_type, slot, station]."""

    moves: Floats
    exposure: Floats
    step_min: int

    @classmethod
    def of(cls, train: Panel, channel: int, folds: Indices) -> Self:
        local = local_time(train.ticks, train.timezone)
        step_min = max(train.step_s // 60, 1)
        slot = local.minute // step_min
        shape = (2, FOLDS, DAY_TYPES, -(-1440 // step_min), len(train.stations))
        moves, exposure = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        other = BIKES if channel == DOCKS else DOCKS
        use = train.observed[:, :, channel] & train.trusted & train.open
        count = train.counts[:, :, channel]
        room = (~train.observed[:, :, other] | (train.counts[:, :, other] > 0)).astype(np.float32)
        stock = (count > 0).astype(np.float32)
        for tick in range(len(train) - 1):
            both = use[tick] & use[tick + 1]
            if not both.any():
                continue
            place = folds[tick], local.day_type[tick], slot[tick]
            change = np.where(both, count[tick + 1] - count[tick], 0)
            moves[UP][place] += np.maximum(change, 0)
            moves[DOWN][place] -= np.minimum(change, 0)
            exposure[UP][place] += both * (room[tick] + room[tick + 1]) / 2
            exposure[DOWN][place] += both * (stock[tick] + stock[tick + 1]) / 2
        return cls(moves, exposure, step_min)

    def rates(self, without: int = -1) -> Floats:
        """Moves per tick, float32[direction, day_type, slot, station + 1]; last: the network's."""
        folds = [fold for fold in range(FOLDS) if fold != without]
        moves, exposure = (_spread(part[:, folds].sum(axis=1), self.step_min) for part in (self.moves, self.exposure))
        network = _network(moves.sum(axis=-1, keepdims=True), exposure.sum(axis=-1, keepdims=True))
        rates = network  # [direction, day_type, slot, station]
        for axis, prior in (((1, 2), _PRIOR_STATION), ((1,), _PRIOR_SLOT), ((), _PRIOR_TYPE)):
            expected = exposure * rates
            seen = moves.sum(axis=axis, keepdims=True) if axis else moves
            hoped = expected.sum(axis=axis, keepdims=True) if axis else expected
            rates = rates * (seen + prior) / (hoped + prior)
        return np.concatenate([rates, np.broadcast_to(network, (*rates.shape[:-1], 1))], axis=-1).astype(np.float32)


def _network(moves: Floats, exposure: Floats) -> Floats:
    mean = moves.sum(axis=(1, 2), keepdims=True) / np.maximum(exposure.sum(axis=(1, 2), keepdims=True), 1e-3)
    both = moves.sum(axis=1, keepdims=True), exposure.sum(axis=1, keepdims=True)
    prior = 50.0
    slot = mean * (both[0] + prior) / (both[1] * mean + prior)
    return slot * (moves + prior) / (exposure * slot + prior)


def _spread(values: Floats, step_min: int) -> Floats:
    """Neighbouring slots added with triangular weights, around the clock, along the slot axis."""
    reach = min(_REACH_MIN // step_min, values.shape[2] // 2 - 1)
    spread = values.copy()
    for shift in range(1, reach + 1):
        weight = np.float32(1 - shift / (reach + 1))
        spread += weight * (np.roll(values, shift, axis=2) + np.roll(values, -shift, axis=2))
    return spread


def shaped(rates: Floats, shape: Shape) -> Floats:
    """Gross rates from seen ones, float32[direction, ...]."""
    seen = rates[UP] + rates[DOWN]
    drift = shape.drift * (rates[UP] - rates[DOWN])
    factor = np.minimum(shape.linear * (1 + shape.square * seen), MOST)
    gross = np.maximum(factor * seen, np.abs(drift))
    return np.stack([(gross + drift) / 2, (gross - drift) / 2])


def folds_of(train: Panel) -> Indices:
    local = local_time(train.ticks, train.timezone)
    usable = (train.observed.any(axis=2) & train.trusted).any(axis=1)
    pieces = max(_PIECES, len(np.unique(local.day[usable])))
    piece = (np.cumsum(usable) - usable) * pieces // max(int(usable.sum()), 1)
    return (piece % FOLDS).astype(np.int64)


class Queueing(Forecaster):
    name = "queueing"

    def __init__(self, spec: ForecastSpec) -> None:
        super().__init__(spec)
        self.rates: Floats = np.zeros((2, DAY_TYPES, 0, 0, 0), dtype=np.float32)

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        folds = folds_of(train)
        found, rows, shapes = [], 0, {}
        for target, channel in zip(self.spec.targets, self.spec.channels, strict=True):
            tally = Tally.of(train, channel, folds)
            shape = self._choose(train, channel, tally, folds)
            shapes[target] = shape._asdict()
            found.append(shaped(tally.rates(), shape))
            rows += int((tally.exposure.max(axis=0)).sum())
        self.rates = np.stack(found, axis=-1)  # [direction, day_type, slot, station, target]
        return rows, {"rows": "changes between neighbouring ticks", "shapes": shapes}

    def _choose(self, train: Panel, channel: int, tally: Tally, folds: Indices) -> Shape:
        rng = np.random.default_rng(20240611)
        ahead = [h for h in self.spec.horizon_ticks if h * train.step_s <= 6 * 3600] or [self.spec.horizon_ticks[0]]
        use = train.observed[:, :, channel] & train.open
        tick, station = np.nonzero(use[: -ahead[-1]] & train.trusted[: -ahead[-1]])
        inside = folds[tick] == folds[tick + ahead[-1]]
        tick, station = tick[inside], station[inside]
        if not len(tick):
            return Shape()
        chosen = rng.choice(len(tick), min(ROWS, len(tick)), replace=False)
        tick, station = tick[chosen], station[chosen]
        k = np.maximum(self.greatest_of(train), 1)[station]
        now = np.minimum(train.counts[tick, station, channel], k)
        truth = np.stack([np.minimum(train.counts[tick + h, station, channel], k) for h in ahead])
        scored = np.stack([(use & train.trusted)[tick + h, station] for h in ahead])
        local = local_time(train.ticks, train.timezone)
        by_fold = np.stack([tally.rates(fold) for fold in range(FOLDS)])  # [fold, direction, day_type, slot, station]
        future = tick + np.arange(ahead[-1])[:, None]
        seen = np.moveaxis(
            by_fold[folds[tick], :, local.day_type[future], local.minute[future] // tally.step_min, station], -1, 0
        )

        def score(shape: Shape) -> Floats:
            up, down = shaped(seen, shape)
            cdf = np.cumsum(propagate(now, k, up, down, ahead), axis=1)  # [horizon, count, row]
            miss = np.square(cdf - (truth[:, None] <= np.arange(cdf.shape[1])[:, None])).sum(axis=1)
            return (miss * scored).sum(axis=1) / scored.sum(axis=1)

        best = Shape()
        reference = lowest = score(best)
        for _ in range(2):
            for name, values in (
                ("linear", (0.7, 1, 1.25, 1.5, 1.75, 2, 2.5, 3)),
                ("square", (0, 0.05, 0.1, 0.2, 0.4)),
                ("drift", (0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)),
            ):
                for value in values:
                    tried = best._replace(**{name: value})
                    if tried == best:
                        continue
                    got = score(tried)
                    if (got / reference).mean() < (lowest / reference).mean():
                        best, lowest = tried, got
        self.cv = lowest
        return best

    def greatest_of(self, train: Panel) -> npt.NDArray[np.int16]:
        return np.maximum(self.largest, train.capacity.max(axis=0))

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        now, known = self.now(seen, k)
        ahead = self.spec.horizon_ticks
        local = local_time(seen.ticks[-1] + np.arange(ahead[-1]) * np.timedelta64(seen.step_s, "s"), seen.timezone)
        rates = self.rates[:, local.day_type, local.minute // max(seen.step_s // 60, 1)][:, :, self.places(seen)]
        up, down = rates.reshape(2, ahead[-1], -1)  # [interval, station x target]
        chains = propagate(now.reshape(-1), np.repeat(k, now.shape[1]), up, down, ahead)
        pmf = chains.reshape(*chains.shape[:2], *now.shape).transpose(2, 0, 3, 1)  # [station, horizon, target, count]
        return self.block(seen, pmf, k, known)

    def _state(self, folder: Path) -> Arrays:  # noqa: ARG002
        return {"rates": self.rates}

    def _restore(self, arrays: Arrays, folder: Path) -> None:  # noqa: ARG002
        self.rates = arrays["rates"]
