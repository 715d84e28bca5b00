"""Which of two models is better, and how sure that is: the difference of their scores on the same rows, day by day."""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor.evaluation.scores import METRICS, ScoreBook
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import MODELS
from velib_predictor.training import metrics
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration

LEAST_DAYS = 8
"""Test days below which no interval is claimed."""
ALL = "all"
"""Stands for the horizon, or the target, of a row that is about all of them."""
BASELINES = frozenset(name for name, home in MODELS.items() if ".models.baseline." in home)
"""Models that need no learned network: whatever is more than that has to beat the best of them."""
_ROWS, _RPS = METRICS.index("rows"), METRICS.index("rps")


def check_reference(against: str | None, models: Collection[str]) -> None:
    """Whether a model can be the one that the others are compared with.

    Raises:
        UsageError: it is not among the judged.
    """
    if against is not None and against not in models:
        raise UsageError(f"nothing can be compared with {against!r}: it is not judged; there are: {', '.join(models)}")


def reference(books: dict[str, ScoreBook]) -> str:
    """The baseline with the smallest RPS over all rows of the test.

    It is chosen on the test itself, which flatters it: a model that beats it has beaten every baseline.
    """
    known = [name for name in books if name in BASELINES]
    return min(known or books, key=lambda name: float(books[name].total[..., _RPS].sum()))


def differences(books: dict[str, ScoreBook], spec: ForecastSpec, against: str | None = None) -> list[dict[str, Any]]:
    """RPS of every other model minus that of one, by target and horizon, and over all of them.

    Args:
        books: sums of all judged models, over the same rows.
        against: the one; `reference` if not given.

    Returns:
        A row a model and cell: rows, days, rps, rps_reference, difference (below 0 is better), and the ends of its
        90 % interval, null with fewer than `LEAST_DAYS` days. Cells without a row are left out.

    Raises:
        UsageError: `against` was not judged.
    """
    check_reference(against, books)
    base = against or reference(books)
    theirs = np.array(books[base].by_day)  # [day, horizon, target, metric]
    rows = []
    for name, book in books.items():
        if name == base:
            continue
        ours = np.array(book.by_day)
        for named, horizons, targets in _cells(spec):
            cell = slice(None), horizons, targets
            found = _difference(ours[cell].sum(axis=(1, 2)), theirs[cell].sum(axis=(1, 2)))
            if found:
                rows.append({"model": name, "reference": base, **named, **found})
    return rows


def _cells(spec: ForecastSpec) -> list[tuple[dict[str, str], slice, slice]]:
    """What each row is about; everything first, then target by target."""
    whole = slice(None)
    cells = [({"target": ALL, "horizon": ALL}, whole, whole)]
    for t, target in enumerate(spec.targets):
        cells.append(({"target": target, "horizon": ALL}, whole, slice(t, t + 1)))
        for h, horizon in enumerate(spec.horizons):
            cells.append(({"target": target, "horizon": format_duration(horizon)}, slice(h, h + 1), slice(t, t + 1)))
    return cells


def _difference(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> dict[str, Any] | None:
    """One row, from sums [day, metric]; None where nothing was scored."""
    rows = ours[:, _ROWS]
    count, days = rows.sum(), int(np.count_nonzero(rows))
    if not count:
        return None
    difference, low, high = metrics.paired_difference(ours[:, _RPS], theirs[:, _RPS], rows)
    told = days >= LEAST_DAYS
    return {
        "rows": int(count),
        "days": days,
        "rps": float(ours[:, _RPS].sum() / count),
        "rps_reference": float(theirs[:, _RPS].sum() / count),
        "difference": difference,
        "low": low if told else None,
        "high": high if told else None,
    }


def verdict(row: dict[str, Any]) -> str:
    """What a difference says: better, worse, or not to be told apart."""
    if row["low"] is None:
        return "too few days to tell"
    return "better" if row["high"] < 0 else "worse" if row["low"] > 0 else "not to be told apart"


def as_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The differences over everything, for people: a line a model."""
    lines = []
    for row in rows:
        if (row["target"], row["horizon"]) == (ALL, ALL):
            between = "" if row["low"] is None else f" ({row['low']:+.4f} to {row['high']:+.4f})"
            pair = f"{row['model']} minus {row['reference']}"
            lines.append(f"RPS over all, {pair}: {row['difference']:+.4f}{between}, {verdict(row)}")
    return lines
