"""The LSTM as a forecaster: an example an origin and station, with a few of its horizons each in training."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from velib_predictor.data.outside import EVENT, SCHOOL, WEATHER
from velib_predictor.data.panel import Panel
from velib_predictor.models.lstm.dataset import Examples, draw, history, windows
from velib_predictor.models.network import Fitter, Given, Lesson, NetworkModel
from velib_predictor.models.stid.dataset import Rows, together_of

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_STEPS, _STEP_MIN = 24, 60
"""Of the LSTM; steps of the panel that are longer are taken as they are."""
_HORIZONS = 4
"""Of an example of training."""
FEATURES = (
    "value", "room", "size", "out_of_order", "usual_gap", "moves_a_tick",
    "network_change_60m", "network_surprise_60m",
    "neighbours_occupancy", "neighbours_change_60m", "neighbours_surprise_60m",
    "horizon_min", "usual_change", "usual_activity", "usual_gap_at_target", "neighbours_usual_change",
    "yesterday_change", "yesterday_gap", "last_week_change", "last_week_gap", *WEATHER, *SCHOOL, *EVENT,
)  # fmt: skip
"""What of the builders' columns the network is told: what the last day of the station itself does not hold."""


class Lstm(NetworkModel):
    """An LSTM over the last day of each station, weights shared, with embeddings of station and time."""

    name = "lstm"
    features: ClassVar[tuple[str, ...]] = FEATURES

    @property
    def patch(self) -> int:
        """Ticks that make one step of the LSTM."""
        return max(_STEP_MIN * 60 // int(self.spec.step.total_seconds()), 1)

    @property
    def window(self) -> int:
        """Ticks that it reads, up to the origin and with it."""
        return _STEPS * self.patch

    @property
    def together(self) -> int:
        """See `NetworkModel`."""
        return min(_HORIZONS, len(self.spec.horizons))

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max(super().lookback, self.window - 1)

    def columns(self) -> Indices:
        """See `NetworkModel`."""
        names = [name for builder in self.builders for name in builder.names]
        return np.flatnonzero(np.isin(names, self.features))

    def _draw(self, train: Panel) -> tuple[Indices, Indices, Indices]:
        return draw(train, self.spec, self.own.rows, self.together)

    def _fitter(self, lesson: Lesson) -> Fitter:
        from velib_predictor.models.lstm.fitting import LstmFitting

        station = lesson.rows.station[:: self.together]
        told = Examples.of(lesson.rows, lesson.tick[:: self.together], lesson.size[station], self.together)
        return LstmFitting(
            told.parts, together_of(lesson.came, self.together), len(self.spec.horizons), lesson.settings,
            self.settings.training, past=history(lesson.train, self.window), window=self.window, patch=self.patch,
            stations=len(lesson.train.stations), slots=self.slots,
        )  # fmt: skip

    def _given(self, rows: Rows, seen: Panel, size: Floats) -> Given:
        last = seen.between(max(len(seen) - self.window, 0), len(seen))
        told = Examples.of(rows, np.full(len(size), len(last) - 1), size, len(self.spec.horizons))
        return {
            "window": np.ascontiguousarray(windows(history(last, self.window), self.window)[:, -1]),
            "size": told.size,
            "features": told.features,
            "station": told.station,
            "slot": told.slot,
            "day": told.day,
            "unit": told.unit,
        }
