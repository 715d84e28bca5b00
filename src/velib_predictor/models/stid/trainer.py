"""STID as a forecaster: one row an origin, station and horizon, with all features of the trees."""

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import Panel
from velib_predictor.models.network import Fitter, Given, Lesson, NetworkModel
from velib_predictor.models.stid.dataset import Rows, draw

Indices = npt.NDArray[np.int64]


class Stid(NetworkModel):
    """Networks on the features of the trees, with embeddings of station, time of day and kind of day."""

    name = "stid"

    def _draw(self, train: Panel) -> tuple[Indices, Indices, Indices]:
        return draw(train, self.spec, self.most_rows)

    def _fitter(self, lesson: Lesson) -> Fitter:
        from velib_predictor.models.stid.fitting import fit_fold

        rows, came = lesson.rows, lesson.came

        def fit(inside: Indices, held_out: Indices, seed: int) -> tuple[bytes, float]:
            return fit_fold(
                rows.take(inside), came.take(inside), rows.take(held_out), came.take(held_out),
                stations=len(lesson.train.stations), slots=self.slots, small=lesson.small, epochs=self.epochs,
                seed=seed,
            )  # fmt: skip

        return fit

    def _given(self, rows: Rows, seen: Panel, size: npt.NDArray[np.float32]) -> Given:  # noqa: ARG002 - rows say all
        return {
            "features": rows.features,
            "station": rows.station,
            "slot": rows.slot,
            "day": rows.day,
            "unit": rows.unit,
        }
