"""The synthetic city: is it like Vélib', how fast does it live, how good is the best forecast, and what does that cost?

`python benchmarks/bench_city.py [../shared/data]`: with that folder, columns of real systems stand beside the city's.
Promise: six weeks of 400 stations, simulated and written, in under 60 s on one core; the best forecast for the next
three hours in about a second an origin.
"""

import argparse
import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # before numpy is imported

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from velib_predictor.data.calendar import WORKDAY, local_time
from velib_predictor.simulation.city import City, CityConfig
from velib_predictor.simulation.history import write_history
from velib_predictor.simulation.simulation import Simulation
from velib_predictor.simulation.truth import TARGETS, oracle, truth
from velib_predictor.training.metrics import log_score, rps

START = datetime(2026, 9, 28, tzinfo=UTC)  # a Monday
EVERY = timedelta(minutes=5)
HORIZONS = [timedelta(minutes=m) for m in (15, 30, 60, 180)]
REAL = {
    "velib_2024_11": "Europe/Paris",
    "velib_2022_05": "Europe/Paris",
    "baywheels_2023": "America/Los_Angeles",
}
FROZEN = "velib_2024_11"  # for hours: pairs of snapshots in which nothing moved are left out
DAY = (9, 20)  # local hours that velib_2024_11 has
Floats = npt.NDArray[np.float32]


@dataclass
class Watched:
    """A system as it was seen, NaN where it was not: float32[tick, station, value] (bikes, e-bikes, docks)."""

    name: str
    timezone: str
    seconds: npt.NDArray[np.int64]
    values: Floats
    capacity: Floats


