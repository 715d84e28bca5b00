"""Numbers -> SVG. Text from data never enters a figure: it stands in the page, where it is escaped."""

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from velib_predictor.evaluation import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
SMALL = (3.6, 2.4)
"""Inches of most figures; the page scales them."""
_LOWEST_SKILL = -0.6
_LEAST_BIN_ROWS = 20
_RASTER_FROM = 3000
"""Stations from which a picture of points is smaller than the points."""
_PIT_TOP = 3.0
_RC: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.linewidth": 0.6,
    "grid.color": style.GRID,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), style.INK),
}


class Drawing:
    """A figure while it is drawn: `with Drawing() as drawing: drawing.axes.plot(...)`, then `drawing.svg`.

    Uses matplotlib's object interface with its own settings, restored at the end; pyplot is not touched.
    """

    def __init__(self, size: tuple[float, float] = SMALL) -> None:
        from matplotlib import rc_context

        self.svg = ""
        self._size = size
        self._settings = rc_context(_RC)

    def __enter__(self) -> "Drawing":
        from matplotlib.figure import Figure

        self._settings.__enter__()
        self.figure = Figure(figsize=self._size, dpi=150, layout="constrained")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if error is None:
                text = StringIO()
                self.figure.savefig(text, format="svg", dpi=150)
                self.svg = _inline(text.getvalue())
        finally:
            self._settings.__exit__(kind, error, trace)


def _inline(svg: str) -> str:
    """An SVG file as part of a page: no prolog, no metadata, no fixed size, no ids that several figures share."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"\s*\n\s*", " ", rest).strip()
    return style.coloured(f'<svg {box[0] if box else ""} role="img">{body}')


def _dash(place: int) -> Any:
    return "-" if place < style.MODEL_COLOURS else (0, (3, 2))


def skill_limits(values: Sequence[float | None]) -> tuple[float, float]:
    """Common limits of an axis of skill: all values and 0, but nothing far below."""
    known = [value for value in values if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    room = max(0.08 * (high - low), 0.02)
    return max(low - room, _LOWEST_SKILL), high + room


def skill_lines(
    lines: dict[int, Sequence[float | None]],
    keys: Sequence[float],
    limits: tuple[float, float],
    ticks: dict[float, str],
    label: str,
) -> str:
    """Skill against a key, one line a model (by its place); the zero line is persistence."""
    from matplotlib.ticker import PercentFormatter

    with Drawing() as drawing:
        axes = drawing.figure.add_subplot()
        axes.axhline(0, color=style.mark(0), linewidth=1.2)
        for place, values in lines.items():
            heights = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
            axes.plot(keys, heights, color=style.mark(place), linestyle=_dash(place), marker="o")
        axes.set_ylim(limits)
        edge = 0.5 if len(keys) < 9 else 0.03 * (max(keys) - min(keys))
        axes.set_xlim(min(keys) - edge, max(keys) + edge)
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        axes.set_ylabel("skill in RPS")
    return drawing.svg


def station_map(lon: Floats, lat: Floats, skill: Floats) -> str:
    """Stations at their places, coloured by skill; hollow where it is not known.

    Args:
        lon, lat: degrees, float64[station].
        skill: float64[station], nan where a station has too few rows.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
    from matplotlib.ticker import PercentFormatter

    stretch = 1 / max(float(np.cos(np.radians(lat.mean()))), 0.05)
    (west, east), (south, north) = _limits(lon), _limits(lat)
    height = float(np.clip(5.8 * (north - south) * stretch / (east - west), 2.5, 6.5))
    known = np.isfinite(skill)
    reach = _reach(skill[known])
    colours = LinearSegmentedColormap.from_list("skill", [style.WORSE, style.EVEN, style.BETTER], N=256)
    edges = np.arange(-5, 6) / 5 * reach
    norm = BoundaryNorm(edges, 256, extend="both")
    size = float(np.clip(16000 / len(lon), 9, 70))
    with Drawing((6.8, height)) as drawing:
        axes = drawing.figure.add_subplot()
        axes.scatter(lon[~known], lat[~known], s=size, facecolors="none", edgecolors=style.mark(0), linewidths=0.6)
        order = np.argsort(-skill[known], kind="stable")  # what is worse lies on top: it must not hide
        axes.scatter(
            lon[known][order],
            lat[known][order],
            c=skill[known][order],
            s=size,
            cmap=colours,
            norm=norm,
            linewidths=0,
            rasterized=len(lon) > _RASTER_FROM,
        )
        axes.set_xlim(west, east)
        axes.set_ylim(south, north)
        axes.set_aspect(stretch)
        axes.set_axis_off()
        _scale(axes, west, east, south, north, stretch)
        bar = drawing.figure.colorbar(
            ScalarMappable(norm, colours),
            ax=axes,
            shrink=0.8,
            ticks=edges[1::2],
            format=PercentFormatter(1.0, decimals=0 if reach > 0.1 else 1),
        )
        bar.set_label("skill in RPS")
        bar.outline.set_visible(False)
    return drawing.svg


