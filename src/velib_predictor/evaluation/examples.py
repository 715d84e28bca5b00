"""A few forecasts kept whole, to be looked at: fan charts of some stations at some hours."""

from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import LocalTime
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.utils.temporal import format_time, from_micros

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_HOURS = (8, 17)
_STATIONS = 3
_BEFORE_H = 6


class Examples:
    """Forecasts of the first target for the liveliest, a middling and an emptier station, at two hours of a day."""

    def __init__(self, panel: Panel, spec: ForecastSpec, origins: npt.NDArray[np.int64], local: LocalTime) -> None:
        self._panel, self._spec = panel, spec
        channel = spec.channels[0]
        test = slice(int(origins[0]), int(origins[-1]) + 1)
        counts = np.where(panel.observed[test, :, channel], panel.counts[test, :, channel], 0).astype(np.float32)
        moves = np.abs(np.diff(counts, axis=0)).sum(axis=0) * panel.observed[test, :, channel].mean(axis=0)
        order = np.argsort(-moves, kind="stable")
        alive = max(int((moves > 0).sum()), 1)
        self._stations = [int(order[min(int(alive * share), len(order) - 1)]) for share in (0.0, 0.25, 0.6)][:_STATIONS]
        self._origins = {
            int(candidates[len(candidates) // 2])
            for hour in _HOURS
            if len(candidates := origins[local.hour[origins] == hour])
        } or {int(origins[len(origins) // 2])}
        self.charts: list[dict[str, Any]] = []

    def add(self, origin: int, forecasts: dict[str, Forecast]) -> None:
        """Keep this origin's forecasts, if it is one of those to show."""
        if origin not in self._origins:
            return
        panel, spec = self._panel, self._spec
        channel = spec.channels[0]
        back = max(int(_BEFORE_H * 3600 // panel.step_s), 1)
        ticks = np.arange(max(origin - back, 0), min(origin + spec.horizon_ticks[-1] + 1, len(panel)))
        for station in self._stations:
            seen = panel.observed[ticks, station, channel]
            counts = panel.counts[ticks, station, channel]
            self.charts.append(
                {
                    "station_id": panel.stations.id[station],
                    "name": panel.stations.name[station],
                    "target": spec.targets[0],
                    "issued_at": self._time(panel.ticks[origin]),
                    "observed": [
                        [self._time(tick), int(count) if known else None]
                        for tick, count, known in zip(panel.ticks[ticks], counts, seen, strict=True)
                    ],
                    "target_at": [
                        self._time(panel.ticks[origin] + np.timedelta64(h * panel.step_s, "s"))
                        for h in spec.horizon_ticks
                    ],
                    "models": {
                        name: {str(q): forecast.quantile(q)[0, station, :, 0].tolist() for q in QUANTILES}
                        for name, forecast in forecasts.items()
                        if forecast.known[0, station, 0]
                    },
                }
            )

    @staticmethod
    def _time(tick: np.datetime64) -> str:
        return format_time(from_micros(int(tick.astype("datetime64[us]").astype(np.int64))))
