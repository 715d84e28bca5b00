"""Same as now: as a certainty (row 1 of every table), and with the spread that changes have had."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.config.models import ModelSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import BIKES, DOCKS, Counts, Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster
from velib_predictor.models.baseline.shrinkage import Shares, drawn

REACH = 30
"""Changes up to this many are told apart. The end bins mean at least that many, and their mass is laid on the end."""
WIDTH = 2 * REACH + 1
EDGES = np.array([1, 2, 3, 6, 11, 21])
"""Buckets of counts, and of places left: 0, 1, 2, 3-5, 6-10, 11-20, 21 or more."""
HOURS, LEVELS = 24, (len(EDGES) + 1) ** 2
HOUR_ROWS, LEVEL_ROWS, ALL_ROWS = 150.0, 150.0, 1.0
"""Rows by which an hour is drawn towards all hours, a level towards all levels, and these towards no change."""


class Persistence(Forecaster):
    """All probability on what there is now."""

    name = "persistence"
    least_days = 0.0

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        return len(train), {"rows": "ticks"}

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        now, known = self.now(seen, k)
        pmf = algebra.point(now, int(k.max()) + 1)[:, None]  # [station, 1, target, count]
        pmf = np.broadcast_to(pmf, (len(k), len(self.spec.horizons), *pmf.shape[2:]))
        return self.block(seen, pmf, k, known)


class PersistenceDelta(Forecaster):
    """Same as now, spread as changes have been: by hour of the origin, level at the origin, horizon and target.

    One histogram for all stations. A level is a bucket of the count and one of the places left.
    """

    name = "persistence_delta"

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
        # P(change): [hour, target, level, horizon, change]
        self.table: npt.NDArray[np.float32] = np.zeros((0, 0, 0, 0, WIDTH), dtype=np.float32)

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        shape = (HOURS, len(self.spec.targets), LEVELS, len(self.spec.horizons), WIDTH)
        self.table, rows = np.empty(shape, dtype=np.float32), 0
        for target, channel in enumerate(self.spec.channels):
            counts = self._histograms(train, channel)
            self.table[:, target] = _shrunk(counts)
            rows += int(counts.sum())
        return rows, {"rows": "origin x station x horizon x target"}

    def _histograms(self, train: Panel, channel: int) -> npt.NDArray[np.int64]:
        """How often each change came, int64[hour, level, horizon, change]; an hour of the day at a time."""
        hours = local_time(train.ticks, train.timezone).hour
        count = np.ascontiguousarray(train.counts[:, :, channel])
        most = np.maximum(train.capacity, self.largest)
        level = _levels(count, train.counts[:, :, BIKES], most, channel)  # [tick, station]
        seen = train.observed[:, :, channel] & train.trusted
        start = seen & train.open
        found = np.zeros((HOURS, LEVELS, len(self.spec.horizons), WIDTH), dtype=np.int64)
        for horizon, ahead in enumerate(self.spec.horizon_ticks):
            for hour in range(HOURS):
                origin = np.flatnonzero(hours[:-ahead] == hour)
                usable = start[origin] & seen[origin + ahead]
                change = (count[origin + ahead] - count[origin])[usable]
                flat = level[origin][usable] * np.int64(WIDTH) + (np.clip(change, -REACH, REACH) + REACH)
                found[hour, :, horizon] = np.bincount(flat, minlength=LEVELS * WIDTH).reshape(LEVELS, WIDTH)
        return found

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        now, known = self.now(seen, k)
        hour = int(local_time(seen.ticks[-1:], seen.timezone).hour[0])
        bikes = np.clip(seen.counts[-1, :, BIKES], 0, k)
        level = np.stack(
            [_levels(now[:, target], bikes, k, channel) for target, channel in enumerate(self.spec.channels)], axis=1
        )  # [station, target]
        changes = self.table[hour][np.arange(len(self.spec.targets)), level]  # [station, target, horizon, change]
        pmf = algebra.from_changes(changes, now[:, :, None], k[:, None, None], int(k.max()) + 1)
        return self.block(seen, pmf.swapaxes(1, 2), k, known)  # [station, horizon, target, count]

    def _state(self, folder: Path) -> Arrays:  # noqa: ARG002
        return {"table": self.table}

    def _restore(self, arrays: Arrays, folder: Path) -> None:  # noqa: ARG002
        self.table = arrays["table"]


def _levels(
    count: npt.NDArray[np.integer], bikes: npt.NDArray[np.integer], k: Counts, channel: int
) -> npt.NDArray[np.int16]:
    """Which level each count is on, int16[...], 0 to LEVELS - 1; all arguments int[...]."""
    # More e-bikes find a place only where more bikes do.
    taken = count if channel == DOCKS else np.maximum(count, bikes)
    level = np.searchsorted(EDGES, count, side="right")
    room = np.searchsorted(EDGES, k - taken, side="right")
    return (level * (len(EDGES) + 1) + room).astype(np.int16)


def _shrunk(counts: npt.NDArray[np.int64]) -> Shares:
    """Shares of changes, [hour, level, horizon, change]: an hour drawn towards all, a level drawn towards all."""
    nothing = np.zeros(WIDTH)
    nothing[REACH] = 1.0
    everywhere = drawn(counts.sum(axis=(0, 1), keepdims=True), nothing, ALL_ROWS)
    by_level = drawn(counts.sum(axis=0, keepdims=True), everywhere, LEVEL_ROWS)
    return drawn(counts, by_level, HOUR_ROWS)
