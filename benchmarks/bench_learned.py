"""A learned model's forecast against its networks alone: `python benchmarks/bench_learned.py [--model stid]`.

Bare: the ONNX networks on feature rows that lie ready (all stations, 12 horizons). Ours: `predict` from one origin,
the whole way from the panel to ordered distributions of four targets. Both run in turn; the best time counts. Promise:
under 300 ms on one core. The time to fit on 1,500 stations is printed first (promise: under 10 minutes).
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from synthetic import city
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Forecaster, forecaster, load_model
from velib_predictor.utils.temporal import from_micros


def recorded(model: Any) -> list[Any]:
    """The rows that its networks are asked with; from then on they are asked as before."""
    asked: list[Any] = []

    def watch(network: Any) -> Any:
        def ask(rows: Any) -> Any:
            asked.append((network, rows))
            return network(rows)

        return ask

    model._networks = [watch(network) for network in model._networks]
    return asked


def best_of(rounds: int, work: Any) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stid")
    parser.add_argument("--stations", type=int, default=1_500)
    parser.add_argument("--days", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="of a fitted model to use, or to keep it in for the next run")
    options = parser.parse_args()
    panel = city(options.stations, options.days)
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.folder or Path(temporary)
        if not (folder / "metadata.json").exists():
            made = forecaster(options.model)(ForecastSpec())
            until = (panel.ticks[-1] - np.timedelta64(1, "D")).astype("datetime64[us]").astype(int)
            begun = time.perf_counter()
            report = made.fit(panel, from_micros(int(until)))
            print(f"fit on {report.rows} rows: {time.perf_counter() - begun:.0f} s", flush=True)
            made.save(folder)
        model: Forecaster = load_model(folder)
        origin = panel.ticks[-1:]
        next(model.predict(panel, origin))
        asked = recorded(model)
        next(model.predict(panel, origin))
        bare = best_of(options.rounds, lambda: [network(rows) for network, rows in list(asked[:3])])
        ours = best_of(options.rounds, lambda: next(model.predict(panel, origin)))
    numbers = f"networks alone {bare:.3f} s, forecast {ours:.3f} s, {ours / bare:.1f}x"
    print(f"{options.stations} stations, {options.model}: {numbers}")


if __name__ == "__main__":
    main()
