"""A learned model's forecast against its networks alone: `python benchmarks/bench_learned.py [--model stid]`.

Bare: the ONNX network on feature rows that lie ready (all stations, 12 horizons). Ours: `predict` from one origin,
the whole way from the panel to ordered distributions of four targets. Both run in turn; the best time counts. Promise:
under 300 ms on one core. The time to fit on 1,500 stations x 8 weeks is printed first (promise: under 10 minutes for
stid, 20 for lstm and gnn, 4 GiB).
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from synthetic import city
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Forecaster, forecaster, load_model
from velib_predictor.utils.temporal import from_micros


class Watched:
    """A network that notes what it is asked with."""

    def __init__(self, network: Any, asked: list[Any]) -> None:
        self.network, self.inputs, self.asked = network, network.inputs, asked

    def __call__(self, given: Any) -> Any:
        self.asked.append((self.network, given))
        return self.network(given)


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
    parser.add_argument("--days", type=int, default=56)
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
            took, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            cpu = time.process_time()
            print(
                f"fit on {report.rows} rows of {options.days} days: {took:.0f} s, {cpu:.0f} s of processors, "
                f"peak memory {peak:.1f} GiB; scores {report.details.get('rps')}",
                flush=True,
            )
            made.save(folder)
        model: Forecaster = load_model(folder)
        origin = panel.ticks[-1:]
        next(model.predict(panel, origin))
        asked: list[Any] = []
        networks, model._networks = model._networks, [Watched(one, asked) for one in model._networks]  # type: ignore[attr-defined]
        next(model.predict(panel, origin))
        model._networks = networks  # type: ignore[attr-defined]
        bare = best_of(options.rounds, lambda: [network(rows) for network, rows in asked])
        ours = best_of(options.rounds, lambda: next(model.predict(panel, origin)))
    numbers = f"networks alone {bare:.3f} s, forecast {ours:.3f} s, {ours / bare:.1f}x"
    print(f"{options.stations} stations, {options.model}: {numbers}")


if __name__ == "__main__":
    main()
