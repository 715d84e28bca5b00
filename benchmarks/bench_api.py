"""Station forecasts a second from one core: `python benchmarks/bench_api.py [--seconds 6] [--connections 8]`.

1,500 stations, 12 horizons, 4 targets, in an SQLite database; the API in a process of its own on one core, the load on
another: keep-alive connections, each of which asks again as soon as it has its answer. Half of the requests are for all
horizons of some station, half for one instant (`at=`). Promise: at least 1,500 a second with a 99th percentile under
25 ms. Also shown: a bare route of the same application that gives as many fixed bytes, in the same run; the same load
while an issue is stored and taken over about every second; the whole network; the processor time that the API's process
takes for one request, which other work on the machine touches less; and its resident memory.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from fastapi import Response
from sqlalchemy import insert

from velib_predictor.api.app import create_app
from velib_predictor.api.server import Server, bind
from velib_predictor.api.service import Service
from velib_predictor.config.config import Settings
from velib_predictor.data import schema
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Stations
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.issue import ONE, Issue, State
from velib_predictor.inference.issues import Issues

SYSTEM = "town"
START = datetime(2026, 3, 20, 12, tzinfo=UTC)
HERE = f"/v1/systems/{SYSTEM}"


class HandClock(SystemClock):
    """A clock that is set by hand."""

    time = START + timedelta(minutes=2)

    def now(self) -> datetime:
        return self.time


def make_issue(stations: int, seed: int = 0) -> Issue:
    """Bell curves over 0..K around a count of each station."""
    generator, spec = np.random.default_rng(seed), ForecastSpec()
    k = generator.integers(10, 60, stations).astype(np.int16)
    now = np.round(k[:, None] * generator.random((stations, 4))).astype(np.int16)
    counts = np.arange(int(k.max()) + 1)
    spread = np.linspace(1, 6, len(spec.horizons))[None, :, None, None]
    cdf = 1 / (1 + np.exp((now[:, None, :, None] - counts - 0.5) / spread))  # [station, horizon, target, count]
    steps = np.rint(cdf * ONE).astype(np.uint8)
    steps[np.broadcast_to((counts >= k[:, None])[:, None, None], steps.shape)] = ONE
    table = Stations(
        tuple(str(100_000 + n) for n in range(stations)),
        tuple(f"{n:05}" for n in range(stations)),
        tuple(f"Place {n}" for n in range(stations)),
        48.8 + 0.1 * generator.random(stations),
        2.2 + 0.2 * generator.random(stations),
    )
    return Issue(
        SYSTEM, "Europe/Paris", START, START, START, "xgboost", "20260320T000000Z", State.FRESH, None, spec, table,
        k, k, now, np.ones(stations, dtype=bool), np.zeros((stations, 4), dtype=np.uint8), steps,
    )  # fmt: skip


def fill(database: Database, issue: Issue) -> None:
    """The system, its stations, one status each, one poll."""
    about = issue.stations
    with database.write() as connection:
        key = ensure_system(connection, SYSTEM, name="Town", timezone=issue.timezone, licence="none")
        book = StationBook(connection, key)
        places = zip(about.id, about.code, about.name, about.lat.tolist(), about.lon.tolist(), strict=True)
        book.register(connection, [StationInfo(*place, int(issue.k[0])) for place in places], START)
        rows = [
            {"station_key": station, "observed_at": START, "bikes": 5, "docks": 7, "is_renting": True}
            for station in book.names
        ]
        connection.execute(insert(schema.StationStatus), rows)
        connection.execute(insert(schema.Poll), [{"system_key": key, "polled_at": START, "outcome": "ok"}])
    Issues(database, SYSTEM).add(issue)


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def serve(pipe: Connection, core: int, url: str) -> None:
    """The process under test. "switch" stores another issue and takes it over; "memory" tells the resident memory."""
    os.sched_setaffinity(0, {core})
    clock = HandClock()
    with closing(Database(url)) as database:
        service, issues = Service(Settings(), database, clock), Issues(database, SYSTEM)
        service.refresh()
        known = service.systems[SYSTEM].served
        assert known is not None
        app, fixed = create_app(service), known.station(0).data

        @app.get("/bare")
        async def bare() -> Response:
            return Response(fixed, media_type="application/json")

        issue = known.issue
        with Server(app, bind("127.0.0.1", 0)) as server:
            pipe.send(int(server.address.rsplit(":", 1)[1]))
            while (order := pipe.recv()) != "end":
                begun = time.perf_counter()
                if order == "switch":
                    issue = replace(issue, issued_at=issue.issued_at + timedelta(minutes=1))
                    clock.time += timedelta(minutes=1)
                    issues.add(issue)
                    begun = time.perf_counter()
                    service.refresh()
                pipe.send((time.perf_counter() - begun, resident_mb(), time.process_time()))


class Asker(asyncio.Protocol):
    """One keep-alive connection that asks until it is time to stop."""

    def __init__(self, next_path: Callable[[], str], headers: str, until: float) -> None:
        self._next, self._headers, self._until = next_path, headers, until
        self.seconds: list[float] = []
        self.done = asyncio.get_running_loop().create_future()
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._begun = time.perf_counter()
        if self._begun >= self._until:
            self._transport.close()
            self.done.set_result(None)
            return
        self._transport.write(f"GET {self._next()} HTTP/1.1\r\nHost: here\r\n{self._headers}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = bytes(self._received).partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(bytes(self._received[:500]).decode()))
            return
        self.seconds.append(time.perf_counter() - self._begun)
        self._received.clear()
        self._ask()


@dataclass(frozen=True)
class Load:
    """What a load gave."""

    rate: float
    p50_ms: float
    p99_ms: float
    worst_ms: float


async def load(
    port: int,
    connections: int,
    seconds: float,
    next_path: Callable[[], str],
    headers: str = "",
    switch: Callable[[], None] | None = None,
) -> Load:
    begun = time.perf_counter()
    loop = asyncio.get_running_loop()
    askers = [
        (await loop.create_connection(lambda: Asker(next_path, headers, begun + seconds), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    if switch is not None:
        while time.perf_counter() < begun + seconds - 1:
            await loop.run_in_executor(None, switch)
            await asyncio.sleep(0.7)
    await asyncio.gather(*(asker.done for asker in askers))
    taken = np.concatenate([asker.seconds for asker in askers]) * 1e3
    p50, p99 = np.percentile(taken, [50, 99])
    return Load(len(taken) / seconds, float(p50), float(p99), float(taken.max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=1_500)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    issue = make_issue(options.stations)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'town.db'}"
        with closing(Database(url)) as database:
            database.upgrade()
            fill(database, issue)
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, cores[-1], url))
        process.start()
        try:
            measure(pipe, issue, options)
        finally:
            pipe.send("end")
            process.join(20)


def measure(pipe: Connection, issue: Issue, options: argparse.Namespace) -> None:
    port, draw = pipe.recv(), random.Random(1)
    names = issue.stations.id

    def whole() -> str:
        return f"{HERE}/stations/{draw.choice(names)}/forecast"

    def instant() -> str:
        when = START + timedelta(seconds=draw.randrange(3600, 80_000))
        return f"{whole()}?at={when.replace(tzinfo=None).isoformat()}Z"

    def mixed() -> str:
        return draw.choice((whole, instant))()

    def tell(order: str) -> tuple[float, float, float]:
        pipe.send(order)
        answer: tuple[float, float, float] = pipe.recv()
        return answer

    switches: list[float] = []
    gzip = "Accept-Encoding: gzip\r\n"
    runs: list[tuple[str, Callable[[], str], str, Callable[[], None] | None]] = [
        ("bare route", lambda: "/bare", "", None),
        ("all horizons, cold", whole, "", None),
        ("all horizons", whole, "", None),
        ("all horizons, gzip", whole, gzip, None),
        ("at=", instant, "", None),
        ("both, mixed", mixed, gzip, None),
        ("mixed, switching", mixed, gzip, lambda: switches.append(tell("switch")[0])),
        ("network, one minute", lambda: f"{HERE}/forecast", gzip, None),
        ("stations list", lambda: f"{HERE}/stations", gzip, None),
    ]
    before = tell("memory")[1]
    print(f"{options.stations} stations, {options.connections} connections, {options.seconds:g} s each")
    print(f"{'':<20}{'/s':>8}{'of bare':>9}{'p50 ms':>8}{'p99 ms':>8}{'worst':>8}{'CPU us':>8}")
    rate = 0.0
    for name, path, headers, switch in runs:
        used = tell("memory")[2]
        found = asyncio.run(load(port, options.connections, options.seconds, path, headers, switch))
        used = (tell("memory")[2] - used) / (found.rate * options.seconds)
        rate = rate or found.rate
        print(
            f"{name:<20}{found.rate:>8.0f}{found.rate / rate:>9.2f}{found.p50_ms:>8.2f}{found.p99_ms:>8.2f}"
            f"{found.worst_ms:>8.1f}{1e6 * used:>8.0f}",
            flush=True,
        )
    print(f"{len(switches)} switches, {1e3 * float(np.median(switches)):.0f} ms each under load")
    print(f"resident: {before:.0f} MB before the first request, {tell('memory')[1]:.0f} MB at the end")
    print("promise: at least 1500 /s (both, mixed), p99 under 25 ms")


if __name__ == "__main__":
    main()
