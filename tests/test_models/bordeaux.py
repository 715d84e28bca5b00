"""Bordeaux's stations, hourly, January to March 2011, as a panel. Not ours to redistribute: read where it lies."""

import bz2
import csv
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from velib_predictor.data.panel import BIKES, DOCKS, MISSING, Panel, Stations

TIMEZONE = "Europe/Paris"
"""Dates are local: on 2011-03-27 there is no 02:00."""


def bordeaux(shared_data: Path) -> Panel:
    """The 131 stations of which less than a fifth is missing; status 0 is not observed; capacity is not known."""
    zone = ZoneInfo(TIMEZONE)
    with bz2.open(shared_data / "bordeaux_vcub_2014" / "snapshots-bdx.csv.bz2", "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter=";") if row["status"] == "1"]
    instant = {
        text: int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) for text in {r["date"] for r in rows}
    }
    first, last = min(instant.values()), max(instant.values())
    ids = sorted({row["station_id"] for row in rows}, key=int)
    place = {name: number for number, name in enumerate(ids)}
    tick = np.array([(instant[row["date"]] - first) // 3600 for row in rows])
    station = np.array([place[row["station_id"]] for row in rows])
    counts = np.full(((last - first) // 3600 + 1, len(ids), 4), MISSING, dtype=np.int16)
    counts[tick, station, BIKES] = [int(row["bikes"]) for row in rows]
    counts[tick, station, DOCKS] = [int(row["slots"]) for row in rows]
    kept = np.flatnonzero((counts[:, :, BIKES] != MISSING).mean(axis=0) > 0.8)
    counts = counts[:, kept]
    observed = counts != MISSING
    nothing = (None,) * len(kept)
    with (shared_data / "bordeaux_vcub_2014" / "stations.csv").open(encoding="utf-8") as table:
        places = {
            row["station_id"]: (float(row["latitude"]), float(row["longitude"]))
            for row in csv.DictReader(table, delimiter=";")
        }
    lat, lon = np.array([places.get(ids[number], (np.nan, np.nan)) for number in kept]).T
    return Panel(
        system_id="bordeaux",
        timezone=TIMEZONE,
        ticks=(first + 3600 * np.arange(len(counts))).astype("datetime64[s]"),
        step=timedelta(hours=1),
        tolerance=timedelta(hours=1),
        stations=Stations(tuple(ids[number] for number in kept), nothing, nothing, lat, lon),
        counts=counts,
        observed=observed,
        trusted=observed[:, :, BIKES],
        open=observed[:, :, BIKES],
        capacity=np.zeros(counts.shape[:2], dtype=np.int16),
    )
