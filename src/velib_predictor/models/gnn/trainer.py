"""The GNN as a forecaster: an example an origin with all stations, some of them with a few horizons in training."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import Panel, Stations
from velib_predictor.data.profiles import CHANGE
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Arrays
from velib_predictor.models.gnn.dataset import Examples, Signals, draw, outcomes_of
from velib_predictor.models.gnn.graph_builder import Graph, correlation_graph, distance_graph
from velib_predictor.models.network import Fitter, Given, Lesson, NetworkModel
from velib_predictor.models.stid.dataset import Rows

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_LAGS_MIN = (15, 30, 60, 120, 240, 360)
"""Of the changes beyond the usual that nodes are told."""


class Gnn(NetworkModel):
    """Networks that pass the last hours of stations along graphs, with all that STID is told."""

    name = "gnn"
    neighbours: ClassVar[int] = 24
    scored_rows: ClassVar[int] = 24_000
    stations_each: ClassVar[int] = 256
    """Stations of an example whose truths are learned; the others are its nodes alone."""
    horizons_each: ClassVar[int] = 1
    small: ClassVar[dict[str, Any]] = {
        "node_width": 24, "width": 48, "blocks": 1, "station_width": 6, "time_width": 4, "dropout": 0.2,
    }  # fmt: skip
    """Sizes where the history is short."""

    def __init__(self, spec: ForecastSpec) -> None:
        super().__init__(spec)
        self.graphs: list[Graph] = []
        self._drawn = 1  # stations of an example
        self._around: tuple[Stations, list[Graph]] | None = None

    @property
    def lags(self) -> tuple[int, ...]:
        """Ticks back, rising."""
        step_s = int(self.spec.step.total_seconds())
        return tuple(dict.fromkeys(max(lag * 60 // step_s, 1) for lag in _LAGS_MIN))

    @property
    def together(self) -> int:
        """See `NetworkModel`."""
        return self._drawn * self._horizons

    @property
    def _horizons(self) -> int:
        return min(self.horizons_each, len(self.spec.horizons))

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max(super().lookback, self.lags[-1])

    def _draw(self, train: Panel) -> tuple[Indices, Indices, Indices]:
        self._drawn = min(self.stations_each, len(train.stations))
        return draw(train, self.spec, self.most_rows, self._drawn, self._horizons)

    def _fitter(self, lesson: Lesson) -> Fitter:
        from velib_predictor.models.gnn.fitting import fit_fold

        train = lesson.train
        self.graphs, self._around = graphs_of(train, self.spec.channels[0], self.largest > 0, self.neighbours), None
        signals = Signals.of(train, self.spec.channels, [s.change for s in lesson.sights], lesson.size, self.lags)
        shape = (self._drawn, self._horizons)
        told, came = Examples.of(lesson.rows, lesson.tick, *shape), outcomes_of(lesson.came, *shape)

        def fit(inside: Indices, held_out: Indices, seed: int) -> tuple[bytes, float]:
            return fit_fold(
                signals, self.graphs, told.take(inside), came.take(inside), told.take(held_out), came.take(held_out),
                horizons=len(self.spec.horizons), slots=self.slots, sizes=self.small if lesson.small else {},
                epochs=self.epochs, seed=seed,
            )  # fmt: skip

        return fit

    def _given(self, rows: Rows, seen: Panel, size: Floats) -> Given:
        last = seen.between(max(len(seen) - 1 - self.lags[-1], 0), len(seen))
        local, places = local_time(last.ticks, last.timezone), self.places(seen)
        usual = []
        for builder in self.builders:
            assert builder.profile is not None  # noqa: S101 - for the type checker
            usual.append(np.cumsum(builder.profile.at(local, places)[CHANGE], axis=0, dtype=np.float64))
        signals = Signals.of(last, self.spec.channels, usual, size, self.lags)
        graphs = self._graphs_at(seen.stations, places)
        shape = (len(size), len(self.spec.horizons))
        return {
            "signals": np.ascontiguousarray(signals.at(np.array([len(last) - 1]))[:, 0]),
            "near": np.stack([graph.near for graph in graphs], axis=1),
            "weight": np.stack([graph.weight for graph in graphs], axis=1),
            "station": rows.station.reshape(shape)[:, 0].copy(),
            **{
                name: part.reshape(*shape, part.shape[1])
                for name, part in (
                    ("features", rows.features), ("slot", rows.slot), ("day", rows.day), ("unit", rows.unit),
                )
            },
        }  # fmt: skip

    def _graphs_at(self, stations: Stations, places: Indices) -> list[Graph]:
        """The graphs of a panel's stations, kept, as they are asked for at each origin."""
        if self._around is None or self._around[0] is not stations:
            self._around = stations, [graph.at(places, stations) for graph in self.graphs]
        return self._around[1]

    # -- keeping ---------------------------------------------------------------------------------------------

    def _state(self, folder: Path) -> Arrays:
        return {
            **super()._state(folder),
            "near": np.stack([graph.near for graph in self.graphs]),
            "weight": np.stack([graph.weight for graph in self.graphs]),
        }

    def _restore(self, arrays: Arrays, folder: Path) -> None:
        super()._restore(arrays, folder)
        self.graphs = [Graph(*pair) for pair in zip(arrays["near"], arrays["weight"], strict=True)]


def graphs_of(train: Panel, channel: int, seen: npt.NDArray[Any], neighbours: int) -> list[Graph]:
    """The nearest stations that training saw, and those that change alike."""
    return [distance_graph(train.stations, neighbours, seen), correlation_graph(train, channel, neighbours)]
