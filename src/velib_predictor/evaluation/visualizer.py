"""A report's tables -> `report.json` and `report.html`, the same numbers to compute with and to look at."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from velib_predictor.evaluation import figures
from velib_predictor.evaluation.html import BASELINE, WORDS, Chart, Section, cell, page, percent
from velib_predictor.evaluation.style import CSS
from velib_predictor.utils.temporal import parse_duration

_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_BEFORE_FAN = timedelta(hours=2)
Tables = list[dict[str, Any]]


def write_report(data: dict[str, Any], folder: Path, figures_too: bool = False) -> None:
    """Write `report.json` and the self-contained `report.html` into a folder, which is made if it is not there.

    Both appear under their names when they are complete. A number that is not finite is written as null.

    Args:
        data: what `report.report` returns.
        figures_too: whether each figure is also written as a file of its own, into figures/.
    """
    data = _finite(data)
    text = json.dumps(data, allow_nan=False)
    sections = list(_sections(data))
    shown = page(data, sections)
    folder.mkdir(parents=True, exist_ok=True)
    _write([(folder / "report.json", text), (folder / "report.html", shown)])
    if figures_too:
        _write_figures(sections, folder / "figures")


def _write_figures(sections: list[Section], folder: Path) -> None:
    """Each figure as an SVG file, which brings the page's colours with it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, section in enumerate(sections, 1):
        for place, chart in enumerate(section.charts, 1):
            name = re.sub("[^a-z0-9]+", "_", f"{section.title} {chart.heading}".lower()).strip("_")[:80]
            head, _, body = chart.svg.removeprefix("<svg").partition(">")
            svg = f"<svg {_NAMESPACES}{head}><style>{CSS}</style>{body}"
            (folder / f"{number:02}_{place}_{name}.svg").write_text(svg, encoding="utf-8", errors="xmlcharrefreplace")


def alone(svg: str) -> str:
    """A figure as a document of its own, in the colours for light screens on white: what a notebook shows."""
    head, _, body = svg.removeprefix("<svg").partition(">")
    colours = dict(re.findall(r"--(\w+):(#\w+)", CSS.partition("@media")[0]))
    named = f'<svg {_NAMESPACES} style="background:#fff;max-width:640px" {head}>{body}'
    return re.sub(r"var\(--(\w+)\)", lambda colour: colours[colour[1]], named)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(files: list[tuple[Path, str]]) -> None:
    partial = [file.with_name(f".{file.name}.partial") for file, _ in files]
    try:
        for path, (_, text) in zip(partial, files, strict=True):
            path.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
        for path, (file, _) in zip(partial, files, strict=True):
            path.replace(file)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


# -- the figures, in order -------------------------------------------------------------------------------------


def _sections(data: dict[str, Any]) -> Iterator[Section]:
    if len(data["models"]) > 1:
        yield from _skills(data)
        yield _map(data)
    yield from _reliabilities(data)
    yield _pits(data)
    if data["examples"]:
        yield from _fans(data)


def _first(data: dict[str, Any]) -> tuple[str, str, str]:
    """The first target, and its words for one and for many."""
    target = data["protocol"]["targets"][0]
    return target, *WORDS.get(target, (target, target))


