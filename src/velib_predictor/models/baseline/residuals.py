"""From a predicted change to a distribution: histograms of what past predictions missed, by the state they predicted.

A cell is what was predicted (a spread and a change) and how near the station is to empty and to full. Its histogram
is of the change less the predicted one rounded to a whole bike, so the many stations at which nothing happens keep
their exact probability. Cells with few rows are drawn towards coarser ones.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from velib_predictor.forecast.pmf import from_changes
from velib_predictor.models.baseline.shrinkage import drawn

Floats = npt.NDArray[np.float32]
REACH = 40
"""Deviations up to this many are told apart; the end bins mean at least that many."""
_SPREADS = 24
_PRIOR_ROWS = 40.0
_LEVEL_EDGES = np.array([1, 2, 3, 5])
"""Bikes (and room) of 0, 1, 2, 3-4 and 5 or more."""
_MIDDLE_EDGES = np.array([-0.3, -0.1, 0.1, 0.3])
_SIDE_EDGES = np.array([-0.17, 0.17])
_KINDS = 13
"""Predicted changes: five that round to 0, three each that round to -1 and 1, and all others by sign."""


@dataclass(frozen=True, eq=False)
class ResidualHistograms:
    """P(change - rounded prediction = d), d = -REACH..REACH.

    Attributes:
        edges: of the predicted spread, ascending, float32[spread - 1].
        table: float32[spread, kind, level, room, deviation].
    """

    edges: Floats
    table: Floats

    @classmethod
    def fit(
        cls,
        change: npt.NDArray[np.int64],
        predicted: Floats,
        spread: Floats,
        now: npt.NDArray[np.int64],
        room: npt.NDArray[np.int64],
    ) -> Self:
        """Learn from rows that the prediction had not been fitted on.

        Args:
            change: what came, [row].
            predicted: the change that was predicted; spread: how far off it was thought to be, [row].
            now, room: count at the origin, and places up to K, [row].
        """
        edges = np.unique(np.quantile(spread, np.linspace(0, 1, _SPREADS + 1)[1:-1])).astype(np.float32)
        whole = np.rint(predicted).astype(np.int64)
        deviation = np.clip(change - whole, -REACH, REACH) + REACH
        shape = (len(edges) + 1, _KINDS, len(_LEVEL_EDGES) + 1, len(_LEVEL_EDGES) + 1, 2 * REACH + 1)
        cell = (*_cells(edges, predicted, whole, spread, now, room), deviation)
        counts = np.bincount(np.ravel_multi_index(cell, shape), minlength=int(np.prod(shape))).reshape(shape)
        everything = counts.sum(axis=(0, 1, 2, 3), keepdims=True) + 1e-3
        by_spread = drawn(counts.sum(axis=(1, 2, 3), keepdims=True), everything / everything.sum(), _PRIOR_ROWS)
        by_kind = drawn(counts.sum(axis=(2, 3), keepdims=True), by_spread, _PRIOR_ROWS)
        return cls(edges, drawn(counts, by_kind, _PRIOR_ROWS).astype(np.float32))

    def pmf(
        self, predicted: Floats, spread: Floats, now: npt.NDArray[np.int64], k: npt.NDArray[np.int64], size: int
    ) -> Floats:
        """P(count), float32[row, count] with `size` counts; all arguments [row]."""
        whole = np.rint(predicted).astype(np.int64)
        cell = _cells(self.edges, predicted, whole, spread, now, k - now)
        return from_changes(self.table[cell], now + whole, k, size)


def _cells(
    edges: Floats,
    predicted: Floats,
    whole: npt.NDArray[np.int64],
    spread: Floats,
    now: npt.NDArray[np.int64],
    room: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], ...]:
    """Where rows belong: spread, kind of prediction, level, room, [row] each."""
    rest = predicted - whole
    side = np.searchsorted(_SIDE_EDGES, rest)
    kind = np.select(
        [whole == 0, whole == 1, whole == -1, whole > 1],
        [np.searchsorted(_MIDDLE_EDGES, rest), 5 + side, 8 + side, 11],
        12,
    )
    levels = (np.searchsorted(_LEVEL_EDGES, value, side="right") for value in (now, room))
    return (np.searchsorted(edges, spread), kind, *levels)
