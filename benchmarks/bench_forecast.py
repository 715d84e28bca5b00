"""XGBoost's forecast of a network against its trees alone: `python benchmarks/bench_forecast.py [--stations N]`.

Bare: XGBoost's prediction of feature rows that lie ready (all stations, 12 horizons, 4 targets, three folds and the
spread). Ours: `predict` from one origin, the whole way from the panel to ordered distributions; once as a process does
that has just loaded the model and the panel, and then from origin to origin. Promise: under 1 s. Both run in turn; the
best time counts. CPU seconds are those of all cores: on a
busy machine they say more than the clock.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from synthetic import city
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Forecaster, load_model
from velib_predictor.models.baseline.change import Floats
from velib_predictor.models.baseline.linear import XGBoost
from velib_predictor.utils.temporal import from_micros


def fitted(panel: Panel, folder: Path, rows: int | None) -> None:
    """An XGBoost model of all but the last day of a panel, kept in a folder."""
    kind = XGBoost if rows is None else type("XGBoost", (XGBoost,), {"most_rows": rows})
    model = kind(ForecastSpec())
    until = (panel.ticks[-1] - np.timedelta64(1, "D")).astype("datetime64[us]").astype(int)
    begun = time.perf_counter()
    report = model.fit(panel, from_micros(int(until)))
    print(f"fit on {report.rows} rows of {report.days} days: {time.perf_counter() - begun:.1f} s", flush=True)
    model.save(folder)


def rows_of(model: XGBoost, panel: Panel) -> list[Floats]:
    """The feature rows of a forecast from the panel's last tick, float32[row, feature] for each target."""
    ahead = model.spec.horizon_ticks
    sights = [target.builder.sight(panel, model.places(panel), ahead[-1]) for target in model.targets]
    return [target.builder.all_rows(sight, ahead) for target, sight in zip(model.targets, sights, strict=True)]


def bare(model: XGBoost, features: list[Floats]) -> None:
    for target, rows in zip(model.targets, features, strict=True):
        for regression in (*target.change, target.spread):
            regression.predict(rows)


def ours(model: Forecaster, panel: Panel) -> None:
    (forecast,) = model.predict(panel, panel.ticks[-1:])
    assert forecast.pmf.shape[1:4] == (len(panel.stations), 12, 4)


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of all cores together."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - begun_cpu


def fresh(panel: Panel) -> Panel:
    """The panel with its stations a bit further north: nothing kept of who is whose neighbour applies."""
    return replace(
        panel, stations=replace(panel.stations, lat=panel.stations.lat + 1e-4 * np.random.default_rng().random())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stations", type=int, default=1_500)
    parser.add_argument("--days", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, help="fit on so many rows (default: as many as the model takes)")
    parser.add_argument("--model", type=Path, help="folder of a fitted model to use, or to keep it in for the next run")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    arguments = parser.parse_args()
    panel = city(arguments.stations, arguments.days)
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.model or Path(temporary)
        if not (folder / "metadata.json").exists():
            fitted(panel, folder, arguments.rows)
        model = load_model(folder)
    assert isinstance(model, XGBoost)
    features = rows_of(model, panel)
    works: tuple[Callable[[], None], ...] = (
        lambda: bare(model, features),
        lambda: ours(model, panel),
        lambda: ours(model, fresh(panel)),
    )
    rounds = [[seconds(work) for work in works] for _ in range(arguments.rounds)]
    best = [[min(times) for times in zip(*work, strict=True)] for work in zip(*rounds, strict=True)]
    print(f"{arguments.stations} stations\n{'':<14}{'s':>8}{'/bare':>8}{'cpu s':>8}{'/bare':>8}")
    for name, (clock, cpu) in zip(("bare trees", "ours", "ours, anew"), best, strict=True):
        print(f"{name:<14}{clock:>8.3f}{clock / best[0][0]:>8.2f}{cpu:>8.3f}{cpu / best[0][1]:>8.2f}")
    if arguments.profile:
        with cProfile.Profile() as profile:
            ours(model, fresh(panel))
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
