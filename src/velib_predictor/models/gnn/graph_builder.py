"""Graphs of stations: near in metres, alike in their changes, or joined by trips. Weighted, each row sums to 1.

A graph is fixed before training and made from training ticks alone. No station is its own neighbour; the same input
gives the same graph, and ties go to the lower index.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import Panel, Stations
from velib_predictor.utils.spatial import distance_m, nearest

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
REACH_M = 500.0
"""Distance at which a neighbour counts e times less: what one walks when a station is empty or full."""
_HOUR_S = 3_600
_LEAST_HOURS = 24
"""Changes that two stations must have in common before their correlation says anything."""
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Graph:
    """Who hears whom.

    Attributes:
        near: places of the neighbours, int64[station, neighbour]; 0 where there is none.
        weight: float32[station, neighbour]; 0 where there is none, else rows sum to 1.
    """

    near: Indices
    weight: Floats

    @classmethod
    def of(cls, near: Indices, weight: npt.NDArray[np.floating]) -> Self:
        """From neighbours (-1: none) and weights that need not sum to 1; what weighs nothing is no neighbour."""
        weight = np.where(near >= 0, np.maximum(weight, 0), 0).astype(np.float64)
        total = weight.sum(axis=1, keepdims=True)
        share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        return cls(np.where(share > 0, near, 0).astype(np.int64), share.astype(np.float32))

    def csr(self) -> tuple[Indices, Indices, Floats]:
        """The same as a sparse matrix [station, station]: row pointers, columns ascending in each row, values."""
        there = self.weight > 0
        order = np.argsort(np.where(there, self.near, len(self.near)), axis=1, kind="stable")
        kept = np.take_along_axis(there, order, axis=1)
        pointers = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        columns, values = np.take_along_axis(self.near, order, axis=1), np.take_along_axis(self.weight, order, axis=1)
        return pointers, columns[kept], values[kept]

    def at(self, places: Indices, stations: Stations) -> "Graph":
        """The graph of another set of stations, who hear those of them that they did hear, and new ones the nearest.

        Args:
            places: where they stand among this graph's, int64[station]; -1 for new ones, whom nobody hears.
            stations: who they are.
        """
        there = np.full(len(self.near), -1)
        known = np.flatnonzero(places >= 0)
        there[places[known]] = known
        width = self.near.shape[1]
        near = np.full((len(places), width), -1)
        weight = np.zeros((len(places), width), dtype=np.float32)
        weight[known] = self.weight[places[known]]
        near[known] = np.where(weight[known] > 0, there[self.near[places[known]]], -1)
        if len(known) < len(places):
            new = places < 0
            heard = np.zeros(len(self.near), dtype=bool)
            heard[self.near[self.weight > 0]] = True
            around = distance_graph(stations, width, np.where(new, False, heard[places]))
            near[new], weight[new] = np.where(around.weight > 0, around.near, -1)[new], around.weight[new]
        return Graph.of(near, weight)


def distance_graph(stations: Stations, neighbours: int, candidates: Mask | None = None) -> Graph:
    """The nearest others, weighing exp(-distance / `REACH_M`); `candidates`, bool[station], may be neighbours.

    Stations without a position have no neighbours and are nobody's.
    """
    lat, lon = stations.lat, stations.lon
    near = nearest(lat, lon, neighbours, candidates)
    far = distance_m(lat[:, None], lon[:, None], lat[near], lon[near])
    far = np.where(near >= 0, far, np.inf)
    # Relative to the nearest: far out, where all are kilometres away, no weight vanishes.
    first = np.min(far, axis=1, keepdims=True, initial=np.inf)
    return Graph.of(near, np.exp(-(far - np.where(np.isfinite(first), first, 0)) / REACH_M))


def correlation_graph(train: Panel, channel: int, neighbours: int) -> Graph:
    """Those whose counts change most alike from hour to hour, weighing their correlation, if it is positive.

    Pearson's, over the ticks at which both changes are known: observed and trusted at both ends; at least a day's.
    """
    hour = max(_HOUR_S // train.step_s, 1)
    use = train.observed[:, :, channel] & train.trusted
    known = use[hour:] & use[:-hour]  # [tick, station]
    change = train.counts[hour:, :, channel].astype(np.float32) - train.counts[:-hour, :, channel]
    stations = known.shape[1]
    both, one, square, product = np.zeros((4, stations, stations))
    for first in range(0, len(known), _CHUNK):
        told = known[first : first + _CHUNK].astype(np.float32)
        moved = np.where(told > 0, change[first : first + _CHUNK], np.float32(0))
        both += told.T @ told
        one += moved.T @ told  # sum of the row's changes where the column's are known too
        square += (moved**2).T @ told
        product += moved.T @ moved
    count = np.maximum(both, 1)
    spread = np.maximum(square - one**2 / count, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = (product - one * one.T / count) / np.sqrt(spread * spread.T)
    least = _LEAST_HOURS * _HOUR_S / max(train.step_s, 1) if train.step_s < _HOUR_S else _LEAST_HOURS
    return _strongest(np.where((both >= least) & np.isfinite(alike), alike, 0), neighbours)


def flow_graph(start: Indices, end: Indices, stations: int, neighbours: int) -> Graph:
    """Those that most trips come from or go to, weighing how many; trips to where they began are left out.

    Args:
        start, end: places of the stations of each trip, int64[trip]; trips of other places (-1) are left out.
        stations: how many there are.
    """
    within = (start >= 0) & (end >= 0) & (start != end)
    trips = np.zeros((stations, stations))
    np.add.at(trips, (start[within], end[within]), 1)
    return _strongest(trips + trips.T, neighbours)


def _strongest(weight: npt.NDArray[np.float64], neighbours: int) -> Graph:
    """The neighbours of the greatest positive weights, [station, station], the diagonal left out."""
    weight = weight.copy()
    np.fill_diagonal(weight, 0)
    near = np.argsort(-weight, axis=1, kind="stable")[:, :neighbours]
    kept = np.take_along_axis(weight, near, axis=1)
    missing = neighbours - near.shape[1]
    near = np.pad(np.where(kept > 0, near, -1), ((0, 0), (0, max(missing, 0))), constant_values=-1)
    return Graph.of(near, np.pad(kept, ((0, 0), (0, max(missing, 0)))))
