"""Weeks of a city's past as the tidy files that `velib import` reads: as a collector of its feed would have them."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from velib_predictor.simulation.city import SYSTEM_ID, City
from velib_predictor.simulation.open_meteo import variable
from velib_predictor.simulation.simulation import Simulation
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import to_micros

Progress = Callable[[str, int, int], None]
"""Told of (phase, done, total)."""

TIME = pa.timestamp("us", "UTC")
_VALUES = ("bikes", "mechanical", "ebikes", "docks")
_FLAGS = ("is_installed", "is_renting", "is_returning")
_STATUS = pa.schema(
    [
        ("system_id", pa.string()),
        ("station_id", pa.string()),
        ("observed_at", TIME),
        *((name, pa.int16()) for name in _VALUES),
        *((name, pa.bool_()) for name in _FLAGS),
    ]
)
_POLLS = pa.schema(
    [
        ("system_id", pa.string()),
        ("polled_at", TIME),
        ("outcome", pa.string()),
        *((name, pa.int32()) for name in ("stations", "changed", "rejected")),
        ("detail", pa.string()),
    ]
)
_HOUR = timedelta(hours=1)
_FORECAST_H = 50
_WEATHER = {
    "temperature_c": "temperature_2m",
    "apparent_c": "apparent_temperature",
    "precipitation_mm": "precipitation",
    "rain_mm": "rain",
    "snowfall_cm": "snowfall",
    "wind_kmh": "wind_speed_10m",
    "gusts_kmh": "wind_gusts_10m",
    "cloud_percent": "cloud_cover",
}
"""Columns of the weather file, and what the city's forecast API calls them."""


def write_history(
    city: City | Simulation,
    start: datetime,
    end: datetime,
    every: timedelta,
    folder: Path,
    progress: Progress | None = None,
) -> Simulation:
    """Live from `start` to `end`, polled each `every`: stations, status, polls and weather (.parquet).

    The last poll lies before `end`: who goes on living from the simulation that is returned makes the next one.
    A station has a row where its values changed, and at the first poll of each hour. As with Vélib's feed, what is
    broken is not told.

    Raises:
        UsageError: `start` is not before `end`, is not when the simulation stands, or `every` is no whole minutes.
    """
    if every % timedelta(minutes=1) or every <= timedelta(0):
        raise UsageError("a history is polled every whole number of minutes, such as 5m")
    if start >= end:
        raise UsageError("a history must begin before it ends")
    simulation = city if isinstance(city, Simulation) else Simulation(city, start)
    if simulation.now != start:
        raise UsageError(f"the simulation stands at {simulation.now}, and its history cannot begin at {start}")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(stations_table(simulation.city), folder / "stations.parquet", compression="zstd")
    pq.write_table(weather_table(simulation.city, start, end), folder / "weather.parquet", compression="zstd")
    partial = [folder / f".{name}.partial" for name in ("status", "polls")]
    with (
        pq.ParquetWriter(partial[0], _STATUS, compression="zstd") as rows,
        pq.ParquetWriter(partial[1], _POLLS, compression="zstd") as ledger,
    ):
        writer = _Days(simulation.city, rows, ledger)
        total = -((start - end) // every)
        for poll in range(total):
            simulation.advance(start + poll * every)
            writer.add(start + poll * every, _values(simulation))
            if progress is not None and poll % 12 == 0:
                progress("history", poll, total)
        writer.flush()
    for written, name in zip(partial, ("status", "polls"), strict=True):
        written.replace(folder / f"{name}.parquet")  # what is interrupted leaves no file that looks whole
    simulation.advance(end)
    return simulation


def stations_table(city: City) -> pa.Table:
    """The stations file."""
    stations = city.stations
    columns: dict[str, Any] = {
        "system_id": [SYSTEM_ID] * len(stations),
        "station_id": stations.id.astype(str).tolist(),
        "code": list(stations.code),
        "name": list(stations.name),
        "lat": stations.lat,
        "lon": stations.lon,
        "capacity": stations.capacity,
    }
    return pa.table(columns)


def weather_table(city: City, start: datetime, end: datetime) -> pa.Table:
    """The weather file: a forecast as issued at each whole hour of [start, end), two days long."""
    hour_us = _HOUR // timedelta(microseconds=1)
    first, last = (-(-to_micros(time) // hour_us) for time in (start, end))
    issued = np.repeat(np.arange(first, last), _FORECAST_H)
    hours = issued + np.tile(np.arange(_FORECAST_H), last - first)
    columns: dict[str, Any] = {
        "system_id": pa.repeat(SYSTEM_ID, len(hours)),
        "issued_at": pa.array(issued * hour_us).cast(TIME),
        "valid_at": pa.array(hours * hour_us).cast(TIME),
        **{ours: variable(city.climate, name, hours, issued) for ours, name in _WEATHER.items()},
    }
    return pa.table(columns)


def _values(simulation: Simulation) -> npt.NDArray[np.int16]:
    counts = simulation.counts()
    values = np.stack([counts.bikes, counts.mechanical, counts.ebikes, counts.docks], axis=1)
    return values.astype(np.int16)  # [station, value]


class _Days:
    """Collects polls and writes them a day at a time."""

    def __init__(self, city: City, rows: pq.ParquetWriter, ledger: pq.ParquetWriter) -> None:
        self._names = pa.array(city.stations.id.astype(str).tolist())
        self._rows, self._ledger = rows, ledger
        self._last: npt.NDArray[np.int16] | None = None
        self._hour: int | None = None
        self._polls: list[tuple[int, int]] = []  # microseconds, stations that changed
        self._parts: list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int16]]] = []

    def add(self, at: datetime, values: npt.NDArray[np.int16]) -> None:
        """One poll: values int16[station, value]."""
        micros = to_micros(at)
        changed = np.ones(len(values), dtype=bool) if self._last is None else (values != self._last).any(axis=1)
        hour = micros // (_HOUR // timedelta(microseconds=1))
        written = changed if hour == self._hour else np.ones_like(changed)
        station = np.flatnonzero(written)
        self._polls.append((micros, int(changed.sum())))
        self._parts.append((micros, station, values[station]))
        self._last, self._hour = values, hour
        if micros % 86_400_000_000 == 0:
            self.flush()

    def flush(self) -> None:
        """Write what is collected."""
        if not self._polls:
            return
        times, changed = (np.array(column) for column in zip(*self._polls, strict=True))
        values = np.concatenate([part for _, _, part in self._parts])
        station = np.concatenate([stations for _, stations, _ in self._parts])
        seen = np.repeat(times, [len(stations) for _, stations, _ in self._parts])
        true = pa.array(np.ones(len(station), dtype=bool))
        self._rows.write_table(
            pa.table(
                [
                    pa.repeat(SYSTEM_ID, len(station)),
                    self._names.take(pa.array(station)),
                    pa.array(seen).cast(TIME),
                    *(pa.array(values[:, value]) for value in range(len(_VALUES))),
                    *([true] * len(_FLAGS)),
                ],
                schema=_STATUS,
            )
        )
        polls = len(times)
        self._ledger.write_table(
            pa.table(
                [
                    pa.repeat(SYSTEM_ID, polls),
                    pa.array(times).cast(TIME),
                    pa.repeat("ok", polls),
                    pa.repeat(pa.scalar(len(self._names), pa.int32()), polls),
                    pa.array(changed, pa.int32()),
                    pa.repeat(pa.scalar(0, pa.int32()), polls),
                    pa.nulls(polls, pa.string()),
                ],
                schema=_POLLS,
            )
        )
        self._polls, self._parts = [], []