def _limits(degrees: Floats) -> tuple[float, float]:
    low, high = float(degrees.min()), float(degrees.max())
    room = max(0.03 * (high - low), 0.002)
    return low - room, high + room


def _reach(skill: Floats) -> float:
    """Where the colours end: beyond most values, not beyond the strangest."""
    wide = float(np.quantile(np.abs(skill), 0.95)) if len(skill) else 0.0
    return max(math.ceil(wide * 20), 1) / 20


def _scale(axes: "Axes", west: float, east: float, south: float, north: float, stretch: float) -> None:
    """A bar of a round number of kilometres in the lower left corner."""
    km_per_degree = 111.2 / stretch
    most = (east - west) * km_per_degree / 4
    power = 10.0 ** np.floor(np.log10(most))
    length = power * max(step for step in (1, 2, 5) if step * power <= most)
    y = south + 0.02 * (north - south)
    axes.plot([west, west + length / km_per_degree], [y, y], color=style.INK, linewidth=1.5, solid_capstyle="butt")
    text = f"{length:g} km" if length >= 1 else f"{length * 1000:g} m"
    axes.annotate(text, (west, y), (0, 3), textcoords="offset points", fontsize=7)


def reliability(tables: dict[int, Sequence[Sequence[float]]]) -> str:
    """What was said against what happened, above how often it was said.

    Args:
        tables: by the model's place, [bin, (rows, sum of probabilities, events)].
    """
    from matplotlib.ticker import FuncFormatter, LogLocator

    with Drawing((3.6, 3.9)) as drawing:
        upper, lower = drawing.figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        upper.plot([0, 1], [0, 1], color=style.INK, linewidth=0.9, linestyle="--")
        most = 1.0
        for place, bins in tables.items():
            table = np.array(bins, dtype=np.float64)
            used = table[table[:, 0] >= _LEAST_BIN_ROWS]
            said, happened = used[:, 1] / used[:, 0], used[:, 2] / used[:, 0]
            style_of = {"color": style.mark(place), "linestyle": _dash(place)}
            upper.plot(said, happened, marker="o", linewidth=1.1, **style_of)
            edges = np.linspace(0, 1, len(table) + 1)
            rows = np.where(table[:, 0] > 0, table[:, 0], np.nan)
            lower.stairs(rows, edges, baseline=None, linewidth=1.2, **style_of)
            most = max(most, float(table[:, 0].max()))
        upper.set_xlim(-0.02, 1.02)
        upper.set_ylim(-0.02, 1.02)
        upper.set_ylabel("share that happened")
        upper.grid()
        lower.set_yscale("log")
        lower.set_ylim(0.8, most * 2)
        lower.yaxis.set_major_locator(LogLocator(numticks=5))
        lower.yaxis.set_major_formatter(FuncFormatter(lambda rows, _: f"{rows:,.0f}"))
        lower.minorticks_off()
        lower.set_ylabel("rows")
        lower.set_xlabel("probability that was said")
        lower.grid(axis="y")
    return drawing.svg


