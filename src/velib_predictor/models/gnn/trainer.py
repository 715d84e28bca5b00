"""The GNN as a forecaster: an example an origin with all stations, some of them with a horizon each in training."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from velib_predictor.config.models import GnnSettings, ModelSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import Panel, Stations
from velib_predictor.data.profiles import CHANGE
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Arrays
from velib_predictor.models.gnn.dataset import Signals, draw
from velib_predictor.models.gnn.graph_builder import Graph, correlation_graph, distance_graph
from velib_predictor.models.network import Fitter, Given, Lesson, NetworkModel
from velib_predictor.models.stid.dataset import Outcomes, Rows, by_horizon

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_LAGS_MIN = (15, 30, 60, 120, 240, 360)
"""Of the changes beyond the usual that nodes are told."""


class Gnn(NetworkModel):
    """Networks that pass the last hours of stations along graphs, beside all that STID is told."""

    name = "gnn"
    tools: ClassVar[str] = "velib_predictor.models.gnn.fitting"

    def __init__(self, spec: ForecastSpec, settings: ModelSettings | None = None) -> None:
        super().__init__(spec, settings)
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
        return self._drawn

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max(super().lookback, self.lags[-1])

    def _draw(self, train: Panel) -> tuple[Indices, Indices, Indices]:
        assert isinstance(self.own, GnnSettings)  # noqa: S101 - for the type checker
        self._drawn = min(self.own.stations, len(train.stations))
        return draw(train, self.spec, self.own.rows, self._drawn)

    def _fitter(self, lesson: Lesson) -> Fitter:
        from velib_predictor.models.gnn.fitting import GnnFitting

        assert isinstance(self.own, GnnSettings)  # noqa: S101 - for the type checker
        train, came, channels = lesson.train, lesson.came, self.spec.channels
        self.graphs = graphs_of(train, channels[0], self.largest > 0, self.own.neighbours)
        self._around = None
        parts = by_horizon(lesson.rows, *self._sides())
        told = [part.reshape(-1, self._drawn, *part.shape[1:]) for part in parts]  # [example, station, ...]
        shape = (-1, self._drawn, 1, came.now.shape[1])
        now, truth, known = came.now.reshape(shape), came.truth.reshape(shape), came.known.reshape(shape)
        return GnnFitting(
            [lesson.tick[:: self._drawn], *told],
            Outcomes(now, truth, known, came.k.reshape(shape[:3])),
            len(self.spec.horizons), lesson.settings, self.settings.training,
            signals=Signals.of(train, channels, [sight.change for sight in lesson.sights], lesson.size, self.lags),
            graphs=self.graphs, slots=self.slots,
        )  # fmt: skip

    def _given(self, rows: Rows, seen: Panel, size: Floats) -> Given:
        last = seen.between(max(len(seen) - 1 - self.lags[-1], 0), len(seen))
        local, places = local_time(last.ticks, last.timezone), self.places(seen)
        usual = []
        for builder in self.builders:
            assert builder.profile is not None  # noqa: S101 - for the type checker
            usual.append(np.cumsum(builder.profile.at(local, places)[CHANGE], axis=0, dtype=np.float64))
        signals = Signals.of(last, self.spec.channels, usual, size, self.lags)
        graphs = self._graphs_at(seen.stations, places)
        here, there, station, slots, days, unit = by_horizon(rows, *self._sides(), len(self.spec.horizons))
        return {
            "signals": np.ascontiguousarray(signals.at(np.array([len(last) - 1]))[:, 0]),
            "near": np.stack([graph.near for graph in graphs], axis=1),
            "weight": np.stack([graph.weight for graph in graphs], axis=1),
            "here": here,
            "there": there,
            "station": station,
            "slots": slots,
            "days": days,
            "unit": unit,
        }

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
