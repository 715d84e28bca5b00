"""Examples for the LSTM: (origin, station) with some horizons, and the history before it, a view of one array."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import MISSING, Counts, Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.stid.dataset import Rows

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """What the network is told of (origin, station), at several horizons.

    Attributes:
        tick, station: of the origin, int64[example]; the last number of a station stands for those of no number.
        size: docks in all, float32[example].
        features: standardised, NaN where not known, float32[example, horizon, feature].
        slot, day: of the origin and of the target, int64[example, horizon, moment].
        unit: typical change, float32[example, horizon, target].
    """

    tick: Indices
    station: Indices
    size: Floats
    features: Floats
    slot: Indices
    day: Indices
    unit: Floats

    @classmethod
    def of(cls, rows: Rows, tick: Indices, size: Floats, together: int) -> "Examples":
        """From rows of which so many that follow each other share origin and station; tick, size [example]."""
        shape = (-1, together)
        return cls(
            tick, rows.station[::together], size, rows.features.reshape(*shape, rows.features.shape[1]),
            rows.slot.reshape(*shape, 2), rows.day.reshape(*shape, 2), rows.unit.reshape(*shape, rows.unit.shape[1]),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.station)

    @property
    def parts(self) -> tuple[Floats | Indices, ...]:
        """Its arrays, in the order in which they stand above."""
        return self.tick, self.station, self.size, self.features, self.slot, self.day, self.unit


def history(panel: Panel, window: int) -> Counts:
    """Counts by station, with `window` - 1 unknown ticks before the first, int16[station, tick, channel].

    `MISSING` where not observed; what of it stands before (and at) an origin is one block of memory.
    """
    counts = np.where(panel.observed, panel.counts, np.int16(MISSING)).transpose(1, 0, 2)  # [station, tick, channel]
    return np.pad(counts, ((0, 0), (window - 1, 0), (0, 0)), constant_values=MISSING)


def windows(past: Counts, window: int) -> Counts:
    """The last `window` ticks up to each tick, a view of `history`'s array: int16[station, tick, channel, back]."""
    return np.lib.stride_tricks.sliding_window_view(past, window, axis=1)


def draw(train: Panel, spec: ForecastSpec, most: int, together: int, seed: int = 0) -> tuple[Indices, Indices, Indices]:
    """Examples of training at random: tick, station, and place of the horizon, int64[row], `together` rows each.

    Origins are open, observed and trusted for some target, and so is the truth. An origin that has fewer truths has one
    of them more than once.
    """
    random = np.random.default_rng(seed)
    seen = train.observed[:, :, spec.channels].any(axis=2) & train.trusted  # [tick, station]
    ahead = np.array(spec.horizon_ticks)
    last = len(train) - int(ahead[0])
    origins = np.flatnonzero(seen[:last] & train.open[:last])
    tick, station = np.divmod(origins, seen.shape[1])
    if len(origins) > most // together:
        drawn = np.sort(random.integers(0, len(origins), most // together))
        tick, station = tick[drawn], station[drawn]
    target = tick[:, None] + ahead  # [example, horizon]
    usable = seen[np.minimum(target, len(train) - 1), station[:, None]] & (target < len(train))
    some = usable.any(axis=1)
    tick, station, usable = tick[some], station[some], usable[some]
    order = np.argsort(random.random(usable.shape) + ~usable, axis=1)[:, :together]  # usable ones first
    horizon = np.where(np.take_along_axis(usable, order, axis=1), order, order[:, :1])
    return np.repeat(tick, together), np.repeat(station, together), horizon.ravel()
