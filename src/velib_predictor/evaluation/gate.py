"""Whether a challenger forecasts better than the champion: both on the same rows of days that neither has seen."""

from datetime import datetime
from typing import Any

from velib_predictor.data.panel import Panel
from velib_predictor.evaluation.comparison import ALL, differences
from velib_predictor.evaluation.evaluator import BASELINE, Progress, Protocol, judge
from velib_predictor.models.base import Forecaster
from velib_predictor.utils.temporal import format_time, from_micros
from velib_predictor.utils.version import program

SURE_GAIN = 0.01
"""Share of the champion's RPS that must be gained where the days are too few for an interval."""


def compare(
    panel: Panel,
    champion: Forecaster | None,
    challenger: Forecaster,
    test_from: datetime,
    test_until: datetime,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Both models, and persistence, on the same rows of the test window: scores, and who has won. Plain JSON values.

    Args:
        champion: None, where there is none that can be asked: then persistence alone is to be beaten.

    Raises:
        UsageError: one of them was fitted on days of the test, or no row can be scored.
    """
    spec = challenger.spec
    first = from_micros(int(panel.ticks[0].astype("datetime64[us]").astype("int64")))
    protocol = Protocol(spec, first, test_from, test_from, test_until, panel.tolerance)
    models = {"challenger": challenger} | ({"champion": champion} if champion else {})
    result = judge(panel, models, protocol, progress)
    books = {name: entry.book for name, entry in result.judged.items()}
    against = "champion" if champion else BASELINE
    rows = {(row["model"], row["target"], row["horizon"]): row for row in differences(books, spec, against)}
    ours = rows["challenger", ALL, ALL]
    base = rows[BASELINE, ALL, ALL]["rps"] if champion else ours["rps_reference"]
    promoted, reason = decide(ours, base, champion is not None)
    return {
        "judged_at": format_time(test_until.replace(microsecond=0)),
        "program": program(),
        "test_from": format_time(test_from),
        "test_until": format_time(test_until.replace(microsecond=0)),
        "days": ours["days"],
        "origins": result.origins,
        "rows": ours["rows"],
        "rps": ours["rps"],
        "rps_champion": ours["rps_reference"] if champion else None,
        "rps_persistence": base,
        "difference": ours["difference"] if champion else None,
        "low": ours["low"] if champion else None,
        "high": ours["high"] if champion else None,
        "cells": [row for (model, *_), row in rows.items() if model == "challenger"],
        "promoted": promoted,
        "reason": reason,
    }


def decide(row: dict[str, Any], persistence: float, has_champion: bool) -> tuple[bool, str]:
    """Whether the challenger has won, and the reason in words."""
    if row["rps"] > persistence:
        return False, f"it is worse than persistence (RPS {row['rps']:.4f}, persistence {persistence:.4f})"
    if not has_champion:
        return True, f"it is better than persistence (RPS {row['rps']:.4f}, persistence {persistence:.4f})"
    gap = f"RPS {row['difference']:+.4f} over {row['days']} days"
    if row["low"] is not None:
        gap += f", 90 % interval {row['low']:+.4f} to {row['high']:+.4f}"
        if row["high"] < 0:
            return True, f"it is better than the champion ({gap})"
        return False, f"it is {'worse than' if row['low'] > 0 else 'not surely better than'} the champion ({gap})"
    gain = -row["difference"] / row["rps_reference"] if row["rps_reference"] else 0.0
    if gain >= SURE_GAIN:
        return True, f"it is better than the champion by {gain:.1%} ({gap}; too few days for an interval)"
    return False, f"it is not better than the champion by {SURE_GAIN:.0%} ({gap}; too few days for an interval)"