def pit(bins: Sequence[float], place: int, top: float) -> str:
    """Histogram of where the truth fell in the forecast's distribution; flat at 1 if calibrated."""
    mass = np.array(bins, dtype=np.float64)
    density = mass / mass.sum() * len(mass) if mass.sum() else np.zeros(len(mass))
    with Drawing((3.6, 2.0)) as drawing:
        axes = drawing.figure.add_subplot()
        edges = np.linspace(0, 1, len(mass) + 1)
        axes.stairs(np.minimum(density, top), edges, fill=True, color=style.mark(place), alpha=0.75, linewidth=0)
        axes.axhline(1, color=style.INK, linewidth=0.9, linestyle="--")
        for centre, height in zip((edges[1:] + edges[:-1]) / 2, density, strict=True):
            if height > top:
                side = "left" if centre < 0.5 else "right"
                axes.annotate(
                    f"↑ {height:.1f}",
                    (centre + (0.04 if side == "left" else -0.04), top),
                    ha=side,
                    va="top",
                    fontsize=7,
                )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, top * 1.03)
        axes.set_xlabel("where the truth fell in the distribution")
        axes.set_ylabel("times as often as fair")
    return drawing.svg


def pit_top(tables: Sequence[Sequence[float]]) -> float:
    """A common upper end of PIT histograms; single towers above it are cut and labelled."""
    highest = [max(bins) / sum(bins) * len(bins) for bins in tables if sum(bins)]
    return min(max([1.6, *highest]), _PIT_TOP)


def fan(
    observed: Sequence[tuple[datetime, int | None]],
    issued: datetime,
    at: Sequence[datetime],
    quantiles: dict[str, Sequence[float]],
    place: int,
    zone: ZoneInfo,
    limits: tuple[float, float],
) -> str:
    """One forecast: what was seen before and after, the median, and where 50 % and 90 % of the probability lie.

    Args:
        observed: times and counts, None where nothing was seen; at least one time.
        at, quantiles: times of the horizons, and the forecast's quantiles there, by level ("0.05").
        place: of the model.
        limits: of the counts.
    """
    from matplotlib.ticker import MaxNLocator

    now = next((count for time, count in observed if time == issued and count is not None), None)
    start = [] if now is None else [float(now)]  # at the origin the count is known
    times: Any = [*([issued] if start else []), *at]
    low, lower, middle, upper, high = ([*start, *quantiles[level]] for level in ("0.05", "0.25", "0.5", "0.75", "0.95"))
    colour = style.mark(place)
    with Drawing((3.6, 2.2)) as drawing:
        axes = drawing.figure.add_subplot()
        axes.axvline(issued, color=style.mark(0), linewidth=0.8, linestyle=":")  # type: ignore[arg-type]
        axes.fill_between(times, low, high, color=colour, alpha=0.22, linewidth=0)
        axes.fill_between(times, lower, upper, color=colour, alpha=0.38, linewidth=0)
        axes.vlines(list(at), quantiles["0.05"], quantiles["0.95"], color=colour, linewidth=0.8)  # type: ignore[arg-type]
        axes.plot(times, middle, color=colour, marker="o", markersize=2.5)
        counts: Any = [np.nan if count is None else count for _, count in observed]
        moments: Any = [time for time, _ in observed]
        axes.plot(moments, counts, color=style.INK, linewidth=1.1, marker="o", markersize=2.2)
        edge = 0.03 * (at[-1] - moments[0])
        axes.set_xlim(moments[0] - edge, at[-1] + edge)
        axes.set_ylim(limits)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        clock: Any = _clock(observed[0][0], at[-1], zone)
        axes.set_xticks(clock, [f"{time.astimezone(zone):%H:%M}" for time in clock])
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    return drawing.svg


def _clock(first: datetime, last: datetime, zone: ZoneInfo) -> list[datetime]:
    """At most six round local times of a span: offsets from UTC are whole quarters of an hour."""
    quarter = timedelta(minutes=15)
    start = first - timedelta(seconds=first.timestamp() % quarter.total_seconds())
    times = [start + number * quarter for number in range((last - start) // quarter + 1)]
    times = [time for time in times if time >= first]
    for minutes in (15, 30, 60, 120, 180, 360, 720, 1440):
        local = (time.astimezone(zone) for time in times)
        times = [time for time in local if (60 * time.hour + time.minute) % minutes == 0]
        if len(times) <= 6:
            break
    return times[:: math.ceil(len(times) / 6) or 1]
