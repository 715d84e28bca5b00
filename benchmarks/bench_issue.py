"""From a poll to the served answer, against the model alone: `python benchmarks/bench_issue.py [--model NAME]`.

A city of 1,500 stations with nine days of history. Its feed is polled over HTTP and stored, an issue is made of it and
stored, taken over by the API and asked for over HTTP: 12 horizons, 4 targets. Promise: under 3 s. Also printed: what a
day of issues takes in the database (promise: at most 150 MB), and the resident memory of a process that collects,
forecasts and serves (promise: under 450 MB). The best round counts; the first, which reads the whole history, apart.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from velib_predictor.api.app import create_app
from velib_predictor.api.server import Server, bind
from velib_predictor.api.service import Service
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.collector import Collector
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.inference.issues import Issues
from velib_predictor.inference.live import LivePanel
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import IssueJob
from velib_predictor.jobs.retrain import retrain
from velib_predictor.simulation.city import SYSTEM_ID, City, CityConfig
from velib_predictor.simulation.clock import Clock
from velib_predictor.simulation.history import write_history
from velib_predictor.simulation.server import CityServer

QUARTER = timedelta(minutes=15)


class HandClock(SystemClock):
    """A clock that is set by hand."""

    def __init__(self, city: Clock) -> None:
        super().__init__()
        self.city = city

    def now(self) -> datetime:
        return self.city.now()

    def step(self) -> float | None:
        return None


def timed(times: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    result = work()
    times.setdefault(name, []).append(time.perf_counter() - begun)
    return result


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def prepare(folder: Path, stations: int, days: int, model: str) -> None:
    """History, import and training, in a process of its own: none of it counts as the memory of serving."""
    now = datetime(2026, 3, 20, 12, tzinfo=UTC)
    city = City.make(CityConfig(stations=stations))
    write_history(city, now - timedelta(days=days), now, timedelta(minutes=5), folder)
    settings = settings_of(folder, model)
    with closing(Database(settings.database_url)) as database:
        database.upgrade()
        import_history(
            database, SYSTEM_ID, folder / "stations.parquet", [folder / "status.parquet"], folder / "polls.parquet",
            timezone="Europe/Paris",
        )  # fmt: skip
        begun = time.perf_counter()
        retrain(settings, database, SYSTEM_ID, now)
        print(f"{model} trained in {time.perf_counter() - begun:.0f} s", flush=True)


def settings_of(folder: Path, model: str, url: str = "") -> Settings:
    forecast = Settings().forecast.model_copy(update={"train_model": model, "model": model, "train_days": 10})
    return Settings().model_copy(
        update={
            "data_dir": folder,
            "models_dir": folder / "models",
            "database_url": f"sqlite:///{folder / 'velib.db'}",
            "forecast": forecast,
            "systems": {SYSTEM_ID: SystemSettings(url=url, timezone="Europe/Paris", ttl=timedelta(seconds=60))},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=Settings().forecast.train_model)
    parser.add_argument("--stations", type=int, default=1_500)
    parser.add_argument("--days", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=6, help="at least 2: the first is told apart")
    parser.add_argument("--folder", type=Path, help="keep the prepared city here, and use it the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "models").exists():
            import multiprocessing

            worker = multiprocessing.get_context("spawn").Process(
                target=prepare, args=(folder, options.stations, options.days, options.model)
            )
            worker.start()
            worker.join()
        measure(folder, options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    from velib_predictor.simulation.simulation import Simulation

    settings = settings_of(folder, options.model)
    with closing(Database(settings.database_url)) as database:
        mark = Issues(database, SYSTEM_ID).mark()
    start = (mark.issued_at if mark else datetime(2026, 3, 20, 12, tzinfo=UTC)) + QUARTER
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        city = Clock(start - timedelta(seconds=20), 0)
        simulation = Simulation(City.make(CityConfig(stations=options.stations)), city.now())
        feed = stack.enter_context(CityServer(simulation, city))
        settings, clock = settings_of(folder, options.model, feed.url), HandClock(city)
        database = stack.enter_context(closing(Database(settings.database_url)))
        before = resident_mb()
        collector = Collector(SYSTEM_ID, settings.system(SYSTEM_ID), settings, database, clock=clock)
        job, service = IssueJob(settings, database, SYSTEM_ID, clock), Service(settings, database, clock)
        server = stack.enter_context(Server(create_app(service), bind("127.0.0.1", 0)))
        client = stack.enter_context(httpx.Client(base_url=server.address))
        station = str(simulation.city.stations.id[0])
        address = f"/v1/systems/{SYSTEM_ID}/stations/{station}/forecast"
        for turn in range(options.rounds):
            tick = start + turn * QUARTER
            city.set(tick - timedelta(seconds=15))
            simulation.advance(city.now())
            begun = time.perf_counter()
            timed(times, "poll and store", collector.run_once)
            city.set(tick)
            timed(times, "issue", partial(job.run, tick))
            timed(times, "take over", service.refresh)
            answer = timed(times, "ask", lambda: client.get(address))
            times.setdefault("poll to answer", []).append(time.perf_counter() - begun)
            assert datetime.fromisoformat(answer.json()["issued_at"]) == tick, answer.text
        memory = resident_mb()
        issue = Issues(database, SYSTEM_ID).newest()
        assert issue is not None
        model = ModelStore(settings.models_dir).newest(SYSTEM_ID, options.model)
        panel = LivePanel(
            database, SYSTEM_ID, step=QUARTER, tolerance=settings.forecast.tolerance, lookback=model.lookback
        ).at(tick)
        bare: dict[str, list[float]] = {}
        for _ in range(3):
            timed(bare, "model", lambda: next(model.predict(panel, panel.ticks[-1:])))
        alone = min(bare["model"])
        state = f"{issue.state} ({issue.reason})" if issue.reason else str(issue.state)
        print(f"{options.stations} stations, {options.model}, {state}; model alone {alone:.3f} s")
        print(f"{'':<16}{'first s':>9}{'best s':>9}{'/model':>9}")
        for name, taken in times.items():
            best = min(taken[1:])
            print(f"{name:<16}{taken[0]:>9.3f}{best:>9.3f}{best / alone:>9.2f}")
        size = len(issue.to_bytes()) / 1e6
        print(f"an issue takes {size:.2f} MB, a day of them {96 * size:.0f} MB (promise: 150)")
        print(f"resident: {memory:.0f} MB, the city's own server included ({before:.0f} MB before; promise: 450)")


if __name__ == "__main__":
    main()
