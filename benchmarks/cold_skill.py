"""What the cold-start model is worth in a city: `python benchmarks/cold_skill.py ../shared/data --city V60`.

Beside persistence stand the spread of changes fitted on the city itself, which a city without history cannot have
(`persistence_delta`), and the one fitted on another city (`delta_elsewhere`). `first_poll` is the cold-start model that
is shown nothing but the newest poll. Weights made without the city (`pretrain.py --without`) say what a new one may
expect; those of the package have seen the city's earlier days. Bordeaux was never learned from.
"""

import argparse
import csv
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lessons import SOURCES, Grid, panel_of
from protocols import SETTINGS
from velib_predictor.data.panel import Panel
from velib_predictor.evaluation.evaluator import Protocol, backtest
from velib_predictor.evaluation.report import report
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.baseline.persistence import PersistenceDelta
from velib_predictor.models.coldstart.trainer import ColdStart
from velib_predictor.utils.temporal import from_micros

sys.path.append(str(Path(__file__).parents[1]))
HOUR = timedelta(hours=1)
LAST_DAYS = {"S15": timedelta(days=7)}
"""Of the long protocol only the end."""


class FirstPoll(ColdStart):
    """Shown the newest tick alone."""

    name = "first_poll"

    @property
    def lookback(self) -> int:
        return 0


class DeltaElsewhere(PersistenceDelta):
    """The spread that changes have had in another city."""

    name = "delta_elsewhere"

    def __init__(self, spec: ForecastSpec, other: Panel) -> None:
        super().__init__(spec)
        self._other = other

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        made = PersistenceDelta(self.spec)
        made.fit(self._other, from_micros(int(self._other.ticks[-1].astype("int64")) * 1_000_000))
        self.table = made.table
        return len(train), {}


def city(data: Path, name: str) -> tuple[Panel, Protocol]:
    """A city's panel, tests and all, and how it is judged."""
    if name == "bordeaux":
        return bordeaux(data)
    setting = SETTINGS[name]
    protocol = setting.protocol("bikes,ebikes,docks")
    if name in LAST_DAYS:
        protocol = replace(protocol, test_from=protocol.test_until - LAST_DAYS[name])
    grid = Grid(setting.step_min, setting.tolerance_min, 0)
    return panel_of(data / setting.folder, setting.system, setting.timezone, None, grid), protocol


def bordeaux(data: Path) -> tuple[Panel, Protocol]:
    """The split of docs/model_details.md: the last quarter is the test."""
    from tests.test_models.bordeaux import bordeaux as read

    panel = read(data)
    with (data / "bordeaux_vcub_2014" / "stations.csv").open(encoding="utf-8") as file:
        rows = {row["station_id"]: row for row in csv.DictReader(file, delimiter=";")}
    lat, lon = (np.array([float(rows[name][axis]) for name in panel.stations.id]) for axis in ("latitude", "longitude"))
    panel = replace(panel, stations=replace(panel.stations, lat=lat, lon=lon))
    first, cut, last = (
        from_micros(int(panel.ticks[int(len(panel) * share)].astype("int64")) * 1_000_000)
        for share in (0, 0.75, 0.9999)
    )
    spec = ForecastSpec(HOUR, tuple(hours * HOUR for hours in (1, 2, 3, 6)), ("bikes", "docks"))
    return panel, Protocol(spec, first, cut, cut, last, panel.tolerance)


def elsewhere(data: Path, name: str, step_min: int) -> Panel:
    """Paris for San Francisco, San Francisco for all others."""
    wanted = "velib_2024_11" if name == "S15" else "baywheels_2023"
    (source,) = (source for source in SOURCES if source.folder == wanted)
    return panel_of(data / wanted, source.system, source.timezone, source.until, Grid(step_min, 20, 0))


def table(data: dict[str, Any]) -> list[str]:
    """Markdown: a row a target, horizon and model."""
    lines = [
        "| target | horizon | model | RPS | skill | Brier >=1 | ECE >=1 | 80 % | 90 % | log score |",
        "|---|---|---|" + "---:|" * 7,
    ]
    base = data["models"]["persistence"]["scores"]
    for place, first in enumerate(base):
        for name, model in data["models"].items():
            row = model["scores"][place]
            lines.append(
                f"| {first['target']} | {first['horizon']} | {name} | {row['rps']:.3f} |"
                f" {1 - row['rps'] / first['rps']:.1%} | {row['brier']:.4f} | {row['ece']:.3f} |"
                f" {row['coverage_80']:.3f} | {row['coverage_90']:.3f} | {row['log_score']:.3f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--city", choices=(*SETTINGS, "bordeaux"), required=True)
    parser.add_argument("--weights", type=Path, help="folder of other weights than the package's")
    options = parser.parse_args()
    begun = time.process_time()
    panel, protocol = city(options.data, options.city)
    spec = protocol.spec
    cold: list[ColdStart] = [ColdStart(spec), FirstPoll(spec)]
    for model in cold:
        model.folder = options.weights
    other = elsewhere(options.data, options.city, int(spec.step.total_seconds()) // 60)
    data = report(backtest(panel, ["persistence_delta", DeltaElsewhere(spec, other), *cold], protocol))
    took = time.process_time() - begun
    print(f"{options.city}: {data['origins']} origins, {data['stations']} stations, {took:.0f} CPU s")
    print("\n".join(table(data)))


if __name__ == "__main__":
    main()