def _challengers(data: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    """Places and names of all models but persistence."""
    return tuple((place, name) for place, name in enumerate(data["models"]) if name != BASELINE)


def _skills(data: dict[str, Any]) -> Iterator[Section]:
    many = _first(data)[2]
    above = f"Skill in RPS for {many}. Above the grey line (persistence) is better; "
    yield _skill(
        data,
        "by_hour",
        "Skill by hour",
        above + "the hour is the local one in which the forecast was issued.",
        list(range(24)),
        "hour",
        {hour: str(hour) for hour in range(0, 24, 3)},
        "local hour of issue",
    )
    if len(data["days"]) > 2:
        yield _skill(
            data,
            "by_weekday",
            "Skill by weekday",
            above + "each day is that of the origin, and a weekday seen once or twice says little.",
            list(range(7)),
            "weekday",
            dict(enumerate(_DAYS)),
            "local day of issue",
        )
    days = data["days"]
    apart = math.ceil(len(days) / 6)
    yield _skill(
        data,
        "by_day",
        "Skill by day",
        above + "how far the days differ is how far a short test can be trusted.",
        days,
        "day",
        {place: f"{date.fromisoformat(day):%-d %b}" for place, day in enumerate(days) if place % apart == 0},
        "local day of issue",
    )


def _skill(
    data: dict[str, Any],
    table: str,
    title: str,
    how_to_read: str,
    keys: list[Any],
    axis: str,
    ticks: dict[int, str],
    label: str,
) -> Section:
    target, models = _first(data)[0], _challengers(data)
    found = {
        (name, row["horizon"], row[axis]): row["skill_rps"]
        for _, name in models
        for row in data["models"][name][table]
        if row["target"] == target
    }
    limits = figures.skill_limits(list(found.values()))
    if any(value is not None and value < limits[0] for value in found.values()):
        how_to_read += f" Values below {percent(limits[0])} are cut."
    charts = tuple(
        Chart(
            f"{horizon} ahead",
            figures.skill_lines(
                {place: [found.get((name, horizon, key)) for key in keys] for place, name in models},
                list(range(len(keys))),
                limits,
                {float(tick): text for tick, text in ticks.items()},
                label,
            ),
        )
        for horizon in data["protocol"]["horizons"]
    )
    return Section(title, how_to_read, charts, ((0, BASELINE), *models))


def _map(data: dict[str, Any]) -> Section:
    (target, _, many), horizon, title = _first(data), data["protocol"]["horizons"][-1], "Skill by station"
    skills = {
        name: cell(data["models"][name]["scores"], target, horizon)["skill_rps"] for _, name in _challengers(data)
    }
    known = {name: skill for name, skill in skills.items() if skill is not None}
    if not known:
        return Section(title, "No model's skill is known at the longest horizon, so there is no map.")
    best = max(known, key=lambda name: known[name])
    entry = data["models"][best]
    shares = cell(entry["stations"], target, horizon)
    read = (
        f"Each point is a station, for {many} {horizon} ahead by {best}, the best model there: blue is better than "
        "persistence, orange worse, hollow too little to tell."
    )
    if shares["share_rps_not_worse"] is not None:
        read += (
            f" Of {shares['stations']:,} stations {percent(shares['share_rps_not_worse'])} are not worse off in RPS; "
            f"in the median's absolute error {percent(shares['share_mae_worse_by_1pct'])} are worse off by more "
            "than 1 %."
        )
    lon, lat, skill = (
        np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        for values in (
            data["places"]["lon"],
            data["places"]["lat"],
            cell(entry["by_station"], target, horizon)["skill_rps"],
        )
    )
    placed = np.isfinite(lon) & np.isfinite(lat)
    if not placed.all():
        read += f" {int((~placed).sum()):,} of {len(placed):,} stations have no coordinates and are not drawn."
    if not placed.any():
        return Section(title, read)
    drawn = figures.station_map(lon[placed], lat[placed], skill[placed])
    return Section(title, read, (Chart(f"{best}, {horizon} ahead", drawn),), wide=True)


def _reliabilities(data: dict[str, Any]) -> Iterator[Section]:
    target, one, _ = _first(data)
    models = tuple(enumerate(data["models"]))
    for table, title, which in (
        ("reliability", "Reliability", "all stations"),
        ("reliability_undecided", "Reliability at undecided stations", "only stations with at most 5 at the origin"),
    ):
        yield Section(
            f"{title}: P(at least one {one})",
            f"On the diagonal, what was said came true as often as said; below it the forecast promised too much "
            f"({which}). The lower part counts rows (logarithmic); bins of fewer than 20 are not drawn above.",
            tuple(
                Chart(
                    f"{horizon} ahead",
                    figures.reliability(
                        {place: cell(data["models"][name][table], target, horizon)["bins"] for place, name in models}
                    ),
                )
                for horizon in data["protocol"]["horizons"]
            ),
            models,
        )


def _pits(data: dict[str, Any]) -> Section:
    (target, _, many), horizon = _first(data), data["protocol"]["horizons"][-1]
    bins = {name: cell(entry["pit"], target, horizon)["bins"] for name, entry in data["models"].items()}
    top = figures.pit_top(list(bins.values()))
    return Section(
        f"PIT histograms: {many} {horizon} ahead",
        "Flat at the dashed line is calibrated; a U means too narrow, a hump too wide; more on the left means "
        "forecasts that are too high, more on the right too low.",
        tuple(Chart(name, figures.pit(table, place, top)) for place, (name, table) in enumerate(bins.items())),
    )


def _fans(data: dict[str, Any]) -> Iterator[Section]:
    zone = ZoneInfo(data["timezone"])
    longest = parse_duration(data["protocol"]["horizons"][-1])
    models = _challengers(data) or ((0, BASELINE),)
    for number, example in enumerate(data["examples"]):
        issued = datetime.fromisoformat(example["issued_at"])
        since = issued - max(_BEFORE_FAN, 2 * longest)
        observed = [
            (time, count) for text, count in example["observed"] if (time := datetime.fromisoformat(text)) >= since
        ]
        quantiles = {name: example["models"][name] for _, name in models if name in example["models"]}
        limits = _count_limits([count for _, count in observed], quantiles.values())
        name = example["name"] or example["station_id"]
        yield Section(
            f"{WORDS.get(example['target'], ('', example['target']))[1].capitalize()} at {name}, "
            f"{issued.astimezone(zone):%a %Y-%m-%d %H:%M}",
            "Thin line with dots: what was seen. Colour: the forecast issued at the dotted line, its median, and where "
            f"50 % and 90 % of the probability lie. Times are local, {data['timezone']}."
            if number == 0
            else "Read like the first of these charts."
            if quantiles
            else "No model had a forecast.",
            tuple(
                Chart(
                    model,
                    figures.fan(
                        observed,
                        issued,
                        [datetime.fromisoformat(text) for text in example["target_at"]],
                        quantiles[model],
                        place,
                        zone,
                        limits,
                    ),
                )
                for place, model in models
                if model in quantiles
            ),
        )


def _count_limits(counts: list[int | None], models: Iterable[dict[str, list[float]]]) -> tuple[float, float]:
    every: list[float] = [count for count in counts if count is not None]
    every += [value for quantiles in models for values in quantiles.values() for value in values]
    low, high = min(every, default=0), max(every, default=1)
    room = max(0.08 * (high - low), 1)
    return max(low - room, -0.5), high + room
