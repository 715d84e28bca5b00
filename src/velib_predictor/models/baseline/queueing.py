"""Each station a queue: bikes come and go at rates of the time of day, blocked where there is no room or no bike."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.config.models import ModelSettings
from velib_predictor.data.calendar import DAY_TYPES, local_time
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster
from velib_predictor.models.baseline.birth_death import Floats, propagate
from velib_predictor.models.baseline.queue_rates import Indices, Shape, Tally, attempts, deal, multipliers

ROWS = 3_000
"""Held-out forecasts on which a target's shape is chosen."""
_TUNED_S = 6 * 3600
"""Longest horizon among them."""
_LEAST_TUNED_DAYS = 3.0
_DEFAULT = Shape(drift=0.8, gross=1.5, crowding=0.1, pull=0.3, edge=1.0)
"""For shorter history: it cannot tell chance from shape (measured on a day of Vélib', 4 November 2024)."""
_GRID: dict[str, tuple[float, ...]] = {
    "gross": (1.0, 1.5, 2.0, 2.5, 3.0),
    "crowding": (0.0, 0.1, 0.2, 0.4),
    "pull": (0.0, 0.3, 0.6),
    "edge": (0.0, 1.0),
    "drift": (0.6, 0.8, 0.9, 1.0, 1.1),
}
"""Searched one after the other, twice."""


