"""The forecast that knows a synthetic city's true rates, as a forecaster: the last row of a backtest on that city."""

from typing import Any, ClassVar

import numpy as np

from velib_predictor.data.panel import CHANNELS, DOCKS, EBIKES, MECHANICAL, Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Forecaster
from velib_predictor.simulation.city import City, CityConfig
from velib_predictor.simulation.truth import TARGETS, truth
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import from_micros


class Truth(Forecaster):
    """Many futures drawn from the true rates: about the best score that any model can reach there.

    Args:
        seed: of the city.
    """

    name: ClassVar[str] = "truth"
    least_days: ClassVar[float] = 0.0
    draws: ClassVar[int] = 256

    def __init__(self, spec: ForecastSpec, seed: int) -> None:
        super().__init__(spec)
        self._seed = seed
        self._city: City | None = None

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        city = City.make(CityConfig(stations=len(train.stations), seed=self._seed))
        if set(city.stations.id.astype(str).tolist()) != set(train.stations.id):
            raise UsageError(
                f"{train.system_id!r} is not the synthetic city of {len(train.stations)} stations and seed "
                f"{self._seed}: the true rates are known of those cities only that `velib city` made"
            )
        self._city = city
        return 0, {"rows": "none: it knows the rates", "draws": self.draws}

    def _predict(self, seen: Panel) -> Forecast:
        assert self._city is not None  # noqa: S101 - `predict` refuses before
        ids = self._city.stations.id.astype(str).tolist()
        column = np.array([seen.stations.id.index(name) for name in ids])  # [station of the city]
        k = self.greatest(seen)
        _, known = self.now(seen, k)
        shown = np.maximum(seen.counts[-1][column], 0)  # [station of the city, channel]
        at = from_micros(int(seen.ticks[-1].astype("datetime64[us]").astype(np.int64)))
        drawn = truth(
            self._city, at, shown[:, MECHANICAL], shown[:, EBIKES], shown[:, DOCKS], self.spec.horizons, self.draws
        )
        size = max(int(k.max()) + 1, drawn.shape[-1])
        pmf = np.zeros((len(k), drawn.shape[1], len(self.spec.targets), size), dtype=np.float32)
        wanted = [TARGETS.index(CHANNELS[channel]) for channel in self.spec.channels]
        pmf[column, :, :, : drawn.shape[-1]] = drawn[:, :, wanted]
        known &= seen.observed[-1].all(axis=1)[:, None]  # what it draws from is all that the feed shows
        return self.block(seen, pmf, k, known)  # no station holds more than its capacity, which K includes
