"""Same as now: as a certainty (row 1 of every table), and with the spread that changes have had."""

from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast
from velib_predictor.models.base import Arrays, Forecaster


class Persistence(Forecaster):
    """All probability on what there is now."""

    name = "persistence"
    least_days = 0.0

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        return len(train), {"rows": "ticks"}

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen)
        now, known = self.now(seen, k)
        pmf = algebra.point(now, int(k.max()) + 1)[:, None]  # [station, 1, target, count]
        pmf = np.broadcast_to(pmf, (len(k), len(self.spec.horizons), *pmf.shape[2:]))
        return self.block(seen, pmf, k, known)