def watched(name: str, folder: Path, timezone: str, *, carried: bool = False) -> Watched:
    """Read a history folder; `carried`: a value stands until the next one is written."""
    stations = pq.read_table(folder / "stations.parquet", columns=["station_id", "capacity"])
    status = pq.read_table(folder / "status.parquet", columns=["station_id", "observed_at", "bikes", "ebikes", "docks"])
    ids = stations["station_id"].cast(pa.string()).to_pylist()
    encoded = status["station_id"].cast(pa.string()).combine_chunks().dictionary_encode()
    where = {station: index for index, station in enumerate(ids)}
    place = np.array([where.get(station, -1) for station in encoded.dictionary.to_pylist()])[encoded.indices.to_numpy()]
    micros = status["observed_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    times, tick = np.unique(micros, return_inverse=True)
    values = np.full((len(times), len(ids), 3), np.nan, dtype=np.float32)
    for value, column in enumerate(("bikes", "ebikes", "docks")):
        values[tick[place >= 0], place[place >= 0], value] = status[column].to_numpy().astype(np.float32)[place >= 0]
    if carried:
        last = np.where(np.isnan(values[..., 0]), 0, np.arange(len(times))[:, None])
        np.maximum.accumulate(last, axis=0, out=last)
        values = values[last, np.arange(len(ids))]
    capacity = stations["capacity"].to_numpy().astype(np.float32)
    return Watched(name, timezone, times // 1_000_000, values, capacity)


def pairs(of: Watched, apart: timedelta) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ticks that lie about so far apart: first and second, int64[pair]."""
    seconds = int(apart.total_seconds())
    second = np.searchsorted(of.seconds, of.seconds + seconds)
    second = np.minimum(second, len(of.seconds) - 1)
    nearer = np.abs(of.seconds[second - 1] - of.seconds - seconds) < np.abs(of.seconds[second] - of.seconds - seconds)
    second = second - nearer
    good = np.abs(of.seconds[second] - of.seconds - seconds) <= seconds // 8
    return np.flatnonzero(good), second[good]


def moved(of: Watched, apart: timedelta) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Mean |change of bikes| of each pair of ticks, and the pair's first tick; frozen pairs are left out."""
    first, second = pairs(of, apart)
    if len(first) < 50:
        return np.zeros(0, dtype=np.float32), first[:0]
    change = np.empty(len(first), dtype=np.float32)
    share = np.empty_like(change)
    for part in np.array_split(np.arange(len(first)), max(1, len(first) // 500)):
        steps = np.abs(of.values[second[part], :, 0] - of.values[first[part], :, 0])
        change[part], share[part] = np.nanmean(steps, axis=1), np.nanmean(steps > 0, axis=1)
    lively = share > 0.02 if of.name == FROZEN else share >= 0
    return change[lively], first[lively]


def traits(of: Watched) -> dict[str, str]:
    """What is compared, in words."""
    bikes, ebikes, docks = np.moveaxis(of.values, -1, 0)
    seen = ~np.isnan(bikes)
    gap = of.capacity - bikes - docks
    known = np.isfinite(gap) & (of.capacity > 0)
    rows = {
        "stations": f"{len(of.capacity)}",
        "capacity: median (5 to 95 %)": "{1:.0f} ({0:.0f} to {2:.0f})".format(
            *np.nanpercentile(of.capacity[of.capacity > 0], [5, 50, 95])
        ),
        "at most 2 bikes, share of time": f"{100 * (bikes[seen] <= 2).mean():.1f} %",
        "no bike": f"{100 * (bikes[seen] == 0).mean():.1f} %",
        "no free dock": f"{100 * (docks[seen] == 0).mean():.1f} %",
        "bikes a dock": f"{bikes[known].sum() / np.broadcast_to(of.capacity, known.shape)[known].sum():.2f}",
        "e-bikes, share of bikes": f"{100 * np.nansum(ebikes) / np.nansum(bikes):.0f} %",
        "docks missing: mean": f"{gap[known].mean():.2f}",
        "docks missing: at most 3": f"{100 * (np.abs(gap[known]) <= 3).mean():.0f} %",
    }
    clock = local_time(of.seconds.astype("datetime64[s]"), of.timezone)
    day = (clock.hour >= DAY[0]) & (clock.hour < DAY[1])
    whole = len(np.unique(clock.hour)) == 24
    for horizon in HORIZONS:
        change, first = moved(of, horizon)
        name = f"persistence MAE, {horizon // timedelta(minutes=1)} min"
        rows[f"{name}, all hours"] = f"{change.mean():.2f}" if len(change) and whole else "-"
        change = change[day[first]]
        rows[f"{name}, {DAY[0]} to {DAY[1]} h"] = f"{change.mean():.2f}" if len(change) else "-"
    change, first = moved(of, timedelta(hours=1))
    work = clock.day_type[first] == WORKDAY

    def at(hour: int) -> float:
        chosen = change[work & (clock.hour[first] == hour)]
        return float(chosen.mean()) if len(chosen) >= 12 else float("nan")

    for hour in (8, 18, 3):
        ratio = at(hour) / at(14)
        words = "-" if np.isnan(ratio) else f"{ratio:.2f}"
        rows[f"workday: change in the hour from {hour} h, over that from 14 h"] = words
    return rows


def skill(city: City, origins: int, draws: int) -> Iterable[str]:
    """How good the best forecast is from origins over one week, beside persistence."""
    simulation = Simulation(city, START)
    starts = [START + n * (timedelta(days=7) // origins // EVERY * EVERY) for n in range(origins)]
    wanted = sorted({start + ahead for start in starts for ahead in [timedelta(0), *HORIZONS]})
    seen: dict[datetime, npt.NDArray[np.int32]] = {}
    all_known: dict[datetime, npt.NDArray[np.float32]] = {}
    for at in wanted:
        simulation.advance(at)
        if at in starts:
            all_known[at] = oracle(simulation, HORIZONS, draws)
        counts = simulation.counts()
        seen[at] = np.stack([counts.bikes, counts.mechanical, counts.ebikes, counts.docks], axis=1)
    k = city.stations.capacity[:, None, None]
    sums = np.zeros((5, len(HORIZONS), len(TARGETS)))
    seconds = 0.0
    for start in starts:
        shown = seen[start]
        begun = time.perf_counter()
        pmf = truth(city, start, shown[:, 1], shown[:, 2], shown[:, 3], HORIZONS, draws)
        seconds += time.perf_counter() - begun
        happened = np.stack([seen[start + ahead] for ahead in HORIZONS], axis=1)  # [station, horizon, target]
        cdf = pmf.cumsum(axis=-1)
        low, high = (np.argmax(cdf >= level, axis=-1) for level in (0.05, 0.95))
        held = (happened >= low) & (happened <= high)
        oracles = rps(all_known[start].cumsum(axis=-1), happened)
        parts = oracles, rps(cdf, happened), np.abs(shown[:, None] - happened), log_score(pmf, happened, k), held
        sums += np.stack([part.mean(axis=0) for part in parts])
    known, best, persistence, log, covered = sums / origins
    yield f"{origins} origins over a week, {draws} draws, {seconds / origins:.2f} s an origin to 180 min"
    yield "target      min   RPS: all known     truth  persistence  skill   log score   90 % interval holds"
    for target, name in enumerate(TARGETS):
        for index, horizon in enumerate(HORIZONS):
            minutes = horizon // timedelta(minutes=1)
            ours, theirs = best[index, target], persistence[index, target]
            yield (
                f"{name:10}  {minutes:3}   {known[index, target]:14.3f} {ours:9.3f}  {theirs:11.3f}  "
                f"{100 * (1 - ours / theirs):4.0f} %   {log[index, target]:9.3f}   {100 * covered[index, target]:.0f} %"
            )


def cost(city: City, draws: int) -> Iterable[str]:
    """Seconds of one forecast at the busiest hour and at night."""
    for hour in (15, 1):
        simulation = Simulation(city, START + timedelta(days=1, hours=hour))
        shown = simulation.counts()
        for ahead in (1, 3, 24):
            begun = time.perf_counter()
            truth(city, simulation.now, shown.mechanical, shown.ebikes, shown.docks, [timedelta(hours=ahead)], draws)
            yield f"{hour:2} h UTC, to {ahead:2} h, {draws} draws: {time.perf_counter() - begun:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).parent.parent.parent / "shared" / "data"
    parser.add_argument("data", type=Path, nargs="?", default=shared, help="folder of real systems")
    parser.add_argument("--stations", type=int, default=400)
    parser.add_argument("--weeks", type=int, default=6)
    parser.add_argument("--origins", type=int, default=60)
    parser.add_argument("--draws", type=int, default=256)
    arguments = parser.parse_args()
    city = City.make(CityConfig(stations=arguments.stations))
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        after = write_history(city, START, START + timedelta(weeks=arguments.weeks), EVERY, Path(name))
        seconds = time.perf_counter() - begun
        print(f"{arguments.weeks} weeks of {arguments.stations} stations simulated and written in {seconds:.1f} s")
        days, state = 7 * arguments.weeks + 1, after.state
        print(
            f"a day: {state.served / days:.0f} rides, {state.lost / days:.0f} riders without a bike, "
            f"{state.redirected / days:.0f} times no dock\n"
        )
        columns = {"city": traits(watched("city", Path(name), city.config.timezone, carried=True))}
    for real, timezone in REAL.items():
        if (arguments.data / real / "status.parquet").exists():
            columns[real] = traits(watched(real, arguments.data / real, timezone))
    print(f"| {'':57} | " + " | ".join(f"{name:>15}" for name in columns) + " |")
    print(f"|{'-' * 59}|" + "|".join("-" * 16 + ":" for _ in columns) + "|")
    for row in columns["city"]:
        print(f"| {row:57} | " + " | ".join(f"{column[row]:>15}" for column in columns.values()) + " |")
    print()
    for line in (*skill(city, arguments.origins, arguments.draws), "", *cost(city, arguments.draws)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
