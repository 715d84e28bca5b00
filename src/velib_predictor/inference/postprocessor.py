"""Forecasts for people and programs: at any time, as records, table, CSV or GeoJSON."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast
from velib_predictor.inference.issue import shares
from velib_predictor.utils.temporal import format_time, from_micros

COLUMNS = (
    "system_id", "model", "station_id", "code", "name", "lat", "lon", "issued_at", "target_at", "target", "now", "k",
    "mean", "median", "q10", "q90", "p_ge_1",
)  # fmt: skip
Probabilities = npt.NDArray[np.float32]


def issued_at(forecast: Forecast) -> datetime:
    """The instant of a forecast of one origin."""
    return from_micros(int(forecast.origins[0].astype("datetime64[us]").astype(np.int64)))


def at_time(forecast: Forecast, panel: Panel, when: datetime) -> Probabilities:
    """The forecast of one origin for any instant, float32[station, target, count].

    Between two horizons it is the mixture of both, by time; before the first one, of it and of what is there now.

    Args:
        panel: whose last tick is the origin.

    Raises:
        UsageError: `when` lies before the origin or beyond the longest horizon.
    """
    mixed = []
    for place, _ in (parts := shares(forecast.spec, issued_at(forecast), when)):
        mixed.append(forecast.pmf[0, :, place] if place >= 0 else _now(forecast, panel))
    return algebra.mix(mixed, [share for _, share in parts]) if len(parts) > 1 else mixed[0]


def _now(forecast: Forecast, panel: Panel) -> Probabilities:
    """What was there at the origin, as certain; where that is not known, the first horizon's forecast."""
    counts = np.clip(panel.counts[-1][:, forecast.spec.channels], 0, forecast.k[0][:, None])
    seen = panel.observed[-1][:, forecast.spec.channels]
    return np.where(seen[..., None], algebra.point(counts, forecast.pmf.shape[-1]), forecast.pmf[0, :, 0])


def records(
    forecast: Forecast,
    panel: Panel,
    *,
    stations: Sequence[int] | None = None,
    times: Sequence[datetime] | None = None,
) -> list[dict[str, Any]]:
    """One record (`COLUMNS`) for each station, time and target of which there is a forecast.

    Args:
        stations: places in the panel; None is all.
        times: None is all horizons of the forecast.
    """
    issued = issued_at(forecast)
    wanted = list(times) if times is not None else [issued + horizon for horizon in forecast.spec.horizons]
    rows = []
    tables = [_numbers(at_time(forecast, panel, when)) for when in wanted]
    about = panel.stations
    for station in range(len(about)) if stations is None else stations:
        for when, table in zip(wanted, tables, strict=True):
            for target, name in enumerate(forecast.spec.targets):
                if not forecast.known[0, station, target]:
                    continue
                channel = forecast.spec.channels[target]
                rows.append(
                    {
                        "system_id": panel.system_id,
                        "model": forecast.model,
                        "station_id": about.id[station],
                        "code": about.code[station],
                        "name": about.name[station],
                        "lat": _known(about.lat[station]),
                        "lon": _known(about.lon[station]),
                        "issued_at": format_time(issued),
                        "target_at": format_time(when),
                        "target": name,
                        "now": int(panel.counts[-1, station, channel])
                        if panel.observed[-1, station, channel]
                        else None,
                        "k": int(forecast.k[0, station]),
                        **{column: values[station, target].item() for column, values in table.items()},
                    }
                )
    return rows


def _numbers(pmf: Probabilities) -> dict[str, npt.NDArray[Any]]:
    cdf = algebra.to_cdf(pmf)
    return {
        "mean": np.round(algebra.mean(pmf).astype(np.float64), 3),
        "median": algebra.quantile(cdf, 0.5),
        "q10": algebra.quantile(cdf, 0.1),
        "q90": algebra.quantile(cdf, 0.9),
        "p_ge_1": np.round(algebra.at_least(pmf, 1).astype(np.float64), 4),
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _printable(text: str) -> str:
    """On one line and without control characters: a feed's names must not write to the terminal as they please."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Records as CSV with a head line, times in UTC."""
    text = io.StringIO()
    # All text in quotes: left to itself, Python 3.11 leaves a carriage return in a name bare, which breaks the line.
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def as_geojson(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Records as a FeatureCollection: a point a record, longitude before latitude; null where it has no place."""
    features = []
    for row in rows:
        properties = {key: value for key, value in row.items() if key not in ("lat", "lon")}
        placed = row["lat"] is not None and row["lon"] is not None
        geometry = {"type": "Point", "coordinates": [row["lon"], row["lat"]]} if placed else None
        identity = f"{row['station_id']}/{row['target_at']}/{row['target']}"
        features.append({"type": "Feature", "id": identity, "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def as_table(rows: Sequence[dict[str, Any]], timezone: str) -> str:
    """Records for people: local times, what is expected, and the chance of finding at least one."""
    if not rows:
        return "no forecast: nothing recent is known of these stations"
    zone = ZoneInfo(timezone)
    head = ("station", "name", "at", "target", "now", "expected", "10-90 %", "at least 1")
    lines = [head]
    for row in rows:
        local = datetime.fromisoformat(row["target_at"]).astimezone(zone)
        lines.append(
            (
                _printable(row["code"] or row["station_id"]),
                _printable(row["name"] or "")[:32],
                f"{local:%a %H:%M}",
                row["target"],
                "-" if row["now"] is None else str(row["now"]),
                f"{row['mean']:.1f}",
                f"{row['q10']}-{row['q90']}",
                f"{row['p_ge_1']:.0%}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    issued = datetime.fromisoformat(rows[0]["issued_at"]).astimezone(zone)
    text = [f"{rows[0]['system_id']}, {rows[0]['model']}, issued {issued:%Y-%m-%d %H:%M} ({timezone})"]
    text += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(text)
