"""Examples for the GNN: one origin with all stations as nodes, and some stations and horizons whose truths are learned.

What nodes are told is read from one array of the whole panel, through views: windows are cut an origin at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.lstm.dataset import some_of
from velib_predictor.models.stid.dataset import CLIP

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_GAIN = 4.0
"""Shares of a station's size that change within hours are about a quarter."""


@dataclass(frozen=True, eq=False)
class Signals:
    """What nodes are told: how full a station is, and what its last hours held beyond the usual.

    Attributes:
        counts: float32[tick, station, channel], NaN where not observed.
        beyond: counts less what usually came since the first tick, [tick, station, channel], as many unknown ticks as
            `lags` reach back before them: differences are changes beyond the usual ones.
        size: docks in all, float32[station].
        lags: ticks.
    """

    counts: Floats
    beyond: Floats
    size: Floats
    lags: tuple[int, ...]

    @classmethod
    def of(
        cls, panel: Panel, channels: list[int], usual: Sequence[npt.NDArray[np.floating]], size: Floats,
        lags: tuple[int, ...],
    ) -> "Signals":  # fmt: skip
        """From a panel and the usual changes of each channel, summed up to each tick, [tick, station]."""
        counts = np.where(panel.observed[:, :, channels], panel.counts[:, :, channels], np.float32(np.nan))
        beyond = np.full((lags[-1] + len(panel), *counts.shape[1:]), np.nan, dtype=np.float32)
        for place, summed in enumerate(usual):
            beyond[lags[-1] :, :, place] = counts[:, :, place] - summed
        return cls(counts.astype(np.float32), beyond, size, lags)

    @property
    def windows(self) -> Floats:
        """What stands up to each tick, a view: [tick, station, channel, back], the tick itself last."""
        return np.lib.stride_tricks.sliding_window_view(self.beyond, self.lags[-1] + 1, axis=0)

    def at(self, ticks: Indices) -> Floats:
        """Signals of all stations at origins, as shares of their size, float32[station, origin, signal]."""
        size = self.size[:, None, None]
        last = self.lags[-1]
        window = self.windows[ticks]  # [origin, station, channel, back]
        change = window[..., last:] - window[..., [last - lag for lag in self.lags]]
        parts = np.concatenate([self.counts[ticks][..., None], _GAIN * change], axis=3) / size
        signals = np.clip(parts.reshape(*parts.shape[:2], -1), -CLIP, CLIP).transpose(1, 0, 2)
        return np.asarray(signals, dtype=np.float32)


def draw(train: Panel, spec: ForecastSpec, most: int, stations: int, seed: int = 0) -> tuple[Indices, Indices, Indices]:
    """Examples of training at random: tick, station, and place of the horizon, int64[row].

    An example is `stations` rows of one origin, a horizon each: horizons of one station have much in common, and rows
    are few. Origins are open, observed and trusted for some target, and so is the truth. Where there are fewer
    stations, some are there more than once; no more examples of an origin are drawn than it has stations for.
    """
    random = np.random.default_rng(seed)
    seen = train.observed[:, :, spec.channels].any(axis=2) & train.trusted  # [tick, station]
    came = np.zeros((*seen.shape, len(spec.horizon_ticks)), dtype=bool)
    for place, ahead in enumerate(spec.horizon_ticks):
        came[:-ahead, :, place] = seen[ahead:]
    usable = seen & train.open & came.any(axis=2)
    each = -(-usable.sum(axis=1) // stations)  # examples that a tick is good for
    pool = np.repeat(np.arange(len(train)), each)
    tick = np.sort(random.permutation(pool)[: max(most // stations, 1)])
    turn = np.arange(len(tick)) - np.searchsorted(tick, tick)  # of examples of the same tick
    drawn = np.empty((len(tick), stations), dtype=np.int64)
    for example, (at, which) in enumerate(zip(tick.tolist(), turn.tolist(), strict=True)):
        if which == 0:
            order = random.permutation(np.flatnonzero(usable[at]))
        drawn[example] = np.take(order, np.arange(which * stations, (which + 1) * stations), mode="wrap")
    tick, station = np.repeat(tick, stations), drawn.ravel()
    return tick, station, some_of(came[tick, station], 1, random)[:, 0]
