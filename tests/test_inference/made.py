"""Issues made by hand, for tests of what keeps, serves and judges them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.test_models.panels import bare_panel
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.inference.issue import Issue, Source, State

MINUTE = timedelta(minutes=1)
ISSUED = datetime(2024, 10, 23, 0, 15, tzinfo=UTC)
"""The second tick of a bare panel."""
SPEC = ForecastSpec(horizons=(15 * MINUTE, 60 * MINUTE), targets=("bikes", "ebikes", "docks"))


def small_panel(stations: int = 3, size: int = 9) -> Panel:
    """Two ticks; at the second one station n has n bikes, one of them electric, and `size` docks in all."""
    counts = np.zeros((2, stations, 4), dtype=np.int16)
    bikes = np.arange(stations)
    counts[-1, :, 0], counts[-1, :, 2] = bikes, np.minimum(bikes, 1)
    counts[-1, :, 1] = counts[-1, :, 0] - counts[-1, :, 2]
    counts[-1, :, 3] = size - bikes
    return bare_panel(counts, np.full(stations, size))


def forecast_of(
    pmf: npt.NDArray[np.float32],
    k: npt.NDArray[np.int16],
    spec: ForecastSpec = SPEC,
    known: npt.NDArray[np.bool_] | None = None,
) -> Forecast:
    """From pmf [station, horizon, target, count], k [station] and known [station, target]."""
    stations = len(k)
    origins = np.array([ISSUED.replace(tzinfo=None)], dtype="datetime64[s]")
    ids = tuple(str(100 + number) for number in range(stations))
    known = np.ones((stations, len(spec.targets)), dtype=bool) if known is None else known
    return Forecast(spec, "any", origins, ids, pmf[None], k[None], known[None])


def spread(stations: int = 3, size: int = 9, seed: int = 0, spec: ForecastSpec = SPEC) -> Forecast:
    """Some forecast, of which every count has a share."""
    random = np.random.default_rng(seed)
    shape = (stations, len(spec.horizons), len(spec.targets), size + 1)
    pmf = random.dirichlet(np.ones(size + 1), shape[:-1]).astype(np.float32)
    return forecast_of(pmf, np.full(stations, size, dtype=np.int16), spec).ordered()


def issue_of(forecast: Forecast, panel: Panel, **changes: Any) -> Issue:
    """An issue of a forecast; all of it from the model, fresh, unless `changes` say otherwise."""
    source = np.where(forecast.known[0], Source.MODEL, Source.NONE).astype(np.uint8)
    issued = forecast.origins[0].item().replace(tzinfo=UTC)
    made = Issue.of(
        forecast,
        panel,
        source,
        made_at=issued + timedelta(seconds=3),
        observed_at=issued - MINUTE,
        model=forecast.model,
        version="20241022T020000.000000Z",
        state=State.FRESH,
        reason=None,
    )
    return replace(made, **changes)


def some_issue(system_id: str = "town", issued_at: datetime = ISSUED, **changes: Any) -> Issue:
    """A small issue of that time."""
    whole = issue_of(spread(), small_panel(), system_id=system_id, issued_at=issued_at)
    return replace(whole, made_at=issued_at + timedelta(seconds=3), **changes)
