"""Makes the small old models beside it: `python -m tests.test_models.artifacts.make NAME...`, from the repository.

They are made once and kept: what is saved today must load tomorrow. A new layout gets new ones, in folders of its own.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from tests.test_models.learned import tiny_networks
from tests.test_models.panels import small_city
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Forecaster, forecaster

FOLDER = Path(__file__).parent
SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=2)), targets=("bikes",))
UNTIL = datetime(2024, 10, 31, tzinfo=UTC)
PLACES = (96 * 8 + 30, 96 * 9 - 1)
"""Origins of the recorded forecasts."""


def panel() -> Panel:
    """Nine days of five stations; the models were fitted on eight."""
    return small_city(seed=11, days=9, stations=5)


def forecasts(model: Forecaster) -> npt.NDArray[np.float32]:
    """Its distributions, float32[origin, station, horizon, target, count]."""
    asked = panel()
    return np.concatenate([one.pmf for one in model.predict(asked, asked.ticks[list(PLACES)])])


def main(names: Sequence[str]) -> None:
    """Fit, save and record each."""
    models = "velib_predictor.models"
    # The other members keep histograms of megabytes.
    with tiny_networks(stid=0.8, queueing=0.1, climatology=0.1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{models}.baseline.queueing.ROWS", 300)
        patch.setattr(f"{models}.champion.judge._ORIGINS", 10)
        for name in names:
            model = forecaster(name)(SPEC)
            model.fit(panel(), UNTIL)
            model.save(FOLDER / name)
            save_file({"pmf": forecasts(model)}, FOLDER / f"{name}.forecasts.safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
