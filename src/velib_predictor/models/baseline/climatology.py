"""What is usual at a station at that hour of that kind of day. It does not ask what is there now."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.config.models import ModelSettings
from velib_predictor.data.calendar import DAY_TYPES, local_time
from velib_predictor.data.panel import Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster
from velib_predictor.models.baseline.shrinkage import drawn

HOURS = 24
REACH_MIN = 120
"""Hours whose ticks lie, on average, nearer than this to the wanted minute inform it, with triangular weights."""
HOUR_DAYS, KIND_DAYS, STATION_DAYS = 4.0, 0.5, 0.5
"""Days by which a station's hour is drawn towards its kind of day, this towards all its days, these towards others."""
GROUPS = 4
"""Groups of stations of similar capacity, about equally many in each."""
GRID = 41
"""Shares of K that are told apart in a group, from empty to full."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]


class Climatology(Forecaster):
    """How often each count was seen at a station, by kind of day and local hour.

    An hour is drawn towards all hours of that kind of day at the station, these towards all its days, and these
    towards the occupancy of stations of similar capacity. So there is a forecast for new stations, too, and for those
    that are silent now; there is none only for a target that the system never published, or that a station never did
    which published others, and for a station of which not even the size is known.
    """

    name = "climatology"

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
        # How often each count was seen, [target, day_type, hour, station, count]; the last station is any new one.
        self.counts: Integers = np.zeros((0, DAY_TYPES, HOURS, 1, 1), dtype=np.uint16)
        # The same of all hours, [target, day_type, station, count].
        self.by_kind: Floats = np.zeros((0, DAY_TYPES, 1, 1), dtype=np.float32)
        # P(share of K) in each group of stations, [target, group, point]; 0 for a target that was never seen.
        self.occupancy: Floats = np.zeros((0, 1, GRID), dtype=np.float32)
        # Whether the station tells it, as far as anything was seen of it, [target, station]; new ones may.
        self.published: npt.NDArray[np.bool_] = np.ones((0, 1), dtype=bool)
        # The least K of each group but the first, ascending, [group - 1].
        self.least: Integers = np.zeros(0, dtype=np.int16)

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        width = int(train.counts.max(initial=0, where=train.trusted[:, :, None])) + 1
        shape = (len(self.spec.targets), DAY_TYPES, HOURS, len(train.stations) + 1, width)
        counts = np.zeros(shape, dtype=np.uint32)
        for target, channel in enumerate(self.spec.channels):
            counts[target, :, :, :-1] = _histogram(train, channel, width)
        self._take(counts.astype(np.min_scalar_type(counts.max())))
        k = np.maximum.reduce([self.largest, train.capacity.max(axis=0), np.ones_like(self.largest)])
        self.least = np.unique(np.quantile(k, np.arange(1, GROUPS) / GROUPS, method="higher"))
        told: npt.NDArray[np.bool_] = np.asarray(train.observed.any(axis=0))  # [station, channel]
        told |= ~told.any(axis=1, keepdims=True)
        self.published = np.pad(told[:, self.spec.channels], [(0, 1), (0, 0)], constant_values=True).T
        self.occupancy = _occupancy(self.by_kind[:, :, :-1].sum(axis=1), k, self.least)
        return int(counts.sum()), {"rows": "tick x station x target", "groups": len(self.least) + 1}

    def _take(self, counts: Integers) -> None:
        self.counts, self.by_kind = counts, counts.sum(axis=2, dtype=np.float32)

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        size, horizons = int(k.max()) + 1, len(self.spec.horizons)
        places = self.places(seen)  # a new station's is -1, the last
        day = 86_400 / seen.step_s  # rows
        similar = self._similar(k, max(size, self.counts.shape[-1]))  # [target, station, count]
        usual = drawn(self.by_kind.sum(axis=1)[:, places], similar, STATION_DAYS * day)
        by_kind = [drawn(self.by_kind[:, kind, places], usual, KIND_DAYS * day) for kind in range(DAY_TYPES)]
        local = local_time(seen.ticks[-1] + np.array(self.spec.horizons, "timedelta64[s]"), seen.timezone)
        most = np.broadcast_to(k[:, None], (len(k), len(self.spec.targets)))
        pmf = np.empty((len(k), horizons, len(self.spec.targets), size), dtype=np.float32)
        for horizon, (kind, minute) in enumerate(zip(local.day_type, local.minute, strict=True)):
            counts = np.zeros(self.by_kind[:, 0].shape, dtype=np.float32)
            for hour, weight in _hours(int(minute), seen.step_s / 60):
                counts += self.counts[:, kind, hour] * weight
            shares = drawn(counts[:, places], by_kind[kind], HOUR_DAYS * day / HOURS)
            # [target, station, count] -> [station, target, count]
            pmf[:, horizon] = algebra.censor(shares.swapaxes(0, 1), most)[..., :size]
        sized = (seen.capacity[-1] > 0) | (seen.counts[-1] > 0).any(axis=1) | np.append(self.largest > 0, False)[places]
        published = self.published[:, places].T & self.occupancy.any(axis=(1, 2))  # [station, target]
        return self.block(seen, pmf, k, sized[:, None] & published)

    def _similar(self, k: Integers, width: int) -> Floats:
        """What is usual at stations of about that size, float32[target, station, count]."""
        group = np.searchsorted(self.least, k, side="right")
        similar = np.zeros((len(self.occupancy), len(k), width), dtype=np.float32)
        for most in np.unique(k):
            here = np.flatnonzero(k == most)
            similar[:, here, : most + 1] = self.occupancy[:, group[here]] @ rescaling(GRID, int(most) + 1)
        return similar

    def _state(self, folder: Path) -> Arrays:  # noqa: ARG002
        return {
            "counts": self.counts, "occupancy": self.occupancy, "least": self.least, "published": self.published,
        }  # fmt: skip

    def _restore(self, arrays: Arrays, folder: Path) -> None:  # noqa: ARG002
        self._take(arrays["counts"])
        self.occupancy, self.least = arrays["occupancy"], arrays["least"]
        # Those of version 0.1 did not know it, and speak of all.
        self.published = arrays.get("published", np.ones((len(self.counts), self.counts.shape[3]), dtype=bool))


def rescaling(size: int, other: int) -> Floats:
    """Shares over 0..size-1 as shares over 0..other-1, by matrix product: float32[size, other], rows sum to 1.

    Empty stays empty and full stays full; what lies between is spread evenly over what lies between.
    """
    matrix = np.zeros((size, other), dtype=np.float32)
    matrix[0, 0] = matrix[-1, -1] = 1.0
    edges, others = np.linspace(0, 1, size - 1), np.linspace(0, 1, other - 1)
    if other == 2:  # nothing lies between: to the nearer end
        middle = (edges[:-1] + edges[1:]) / 2
        matrix[1:-1] = np.stack([1 - middle, middle], axis=1)
        return matrix
    upper = np.minimum(edges[1:, None], others[None, 1:])
    lower = np.maximum(edges[:-1, None], others[None, :-1])
    matrix[1:-1, 1:-1] = np.maximum(upper - lower, 0) * (size - 2)
    return matrix


def _histogram(train: Panel, channel: int, width: int) -> npt.NDArray[np.uint32]:
    """How often each count was seen, uint32[day_type, hour, station, count], an hour at a time."""
    local = local_time(train.ticks, train.timezone)
    usable = train.observed[:, :, channel] & train.trusted & train.open  # [tick, station]
    stations = len(train.stations)
    found = np.zeros((DAY_TYPES, HOURS, stations, width), dtype=np.uint32)
    for kind, hour in np.ndindex(DAY_TYPES, HOURS):
        ticks = np.flatnonzero((local.day_type == kind) & (local.hour == hour))
        flat = np.arange(stations) * width + train.counts[ticks, :, channel]
        counts = np.bincount(flat[usable[ticks]], minlength=stations * width)
        found[kind, hour] = counts.reshape(stations, width)
    return found


def _occupancy(counts: Floats, k: Integers, least: Integers) -> Floats:
    """Occupancy of groups of stations, float32[target, group, point], from counts [target, station, count]."""
    shares = np.zeros((*counts.shape[:2], GRID), dtype=np.float32)  # [target, station, point]
    for most in np.unique(k):
        size = int(most) + 1
        within = np.pad(counts[:, k == most], [(0, 0), (0, 0), (0, max(size - counts.shape[-1], 0))])
        shares[:, k == most] = algebra.censor(within, np.full(within.shape[:-1], most))[..., :size] @ rescaling(
            size, GRID
        )
    group = np.searchsorted(least, k, side="right")
    groups = np.stack([shares[:, group == which].sum(axis=1) for which in range(len(least) + 1)], axis=1)
    everywhere = groups.sum(axis=1, keepdims=True)
    everywhere /= np.maximum(everywhere.sum(axis=-1, keepdims=True), 1e-9)
    return drawn(groups, everywhere, 1.0)


def _hours(minute: int, step_min: float) -> list[tuple[int, np.float32]]:
    """Hours of the day that inform a minute of it, and their weights."""
    middle = np.arange(HOURS) * 60 + max(60 - step_min, 0) / 2  # of an hour's ticks
    apart = np.abs((minute - middle + 720) % 1440 - 720)
    return [(int(hour), np.float32(1 - apart[hour] / REACH_MIN)) for hour in np.flatnonzero(apart < REACH_MIN)]
