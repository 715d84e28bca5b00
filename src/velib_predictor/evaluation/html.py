"""The report's page: one HTML file that needs nothing else, no script and no network."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any
from zoneinfo import ZoneInfo

from velib_predictor.evaluation.comparison import ALL
from velib_predictor.evaluation.style import CSS, colour_of, dash_of

BASELINE = "persistence"
WORDS = {
    "bikes": ("bike", "bikes"),
    "mechanical": ("mechanical bike", "mechanical bikes"),
    "ebikes": ("e-bike", "e-bikes"),
    "docks": ("dock", "docks"),
}
UNBROKEN = "\u2011"
"""A hyphen at which no line ends."""
NOTHING = "–"  # noqa: RUF001 (a dash, as tables have it)


@dataclass(frozen=True)
class Chart:
    """One figure: its heading (plain text) and its SVG."""

    heading: str
    svg: str


@dataclass(frozen=True)
class Section:
    """Figures that are read alike. `models`: names for the legend; `wide`: one figure, as wide as the page."""

    title: str
    how_to_read: str
    charts: tuple[Chart, ...] = ()
    models: tuple[tuple[int, str], ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Column:
    """A column of the table of scores: `best` gives the value that is smallest for the best model."""

    key: str
    title: str
    show: Callable[[float], str]
    best: Callable[[float], float] | None


def percent(value: float) -> str:
    """0.2291 -> 22.9 %; never -0.0 %."""
    return f"{value * 100:.1f} %".replace("-0.0 %", "0.0 %").replace("-", "−")  # noqa: RUF001 (a minus sign)


def signed(value: float) -> str:
    """A difference: -0.01234 -> −0.0123, never -0.0000."""  # noqa: RUF002 (a minus sign)
    return f"{value:+.4f}".replace("-0.0000", "0.0000").replace("+0.0000", "0.0000").replace("-", "−")  # noqa: RUF001


def _decimals(places: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{places}f}"


COLUMNS = (
    Column("rows", "Rows", lambda value: f"{value:,}", None),
    Column("rps", "RPS", _decimals(3), lambda value: value),
    Column("skill_rps", "Skill in RPS", percent, lambda value: -value),
    Column("mae_median", "MAE of median", _decimals(3), lambda value: value),
    Column("mae_mean", "MAE of mean", _decimals(3), lambda value: value),
    Column("rmse_mean", "RMSE of mean", _decimals(3), lambda value: value),
    Column("brier", "Brier of P(≥\u00a01\u00a0{one})", _decimals(4), lambda value: value),
    Column("brier_undecided", "Brier, undecided stations", _decimals(4), lambda value: value),
    Column("ece", "ECE of P(≥\u00a01\u00a0{one})", _decimals(4), lambda value: value),
    Column("log_score", "Log score", _decimals(3), lambda value: value),
    Column("coverage_80", "In 80 % interval", percent, lambda value: abs(value - 0.8)),
    Column("coverage_90", "In 90 % interval", percent, lambda value: abs(value - 0.9)),
)

DEFINITIONS = (
    ("Row", "one station, at one origin, for one horizon and target. It counts for all models or for none."),
    (
        "RPS",
        "ranked probability score: the sum over k of (F(k) − 1{y ≤ k})², where F is the forecast's distribution "  # noqa: RUF001
        "and y what was counted. In bikes (or docks). Equals the absolute error for a forecast without spread.",
    ),
    ("Skill", "1 − score / persistence's score on the same rows: 100 % is perfect, 0 % no better."),  # noqa: RUF001
    ("Persistence", "what is there now stays. It gives one number and claims to be sure of it."),
    ("MAE, RMSE", "mean absolute error, and root of the mean squared error, of the forecast's median or mean."),
    ("Brier", "the mean of (p − happened)², p being the probability of at least one. 0 is perfect."),  # noqa: RUF001
    ("Undecided", "stations with at most 5 at the origin: elsewhere “at least one” is hardly a question."),
    ("ECE", "expected calibration error: mean gap between what was said and what happened, over 20 bins of p."),
    ("Log score", "−log of the probability given to what came, in nats, with a floor of 0.0001 spread evenly."),  # noqa: RUF001
    (
        "In 80 % interval",
        "how often the truth lay in the central interval. Counts come in lumps, so a calibrated forecast "
        "lies somewhat above 80 %.",
    ),
    ("PIT", "probability integral transform: where in its forecast distribution the truth fell, from 0 to 1."),
)


def page(data: dict[str, Any], sections: Iterable[Section]) -> str:
    """The whole report.

    Args:
        data: what `report.report` returns.
        sections: the figures, in order.
    """
    title = f"Backtest of {data['system_id']}"
    body = [_header(data), _scores(data), _differences(data), "<h2>Figures</h2>", *map(_section, sections), _how(data)]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{CSS}</style>\n</head>\n<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _header(data: dict[str, Any]) -> str:
    protocol, zone = data["protocol"], ZoneInfo(data["timezone"])

    def local(name: str) -> str:
        return f"{datetime.fromisoformat(protocol[name]).astimezone(zone):%Y-%m-%d %H:%M}"

    rows = max(row["rows"] for entry in data["models"].values() for row in entry["scores"])
    facts = (
        ("System", data["system_id"]),
        ("Training", f"{local('train_from')} to {local('train_until')}, fitted until {local('fitted_until')}"),
        ("Test", f"{local('test_from')} to {local('test_until')}, {_count(len(data['days']), 'day')}"),
        ("Times", f"local, {data['timezone']}"),
        ("Step and tolerance", f"{protocol['step']}; observations up to {protocol['tolerance']} old are taken"),
        ("Horizons", ", ".join(protocol["horizons"])),
        ("Origins", f"{data['origins']:,}"),
        ("Stations", f"{data['stations']:,}"),
        ("Rows", f"{rows:,} at most for one horizon and target"),
        ("Uncertainty", data["intervals"]),
        ("In short", _in_short(data)),
    )
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts)
    return (
        f"<h1>Backtest of {escape(data['system_id'])}</h1>\n"
        "<p>Models were fitted on the training window and then asked at every origin of the later test window; all "
        "are judged on the same rows, beside persistence (“what is there now stays”).</p>\n"
        f'<dl class="facts">{items}</dl>'
    )


def _in_short(data: dict[str, Any]) -> str:
    """The best model of the first target at the longest horizon, in a sentence."""
    target, horizon = data["protocol"]["targets"][0], data["protocol"]["horizons"][-1]
    rows = {name: cell(entry["scores"], target, horizon) for name, entry in data["models"].items() if name != BASELINE}
    known = {name: row for name, row in rows.items() if row["skill_rps"] is not None}
    if not known:
        return "nothing was compared with persistence"
    name = max(known, key=lambda name: known[name]["skill_rps"])
    skill, low, high = (known[name][key] for key in ("skill_rps", "skill_rps_low", "skill_rps_high"))
    between = "" if low is None else f" (90 % interval {percent(low)} to {percent(high)})"
    many = WORDS.get(target, (target, target))[1]
    return f"for {many} {horizon} ahead {name} does best: {percent(skill)} skill in RPS over persistence{between}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _scores(data: dict[str, Any]) -> str:
    parts = [
        "<h2>Scores</h2>",
        "<p>Skill above 0 % is better than persistence; of all other scores smaller is better, of intervals the share "
        "nearest to their name. The best of each horizon is <b>bold</b>.</p>",
    ]
    for target in data["protocol"]["targets"]:
        one, many = WORDS.get(target, (target, target))
        head = "".join(f"<th>{escape(column.title.format(one=one.replace('-', UNBROKEN)))}</th>" for column in COLUMNS)
        parts.append(
            f"<h3>{escape(many.capitalize())}</h3>\n"
            f'<div class="scroll"><table class="scores"><thead><tr><th>Horizon</th><th>Model</th>{head}</tr></thead>'
        )
        parts += [_horizon_rows(data, target, horizon) for horizon in data["protocol"]["horizons"]]
        parts.append("</table></div>")
    return "\n".join(parts)


def _horizon_rows(data: dict[str, Any], target: str, horizon: str) -> str:
    """The rows of one horizon, one a model, as a body of the table."""
    rows = {name: cell(entry["scores"], target, horizon) for name, entry in data["models"].items()}
    best = {column.key: _best(column, rows.values()) for column in COLUMNS}
    lines = []
    for place, (name, row) in enumerate(rows.items()):
        cells = []
        for column in COLUMNS:
            value = row[column.key]
            text = NOTHING if value is None else column.show(value)
            shown = f"<b>{text}</b>" if value is not None and text == best[column.key] else text
            if column.key == "skill_rps" and row["skill_rps_low"] is not None:
                low, high = percent(row["skill_rps_low"]), percent(row["skill_rps_high"])
                shown += f"<small>{low} to {high}</small>"
            cells.append(f"<td>{shown}</td>")
        first = f'<th rowspan="{len(rows)}" scope="rowgroup">{escape(horizon)}</th>' if place == 0 else ""
        lines.append(f'<tr>{first}<th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return f"<tbody>{''.join(lines)}</tbody>"


def _differences(data: dict[str, Any]) -> str:
    """RPS of each model minus the reference's: a row a target and horizon, a column a model."""
    rows = data["differences"]
    if not rows:
        return ""
    base = rows[0]["reference"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["target"], row["horizon"], row["model"]): row for row in rows}
    lines = []
    for target, horizon in dict.fromkeys((row["target"], row["horizon"]) for row in rows):
        many = "all" if target == ALL else WORDS.get(target, (target, target))[1]
        cells = "".join(f"<td>{_gap(found[target, horizon, name])}</td>" for name in models)
        lines.append(f'<tr><th scope="row">{escape(many)}</th><th scope="row">{escape(horizon)}</th>{cells}</tr>')
    head = "".join(f"<th>{escape(name)}</th>" for name in models)
    return (
        f"<h3>Differences in RPS from {escape(base)}</h3>\n"
        f"<p>Each model's RPS minus that of {escape(base)} on the same rows: below 0 is better. "
        f"{escape(data['intervals'].capitalize())}; <b>bold</b> where the interval leaves out 0.</p>\n"
        '<div class="scroll"><table class="differences"><thead><tr><th>Target</th><th>Horizon</th>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _gap(row: dict[str, Any]) -> str:
    value = signed(row["difference"])
    if row["low"] is None:
        return value
    value = f"<b>{value}</b>" if row["high"] < 0 or row["low"] > 0 else value
    return f"{value}<small>{signed(row['low'])} to {signed(row['high'])}</small>"


def _best(column: Column, rows: Iterable[dict[str, Any]]) -> str | None:
    """The best value as it is shown, so that what looks the same is bold alike; None if nothing is better or worse."""
    values = [row[column.key] for row in rows if row[column.key] is not None]
    if column.best is None or len({column.show(value) for value in values}) < 2:
        return None
    return column.show(min(values, key=column.best))


def cell(rows: list[dict[str, Any]], target: str, horizon: str) -> dict[str, Any]:
    """The first row of this target and horizon."""
    return next(row for row in rows if row["target"] == target and row["horizon"] == horizon)


def _section(section: Section) -> str:
    legend = "".join(
        f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><path d="M0 4H24" stroke="{colour_of(place)}" '
        f'stroke-dasharray="{dash_of(place)}"/></svg>{escape(name)}</li>'
        for place, name in section.models
    )
    charts = "".join(
        f"<figure><figcaption>{escape(chart.heading)}</figcaption>{chart.svg}</figure>" for chart in section.charts
    )
    return (
        f"<section><h3>{escape(section.title)}</h3>\n<p>{escape(section.how_to_read)}</p>\n"
        + (f'<ul class="legend">{legend}</ul>\n' if legend else "")
        + (f'<div class="{"wide" if section.wide else "charts"}">{charts}</div>' if charts else "")
        + "</section>"
    )


def _how(data: dict[str, Any]) -> str:
    rows = "".join(_fit_row(name, entry) for name, entry in data["models"].items())
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in DEFINITIONS)
    return (
        "<h2>How it was made</h2>\n"
        f"<p>By velib-predictor {escape(data['program'])} at {escape(data['created_at'])}. What each model was fitted "
        "on, with times in UTC, and the seconds that fitting and all forecasts of the test took:</p>\n"
        '<div class="scroll"><table class="fits"><thead><tr><th>Model</th><th>Fitted on</th><th>Days</th><th>Rows</th>'
        "<th>Fit, s</th><th>Forecasts, s</th><th>Details</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>\n"
        f'<h3>What the words mean</h3>\n<dl class="words">{words}</dl>'
    )


def _fit_row(name: str, entry: dict[str, Any]) -> str:
    fit = entry["fit"]
    details = dict(fit.get("details") or {})
    unit = details.pop("rows", "")
    window = f"{fit['first']} to {fit['until']}" if fit else NOTHING
    rows = f"{fit['rows']:,} {unit}" if fit else NOTHING
    told = json.dumps(details, indent=1, ensure_ascii=False)
    more = f"<details><summary>show</summary><pre>{escape(told)}</pre></details>" if details else NOTHING
    return (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(window)}</td><td>{fit.get("days", NOTHING)}</td>'
        f"<td>{escape(rows)}</td><td>{entry['fit_s']:.1f}</td><td>{entry['predict_s']:.1f}</td><td>{more}</td></tr>"
    )
