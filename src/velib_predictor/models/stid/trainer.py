"""STID as a forecaster: one row an origin, station and horizon, with all features of the trees."""

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import Panel
from velib_predictor.models.network import Fitter, Given, Lesson, NetworkModel
from velib_predictor.models.stid.dataset import Rows, by_horizon, draw, together_of

Indices = npt.NDArray[np.int64]


_MOST_CELLS = 180_000_000
"""Rows times features: what is held at once, 4 bytes each. With one target that is no limit, with four it is."""


class Stid(NetworkModel):
    """Networks on the features of the trees, with embeddings of station, time of day and kind of day."""

    name = "stid"

    def _draw(self, train: Panel) -> tuple[Indices, Indices, Indices]:
        columns = sum(len(builder.names) for builder in self.builders)
        return draw(train, self.spec, min(self.own.rows, _MOST_CELLS // columns))

    def _fitter(self, lesson: Lesson) -> Fitter:
        from velib_predictor.models.stid.fitting import StidFitting

        return StidFitting(
            by_horizon(lesson.rows, *self._sides(), dtype=np.float16), together_of(lesson.came, 1),
            len(self.spec.horizons), lesson.settings, self.settings.training, stations=len(lesson.train.stations),
            slots=self.slots,
        )  # fmt: skip

    def _given(self, rows: Rows, seen: Panel, size: npt.NDArray[np.float32]) -> Given:  # noqa: ARG002 - rows say all
        if "features" in self.inputs:  # networks of before 2026-11-25, of one horizon an example
            return {
                "features": rows.features,
                "station": rows.station,
                "slot": rows.slot,
                "day": rows.day,
                "unit": rows.unit,
            }
        here, there, station, slots, days, unit = by_horizon(rows, *self._sides(), len(self.spec.horizons))
        return {"here": here, "there": there, "station": station, "slots": slots, "days": days, "unit": unit}
