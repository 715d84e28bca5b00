"""A synthetic city for benchmarks: stations as birth-death queues with a daily rhythm, as a panel or in a database."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.data.panel import BIKES, CHANNELS, DOCKS, EBIKES, MECHANICAL, MISSING, Panel, Stations

START = np.datetime64("2024-03-04T00:00:00", "s")  # a Monday
TIMEZONE = "Europe/Paris"
SYSTEM = "synthetic"
FLAGS = ("is_installed", "is_renting", "is_returning")
Rates = npt.NDArray[np.float64]


def city(stations: int = 1_500, days: int = 16, *, step_min: int = 15, seed: int = 0) -> Panel:
    """Whole local days of a city, about 1 % of whose cells are not observed."""
    random = np.random.default_rng(seed)
    ticks = START + np.arange(days * 1440 // step_min) * np.timedelta64(step_min, "m")
    capacity = random.integers(10, 60, stations)
    counts = _queues(random, ticks, capacity, step_min)
    seen = random.random(counts.shape[:2]) > 0.01  # [tick, station]
    counts[~seen] = MISSING
    table = Stations(
        id=tuple(f"{number:05d}" for number in range(stations)),
        code=(None,) * stations,
        name=tuple(f"Station {number}" for number in range(stations)),
        lat=random.normal(48.86, 0.03, stations),
        lon=random.normal(2.34, 0.05, stations),
    )
    step = timedelta(minutes=step_min)
    return Panel(
        system_id=SYSTEM,
        timezone=TIMEZONE,
        ticks=ticks,
        step=step,
        tolerance=step,
        stations=table,
        counts=counts,
        observed=np.repeat(seen[:, :, None], len(CHANNELS), axis=2),
        trusted=np.ones_like(seen),
        open=seen,
        capacity=np.broadcast_to(capacity.astype(np.int16), seen.shape),
    )


def _queues(
    random: np.random.Generator, ticks: npt.NDArray[np.datetime64], capacity: npt.NDArray[np.int64], step_min: int
) -> npt.NDArray[np.int16]:
    """Counts of queues whose rates swing over the day, int16[tick, station, channel]."""
    stations = len(capacity)
    phase = random.uniform(0, 24, stations)
    lively = random.lognormal(0.5, 0.8, stations) * step_min / 60  # moves a tick
    electric = random.uniform(0.2, 0.6, stations)
    share = np.stack([1 - electric, electric])  # [kind, station]: mechanical, electric
    now = (capacity * share / 2).astype(np.int64)
    counts = np.empty((len(ticks), stations, len(CHANNELS)), dtype=np.int16)
    for tick, hour in enumerate((ticks - START) / np.timedelta64(1, "h")):
        come, go = _rates(hour % 24, phase, lively)
        now = np.maximum(now - random.poisson(go * share), 0)
        arrivals = random.poisson(come * share)
        for kind in range(2):
            now[kind] += np.minimum(arrivals[kind], capacity - now.sum(axis=0))
        counts[tick, :, MECHANICAL], counts[tick, :, EBIKES] = now
        counts[tick, :, BIKES] = now.sum(axis=0)
    counts[:, :, DOCKS] = capacity - counts[:, :, BIKES]
    return counts


def _rates(hour: float, phase: Rates, lively: Rates) -> tuple[Rates, Rates]:
    """Arrivals and departures a tick at a UTC hour of the day, [station]."""
    awake = 0.15 + (5 <= hour < 23)
    swing = 0.7 * np.sin((hour - phase) * np.pi / 12)
    return lively * awake * (1 + swing), lively * awake * (1 - swing)


def tables(panel: Panel) -> tuple[pa.Table, pa.Table]:
    """A panel as tidy history: a stations file and a status file, by station and time."""
    station, tick = np.nonzero(panel.observed[:, :, BIKES].T)
    names = np.array(panel.stations.id)
    counts = panel.counts[tick, station]  # [row, channel]
    status = {
        "station_id": names[station],
        "observed_at": pa.array(panel.ticks[tick].astype("datetime64[us]").astype(np.int64)).cast(
            pa.timestamp("us", "UTC")
        ),
        **{name: counts[:, channel] for channel, name in enumerate(CHANNELS)},
        **dict.fromkeys(FLAGS, panel.open[tick, station]),
    }
    table = {
        "station_id": names,
        "name": list(panel.stations.name),
        "lat": panel.stations.lat,
        "lon": panel.stations.lon,
        "capacity": panel.capacity[-1],
    }
    return pa.table(table), pa.table(status)


def store(panel: Panel, folder: Path) -> Database:
    """A new SQLite database in a folder, with the panel as its history."""
    stations, status = tables(panel)
    pq.write_table(stations, folder / "stations.parquet")
    pq.write_table(status, folder / "status.parquet")
    database = Database(f"sqlite:///{folder / 'synthetic.db'}")
    database.upgrade()
    import_history(database, SYSTEM, folder / "stations.parquet", [folder / "status.parquet"], timezone=panel.timezone)
    return database