class Queueing(Forecaster):
    """M_t/M_t/1/K queues: a birth-death chain for each station and target, forecast exactly, with its atoms at 0 and K.

    Gast, Massonnet, Reijsbergen and Tribastone, "Probabilistic forecasts of bike-sharing systems for journey
    planning", CIKM 2015. Beyond them: rates drawn towards the network's, moves that cancel between ticks, and a
    pull towards the hour's usual level. Nothing depends on the day but its kind, nor on any other station.
    """

    name = "queueing"

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
        # One station more than there were: what is taken for those not known.
        self.attempts = np.zeros((2, DAY_TYPES, 0, 1, len(spec.targets)), dtype=np.float16)
        self.ranges = np.zeros((1, len(spec.targets)), dtype=np.float32)  # [station, target]
        self.shapes = np.zeros((len(Shape._fields), len(spec.targets)), dtype=np.float32)  # [field, target]

    # -- fitting ---------------------------------------------------------------------------------------------

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        folds = deal(train)
        targets, shapes, rows = [], [], 0
        for channel in self.spec.channels:
            tally = Tally.of(train, channel, folds)
            shape = self._choose(train, channel, tally, folds)
            rates = tally.rates()
            targets.append((attempts(rates.moves, rates.usual, shape), tally.ranges))
            shapes.append(shape)
            rows += int(tally.exposure.max(axis=0).sum(dtype=np.float64))
        found = [np.stack(arrays, axis=-1) for arrays in zip(*targets, strict=True)]
        self.attempts, self.ranges = found[0].astype(np.float16), found[1]
        self.shapes = np.array(shapes, dtype=np.float32).T
        named = {target: shape._asdict() for target, shape in zip(self.spec.targets, shapes, strict=True)}
        return rows, {"rows": "changes between neighbouring ticks", "shapes": named}

    def _choose(self, train: Panel, channel: int, tally: Tally, folds: Indices) -> Shape:
        """The shape with the best RPS on rows whose fold had no part in their rates; horizons weigh alike."""
        ahead = [h for h in self.spec.horizon_ticks if h * train.step_s <= _TUNED_S] or [self.spec.horizon_ticks[0]]
        use = train.observed[:, :, channel] & train.open & train.trusted
        long_enough = use.any(axis=1).sum() * train.step_s >= _LEAST_TUNED_DAYS * 86_400
        tick, station = np.nonzero(use[: -ahead[-1]])
        inside = folds[tick] == folds[tick + ahead[-1]]
        if not (long_enough and inside.any()):
            return _DEFAULT
        drawn = np.random.default_rng(0).permutation(np.flatnonzero(inside))[:ROWS]
        tick, station = tick[drawn], station[drawn]
        k = np.maximum.reduce([self.largest, train.capacity.max(axis=0), train.counts[:, :, channel].max(axis=0)])
        k = np.maximum(k, 1)[station]
        future = tick + np.arange(ahead[-1] + 1)[:, None]  # [interval + 1, row]
        truth, known = train.counts[future, station, channel][ahead], use[future, station][ahead]  # [horizon, row]
        ahead_known = np.maximum(known.sum(axis=1), 1)
        moves, usual = self._held_out(train, tally, folds, future[:-1], station)
        now, ranges = train.counts[tick, station, channel], tally.largest[station]

        def score(shape: Shape) -> npt.NDArray[np.float64]:
            up, down = attempts(moves, usual, shape)
            chains = propagate(now, k, *multipliers(k, ranges, shape.pull, shape.edge), up, down, ahead)
            cdf = np.cumsum(chains, axis=1)  # [horizon, count, row]
            step = truth[:, None] <= np.arange(cdf.shape[1])[:, None]
            missed: npt.NDArray[np.float64] = np.square(cdf - step).sum(axis=1).sum(axis=1, where=known) / ahead_known
            return missed

        reference = np.maximum(score(_DEFAULT), 1e-9)
        scores: dict[Shape, float] = {_DEFAULT: 1.0}
        best = _DEFAULT
        for _ in range(2):
            for name, values in _GRID.items():
                for tried in (best._replace(**{name: value}) for value in values):
                    if tried not in scores:
                        scores[tried] = float(np.mean(score(tried) / reference))
                best = min(scores, key=scores.__getitem__)
        return best

    @staticmethod
    def _held_out(
        train: Panel, tally: Tally, folds: Indices, future: Indices, station: Indices
    ) -> tuple[Floats, Floats]:
        """Moves [direction, interval, row] and usual levels [interval, row], without each row's own fold."""
        local = local_time(train.ticks, train.timezone)
        day_type, slot = local.day_type[future], local.minute[future] // tally.step_min
        moves, usual = np.zeros((2, *future.shape), dtype=np.float32), np.zeros(future.shape, dtype=np.float32)
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds[future[0]] == fold)
            rates, where = tally.rates(int(fold)), (day_type[:, rows], slot[:, rows], station[rows])
            moves[:, :, rows], usual[:, rows] = rates.moves[:, *where], rates.usual[where]
        return moves, usual

    # -- forecasting -----------------------------------------------------------------------------------------

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        now, known = self.now(seen, k)
        places, ahead = self.places(seen), self.spec.horizon_ticks
        # From the calendar, not from a shift of now: the clocks may change on the way.
        local = local_time(seen.ticks[-1] + np.arange(ahead[-1]) * np.timedelta64(seen.step_s, "s"), seen.timezone)
        slot = local.minute // max(seen.step_s // 60, 1)
        rates = self.attempts[:, local.day_type, slot][:, :, places].astype(np.float32)
        up, down = rates.reshape(2, ahead[-1], -1)  # [interval, station x target]
        chain_k = np.repeat(k, now.shape[1])
        pull, edge = (np.tile(self.shapes[Shape._fields.index(name)], len(k)) for name in ("pull", "edge"))
        climb, fall = multipliers(chain_k, self.ranges[places].reshape(-1), pull, edge)
        chains = propagate(now.reshape(-1), chain_k, climb, fall, up, down, ahead)
        pmf = chains.reshape(*chains.shape[:2], *now.shape).transpose(2, 0, 3, 1)  # [station, horizon, target, count]
        return self.block(seen, pmf, k, known)

    # -- keeping ---------------------------------------------------------------------------------------------

    def _state(self, folder: Path) -> Arrays:  # noqa: ARG002 - nothing but arrays
        return {name: getattr(self, name) for name in ("attempts", "ranges", "shapes")}

    def _restore(self, arrays: Arrays, folder: Path) -> None:  # noqa: ARG002 - nothing but arrays
        self.attempts, self.ranges, self.shapes = arrays["attempts"], arrays["ranges"], arrays["shapes"]
