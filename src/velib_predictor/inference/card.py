"""What is kept beside a model for those who come later: what it was made from (`about.json`), and a card to read."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from velib_predictor.data.panel import Panel
from velib_predictor.inference.current import SystemAbout
from velib_predictor.models.base import Forecaster
from velib_predictor.utils.version import program

ABOUT, CARD, COMPARISON = "about.json", "MODEL_CARD.md", "comparison.json"
_WORDS = {
    "persistence": "what is there now stays",
    "persistence_delta": "what is there now, with the spread of past changes",
    "climatology": "what is usual at the station and hour",
    "linear": "a ridge regression on the shared features, with the spread of its residuals",
    "xgboost": "gradient-boosted trees on the shared features, with the spread of their residuals",
    "queueing": "a birth-death process with the station's own rates",
    "stid": "a network of station and time embeddings with a learned distribution",
    "lstm": "a recurrent network with a learned distribution",
    "gnn": "a graph network with a learned distribution",
    "coldstart": "a network for places never seen, whose weights come with the package",
    "blend": "a weighted mixture of trees and the cold-start model",
    "champion": "a weighted mixture of several of the other models",
}


def about(panel: Panel, until: datetime, system: SystemAbout | None, seconds: float, command: str) -> dict[str, Any]:
    """What a training was made from, as plain JSON values.

    Args:
        panel: that it was given; `until`: the end of what it read of it.
        system: of whom the data is.
        seconds: that the fit took.
        command: that asked for it.
    """
    read = panel.between(0, panel.before(until))
    return {
        "command": command,
        "program": program(),
        "data": {**read.describe(), "ticks": len(read), "sha256": read.fingerprint()},
        "licence": system.licence if system else None,
        "attribution": system.attribution if system else None,
        "fit_s": round(seconds, 2),
    }


def beside(model: Forecaster, made_from: dict[str, Any], comparison: dict[str, Any] | None = None) -> dict[str, str]:
    """The files to keep with a fitted model, by name."""
    files = {ABOUT: as_json(made_from), CARD: card(model, made_from, comparison)}
    return files | ({COMPARISON: as_json(comparison)} if comparison else {})


def as_json(content: dict[str, Any]) -> str:
    """As these files are written."""
    return json.dumps(content, ensure_ascii=False, indent=1)


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """One of these files; None where there is none that can be read."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def card(model: Forecaster, made_from: dict[str, Any], comparison: dict[str, Any] | None = None) -> str:
    """The model card: what it is, from what, how good, and where its use ends. Markdown."""
    report = model.report
    assert report is not None  # noqa: S101 - nobody keeps a model that was not fitted
    data, made_by = made_from["data"], made_from["program"]
    horizons = ", ".join(model.spec.as_dict()["horizons"])
    commit = f", commit {made_by['commit']}" if made_by["commit"] else ""
    lines = [
        f"# {model.name} for {report.system_id}",
        "",
        f"Forecasts the distribution of {', '.join(model.spec.targets)} at every station: {_WORDS[model.name]}.",
        f"Horizons: {horizons}. One forecast every {report.step}; observations up to {report.tolerance} old are used.",
        "",
        "## Data",
        "",
        f"- System {report.system_id}, {data['stations']} stations, time zone {data['timezone']}.",
        f"- Learned from {report.first} to {report.until} ({report.days} days, {report.rows:,} "
        f"{report.details.get('rows', 'rows')}); nothing at or after the end was read.",
        f"- SHA-256 of what was read: `{data['sha256']}`.",
        f"- Licence of the data: {made_from['licence'] or 'not known; ask the operator before passing it on'}.",
        f"- Attribution: {made_from['attribution'] or 'not known'}.",
        "",
        "## Scores",
        "",
        *_scores(comparison),
        "",
        "## Limits",
        "",
        f"- Of use for {report.system_id} only, and the less the longer ago {report.until} is: new stations are "
        "forecast as unknown ones, new seasons are not known.",
        "- Strikes, events and roadworks are seen only through the counts themselves.",
        "- Counts are what the operator published: a bike that is there may be broken, a free dock may be blocked.",
        "- It says how many there will be, not whether you will be the one to get the last.",
        "",
        "## How it was made",
        "",
        f"`{made_from['command']}`, velib-predictor {made_by['version']}{commit}, Python {made_by['python']}, "
        f"{made_from['fit_s']:g} s.",
    ]
    return "\n".join(lines) + "\n"


def _scores(comparison: dict[str, Any] | None) -> list[str]:
    if not comparison or comparison.get("rps") is None:
        return ["Not yet judged on days that it has not seen (`velib models promote`, `velib backtest`)."]
    found = comparison
    lines = [
        f"On {found['days']} days that it was not fitted on ({found['test_from']} to {found['test_until']}), mean RPS "
        "over all targets and horizons:",
        "",
        "| | RPS |",
        "|---|---|",
        f"| this model{found.get('trial_note', '')} | {found['rps']:.4f} |",
        f"| persistence | {found['rps_persistence']:.4f} |",
    ]
    if found["rps_champion"] is not None:
        lines.append(f"| {found['champion']}, in force before | {found['rps_champion']:.4f} |")
    return [*lines, "", found["reason"][0].upper() + found["reason"][1:] + "."]
