"""Sums of scores, gathered block by block: memory stays flat however long the test is."""

from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast
from velib_predictor.training import metrics

METRICS = (
    "rows",
    "rps",
    "abs_error_median",
    "abs_error_mean",
    "squared_error_mean",
    "brier",
    "log_score",
    "covered_80",
    "covered_90",
    "rows_undecided",
    "brier_undecided",
    "above_k",
)
UNDECIDED = 5
"""A station is undecided about P(at least 1) while it has at most this many."""
BINS = 20
Floats = npt.NDArray[np.float64]


class ScoreBook:
    """One model's sums. The last axis of each table is `METRICS`, the ones before it are horizon and target.

    Attributes:
        by_day: float64[day, horizon, target, metric], days in the order in which they came; `days` numbers them.
        by_hour: float64[hour of issue, horizon, target, metric], local hours 0 to 23.
        by_station: float64[station, horizon, target, metric].
        reliability, reliability_undecided: of P(at least 1), float64[horizon, target, bin, (rows, probability, event)].
        pit: float64[horizon, target, bin].
    """

    def __init__(self, stations: int, horizons: int, targets: int) -> None:
        shape = (horizons, targets, len(METRICS))
        self.days: list[int] = []
        self.by_day: list[Floats] = []
        self.by_hour = np.zeros((24, *shape))
        self.by_station = np.zeros((stations, *shape))
        self.reliability = np.zeros((horizons, targets, BINS, 3))
        self.reliability_undecided = np.zeros((horizons, targets, BINS, 3))
        self.pit = np.zeros((horizons, targets, BINS))

    def add(
        self,
        forecast: Forecast,
        truth: npt.NDArray[np.int16],
        use: npt.NDArray[np.bool_],
        now: npt.NDArray[np.int16],
        day: int,
        hour: int,
    ) -> None:
        """Add the rows of one origin.

        Args:
            forecast: of that origin alone.
            truth: what came, int16[station, horizon, target].
            use: which rows count, bool[station, horizon, target].
            now: count at the origin, int16[station, target].
            day, hour: number of the local date and local hour of the origin.
        """
        values = self._values(forecast, truth, use, now)  # [metric, station, horizon, target]
        per_station = np.moveaxis(np.where(use, values, 0.0), 0, -1)
        self.by_station += per_station
        total = per_station.sum(axis=0)
        self.by_hour[hour] += total
        if not self.days or self.days[-1] != day:
            self.days.append(day)
            self.by_day.append(np.zeros_like(total))
        self.by_day[-1] += total

    def _values(
        self,
        forecast: Forecast,
        truth: npt.NDArray[np.int16],
        use: npt.NDArray[np.bool_],
        now: npt.NDArray[np.int16],
    ) -> npt.NDArray[np.float32]:
        pmf, k = forecast.pmf[0], forecast.k[0][:, None, None]  # [station, horizon, target, count], [station, 1, 1]
        cdf = algebra.to_cdf(pmf)
        clipped = np.where(use, np.minimum(truth, k), 0).astype(np.int64)
        event = clipped >= 1
        chance = algebra.at_least(pmf, 1)
        undecided = np.broadcast_to((now <= UNDECIDED)[:, None, :], use.shape) & use
        brier = metrics.brier(chance, event)
        mass = metrics.pit_mass(cdf, clipped, BINS)
        for horizon in range(use.shape[1]):
            for target in range(use.shape[2]):
                at = slice(None), horizon, target
                self.reliability[horizon, target] += metrics.reliability(chance[at], event[at], use[at], BINS)
                self.reliability_undecided[horizon, target] += metrics.reliability(
                    chance[at], event[at], undecided[at], BINS
                )
                self.pit[horizon, target] += mass[at][use[at]].sum(axis=0)
        mean = algebra.mean(pmf)
        return np.stack(
            [
                use.astype(np.float32),
                metrics.rps(cdf, clipped),
                metrics.absolute_error(algebra.quantile(cdf, 0.5), clipped),
                metrics.absolute_error(mean, clipped),
                metrics.squared_error(mean, clipped),
                brier,
                metrics.log_score(pmf, clipped, k),
                metrics.covered(cdf, clipped, 0.8).astype(np.float32),
                metrics.covered(cdf, clipped, 0.9).astype(np.float32),
                undecided.astype(np.float32),
                np.where(undecided, brier, 0),
                (truth > k).astype(np.float32),
            ]
        )

    @property
    def total(self) -> Floats:
        """Sums over everything, float64[horizon, target, metric]."""
        whole: Floats = np.sum(self.by_day, axis=0)
        return whole


def means(sums: Floats) -> dict[str, Any]:
    """The scores of one row of sums [metric], by name; null where nothing was scored."""
    named = dict(zip(METRICS, (float(value) for value in sums), strict=True))
    rows, undecided = named["rows"], named["rows_undecided"]

    def over(name: str, count: float = rows) -> float | None:
        return named[name] / count if count else None

    squared = over("squared_error_mean")
    return {
        "rows": int(rows),
        "rps": over("rps"),
        "mae_median": over("abs_error_median"),
        "mae_mean": over("abs_error_mean"),
        "rmse_mean": None if squared is None else squared**0.5,
        "brier": over("brier"),
        "brier_undecided": over("brier_undecided", undecided),
        "rows_undecided": int(undecided),
        "log_score": over("log_score"),
        "coverage_80": over("covered_80"),
        "coverage_90": over("covered_90"),
        "truth_above_k": int(named["above_k"]),
    }
