"""Small synthetic panels: stations as queues with daily rhythms, and everything that real data has wrong with it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import BIKES, CHANNELS, DOCKS, EBIKES, MECHANICAL, MISSING, Panel, Stations

CELLS = ("counts", "observed", "trusted", "open", "capacity")
"""The panel's arrays by tick and station."""


def bare_panel(counts: npt.NDArray[np.int16], capacity: npt.NDArray[np.integer], **changes: Any) -> Panel:
    """A panel of these counts [tick, station, channel] and capacities [station], all observed, trusted and open.

    One tick every 15 minutes, the first at 2024-10-23T00:00Z.
    """
    ticks, stations = counts.shape[:2]
    step = timedelta(minutes=15)
    start = np.datetime64("2024-10-23T00:00:00", "s")
    table = Stations(
        tuple(str(100 + number) for number in range(stations)),
        (None,) * stations,
        tuple(f"Station {number}" for number in range(stations)),
        np.asarray(48.85 + 0.004 * (np.arange(stations) % 4), dtype=np.float64),
        np.asarray(2.35 + 0.005 * (np.arange(stations) // 4), dtype=np.float64),
    )
    panel = Panel(
        system_id="small",
        timezone="Europe/Paris",
        ticks=start + np.arange(ticks) * np.timedelta64(15, "m"),
        step=step,
        tolerance=step,
        stations=table,
        counts=counts,
        observed=np.ones(counts.shape, dtype=bool),
        trusted=np.ones((ticks, stations), dtype=bool),
        open=np.ones((ticks, stations), dtype=bool),
        capacity=np.broadcast_to(capacity.astype(np.int16), (ticks, stations)),
    )
    return replace(panel, **changes)


def small_city(seed: int = 0, days: int = 8, stations: int = 7) -> Panel:
    """Bikes come and go at rates that swing over the day; on the fifth day, 2024-10-27, clocks in Paris go back.

    Feed gaps, a frozen spell that is not trusted, spikes, single stations silent for a while; station 0 is closed for
    hours, station 1 never publishes e-bikes and mechanical bikes, station 2's capacity is not known, station 3 has
    broken docks and grows, station 4 does not publish docks.
    """
    random = np.random.default_rng(seed)
    ticks = days * 96
    capacity = random.integers(5, 26, stations)
    hour = (np.arange(ticks) / 4 + 2)[:, None] % 24
    phase = random.uniform(0, 24, stations)
    swing = np.sin((hour - phase) * 2 * np.pi / 24)  # [tick, station]
    lively = random.uniform(0.3, 1.5, stations) * (0.3 + (hour > 6))
    bikes = np.empty((ticks, stations, 2), dtype=np.int64)  # mechanical, electric
    now = np.stack([capacity // 3, capacity // 5], axis=1)
    for tick in range(ticks):
        arrivals = random.poisson(lively[tick] * (1 + 0.8 * swing[tick]) / 2, (2, stations)).T
        departures = random.poisson(lively[tick] * (1 - 0.8 * swing[tick]) / 2, (2, stations)).T
        now = np.maximum(now - departures, 0)
        now[:, 0] += np.minimum(arrivals[:, 0], capacity - now.sum(axis=1))
        now[:, 1] += np.minimum(arrivals[:, 1], capacity - now.sum(axis=1))
        bikes[tick] = now
    counts = np.empty((ticks, stations, len(CHANNELS)), dtype=np.int16)
    counts[:, :, MECHANICAL], counts[:, :, EBIKES] = bikes[:, :, 0], bikes[:, :, 1]
    counts[:, :, BIKES] = bikes.sum(axis=2)
    counts[:, :, DOCKS] = capacity - counts[:, :, BIKES]
    counts[:, 3, DOCKS] = np.maximum(counts[:, 3, DOCKS] - 2, 0)
    panel = bare_panel(counts, capacity)
    observed, trusted, opened = panel.observed.copy(), panel.trusted.copy(), panel.open.copy()
    for start in random.integers(0, ticks - 20, 3):
        observed[start : start + random.integers(2, 12)] = False  # the feed was down
    for start in random.integers(0, ticks - 20, 2 * stations):
        observed[start : start + 8, random.integers(stations)] = False
    frozen = slice(ticks // 3, ticks // 3 + 10)
    counts[frozen] = counts[frozen.start]
    trusted[frozen] = False
    spikes = random.random((ticks, stations)) < 0.01
    counts[spikes, DOCKS] += 9
    trusted[spikes] = False
    opened[ticks // 2 : ticks // 2 + 20, 0] = False
    opened[-4:, 0] = False
    observed[:, 1, [MECHANICAL, EBIKES]] = False
    observed[:, 4, DOCKS] = False
    known = np.repeat(capacity[None].astype(np.int16), ticks, axis=0)
    known[:, 2] = 0
    known[: ticks // 4, 3] -= 3
    counts[~observed] = MISSING
    opened &= observed[:, :, BIKES]
    return replace(panel, counts=counts, observed=observed, trusted=trusted, open=opened, capacity=known)


def selected(panel: Panel, places: npt.NDArray[np.int64]) -> Panel:
    """The panel of these stations, in this order."""
    return panel.take(places)


def with_new_station(panel: Panel, *, silent: bool = False) -> Panel:
    """The panel with one more station, "new", like the last one; nothing at all is known of a silent one."""
    wider = selected(panel, np.append(np.arange(len(panel.stations)), len(panel.stations) - 1))
    table = replace(
        wider.stations,
        id=(*wider.stations.id[:-1], "new"),
        lat=np.append(wider.stations.lat[:-1], np.nan),
        lon=np.append(wider.stations.lon[:-1], np.nan),
    )
    if silent:
        for name, nothing in (("counts", MISSING), ("observed", False), ("open", False), ("capacity", 0)):
            getattr(wider, name)[:, -1] = nothing
    return replace(wider, stations=table)


def disturbed(panel: Panel, first: int, seed: int = 1) -> Panel:
    """The panel with everything at the ticks from `first` on replaced by something else."""
    random = np.random.default_rng(seed)
    cells: dict[str, Any] = {name: np.array(getattr(panel, name)) for name in CELLS}
    shape = cells["counts"][first:].shape
    cells["observed"][first:] = random.random(shape) < 0.7
    cells["counts"][first:] = np.where(cells["observed"][first:], random.integers(0, 60, shape), MISSING)
    cells["trusted"][first:] = random.random(shape[:2]) < 0.7
    cells["open"][first:] = random.random(shape[:2]) < 0.7
    cells["capacity"][first:] = random.integers(0, 80, shape[:2])
    return replace(panel, **cells)
