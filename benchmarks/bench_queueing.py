"""A queueing forecast of a whole network against the bare point forecast: `python benchmarks/bench_queueing.py`.

Bare: persistence, the contract's cheapest forecast (the same distributions, all mass on one count). Ours: `predict`
from one origin for 4 targets, from the panel to ordered distributions; with horizons up to 3 hours, and with all twelve
up to a day. Promise: under 1 s and under 4 s for 1,500 stations, on one thread. They run in turn; the best time counts.
"""

import argparse
import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # before numpy is imported

import time
from datetime import timedelta

import numpy as np

from synthetic import city
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import DEFAULT_HORIZONS, ForecastSpec
from velib_predictor.models.base import Forecaster
from velib_predictor.models.baseline.persistence import Persistence
from velib_predictor.models.baseline.queueing import Queueing
from velib_predictor.utils.temporal import from_micros


def fitted(model: Forecaster, panel: Panel) -> float:
    """Seconds that fitting on all but the panel's last day takes."""
    until = (panel.ticks[-1] - np.timedelta64(1, "D")).astype("datetime64[us]").astype(int)
    begun = time.perf_counter()
    model.fit(panel, from_micros(int(until)))
    return time.perf_counter() - begun


def seconds(model: Forecaster, panel: Panel) -> float:
    """Seconds that one forecast from the panel's middle of the last day takes."""
    begun = time.perf_counter()
    (forecast,) = model.predict(panel, panel.ticks[[-48]])
    assert forecast.known.any()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=1_500)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    panel = city(arguments.stations, arguments.days)
    day = ForecastSpec(horizons=DEFAULT_HORIZONS)
    hours = ForecastSpec(horizons=tuple(h for h in DEFAULT_HORIZONS if h <= timedelta(hours=3)))
    print(f"{panel!r}")
    for spec in (hours, day):
        ours, bare = Queueing(spec), Persistence(spec)
        fit_s = fitted(ours, panel)
        fitted(bare, panel)
        times = np.array([[seconds(ours, panel), seconds(bare, panel)] for _ in range(arguments.rounds)]).min(axis=0)
        print(
            f"to {spec.horizons[-1]}, {len(spec.horizons)} horizons: fit {fit_s:.1f} s, forecast {times[0]:.2f} s, "
            f"bare {times[1]:.2f} s, {times[0] / times[1]:.1f} times as long",
            flush=True,
        )


if __name__ == "__main__":
    main()
