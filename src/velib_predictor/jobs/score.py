"""How good stored issues turned out to be, on the rows and with the scores of the backtest."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import insert, select

from velib_predictor.config.config import Settings
from velib_predictor.data import schema
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.panel import Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import DEFAULT_HORIZONS
from velib_predictor.inference.issue import ONE, Issue, Source
from velib_predictor.inference.issues import Issues
from velib_predictor.training import metrics
from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import EPOCH, MICROSECOND, from_micros

_TABLE = schema.Score.__table__.c
_log = get_logger(__name__)


def score(settings: Settings, database: Database, system_id: str, now: datetime) -> int:
    """Score what can be scored by now and was not yet; returns how many (issue, target, horizon) that were.

    A station counts if it was open at the origin and its truth is known and trusted. Truths of the last hour are
    waited for: hindsight tells a frozen feed only after a while.

    Raises:
        DatabaseError: the database cannot be used.
    """
    issues = Issues(database, system_id)
    ripe = now - timedelta(hours=1)
    done = _scored(database, system_id)

    def due(issued_at: datetime, horizons: Sequence[timedelta]) -> list[int]:
        """Which horizons' time has come since the issue was last scored."""
        scored = done.get(issued_at, set())
        return [h for h, ahead in enumerate(horizons) if issued_at + ahead <= ripe and ahead not in scored]

    times = issues.times(None, ripe)
    newest = _issue(issues, times[-1]) if times else None
    # Issues are read only to be scored: one's horizons stand for all, since they hardly ever differ within a system.
    usual = newest.spec.horizons if newest else DEFAULT_HORIZONS
    step = newest.spec.step if newest else settings.forecast.issue_every
    times = [time for time in times if not (time - EPOCH) % step and due(time, usual)]  # the first one is off the grid
    written = 0
    panel: Panel | None = None
    for issued_at in times:
        issue = _issue(issues, issued_at)
        if issue is None or not (reached := due(issued_at, issue.spec.horizons)):
            continue
        panel = panel or _truth(settings, database, system_id, times[0], ripe, issue.spec.step)
        if panel is None:
            return written
        rows = [row for h in reached for row in _rows(issue, panel, h)]
        written += _store(database, system_id, issued_at, rows)
    return written


def _issue(issues: Issues, issued_at: datetime) -> Issue | None:
    """The issue of that time; None if it is gone, or damaged: the others can still be scored."""
    try:
        return issues.at(issued_at)
    except DatabaseError:
        raise
    except VelibError as error:
        _log.warning("an issue cannot be scored", system=issues.system_id, error=str(error))
        return None


def summary(database: Database, system_id: str, since: datetime | None = None) -> list[dict[str, Any]]:
    """Mean scores of the live forecasts since a time, by model, target and horizon."""
    query = select(schema.Score.__table__).join(schema.System, schema.System.key == _TABLE.system_key)
    query = query.where(schema.System.system_id == system_id)
    if since is not None:
        query = query.where(_TABLE.issued_at >= since)
    sums: dict[tuple[str, str, int], dict[str, float]] = {}
    with database.read() as connection:
        for row in connection.execute(query).mappings():
            total = sums.setdefault((row["model"], row["target"], row["horizon_s"]), {"issues": 0})
            total["issues"] += 1
            for name in ("rows", "fallback", "rps", "rps_persistence", "brier", "error", "covered_80"):
                total[name] = total.get(name, 0) + row[name]
    found = []
    for (model, target, horizon_s), total in sorted(sums.items()):
        rows = total["rows"]
        if not rows:
            continue  # its time came, and nothing was observed
        means = {
            name: round(total[column] / rows, 4)
            for name, column in (
                ("rps", "rps"), ("rps_persistence", "rps_persistence"), ("brier", "brier"),
                ("mae_median", "error"), ("coverage_80", "covered_80"), ("share_fallback", "fallback"),
            )
        }  # fmt: skip
        base = total["rps_persistence"]
        gained = round(metrics.skill(total["rps"], base), 4) if base else None
        counted = {"issues": int(total["issues"]), "rows": int(rows)}
        found.append(
            {"model": model, "target": target, "horizon_s": horizon_s, **counted, **means, "skill_rps": gained}
        )
    return found


def _scored(database: Database, system_id: str) -> dict[datetime, set[timedelta]]:
    """The horizons of each issue that have scores."""
    query = select(_TABLE.issued_at, _TABLE.horizon_s).join(schema.System, schema.System.key == _TABLE.system_key)
    query = query.where(schema.System.system_id == system_id).distinct()
    found: dict[datetime, set[timedelta]] = {}
    with database.read() as connection:
        for issued_at, horizon_s in connection.execute(query):
            found.setdefault(issued_at, set()).add(timedelta(seconds=horizon_s))
    return found


def _truth(
    settings: Settings, database: Database, system_id: str, first: datetime, until: datetime, step: timedelta
) -> Panel | None:
    try:
        return Panel.load(
            database, system_id, first, until + MICROSECOND, step=step, tolerance=settings.forecast.tolerance
        )
    except UsageError:  # nothing was observed since: the feed is dead, and there is no truth
        return None


def _rows(issue: Issue, panel: Panel, horizon: int) -> list[Mapping[str, Any]]:
    """One horizon's sums, a row a target."""
    ahead = issue.spec.horizons[horizon]
    place = panel.before(issue.issued_at + ahead)
    if place >= len(panel) or _tick(panel, place) != issue.issued_at + ahead:
        return []
    column = panel.stations.positions_in(issue.stations.id)  # [station of the panel]
    here = np.flatnonzero(column >= 0)
    there = column[here]
    rows: list[Mapping[str, Any]] = []
    for target, (name, channel) in enumerate(zip(issue.spec.targets, issue.spec.channels, strict=True)):
        now, source = issue.now[there, channel], issue.source[there, target]
        counts = (
            issue.open[there]
            & (now >= 0)
            & (source != Source.NONE)
            & panel.observed[place, here, channel]
            & panel.trusted[place, here]
        )
        k = issue.k[there][counts].astype(np.int64)
        truth = np.minimum(panel.counts[place, here, channel][counts].astype(np.int64), k)
        cdf = issue.cdf[there[counts], horizon, target].astype(np.float32) / np.float32(ONE)
        same = np.minimum(now[counts].astype(np.int64), k)
        rows.append(
            {
                "target": name,
                "horizon_s": int(ahead.total_seconds()),
                "model": issue.model,
                "rows": int(counts.sum()),
                "fallback": int((source[counts] != Source.MODEL).sum()),
                **_sums(cdf, truth, same),
            }
        )
    return rows


def _sums(
    cdf: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], same: npt.NDArray[np.int64]
) -> dict[str, float | int]:
    """Scores summed over stations; cdf [station, count], truth and what was there at the origin [station]."""
    return {
        "rps": float(metrics.rps(cdf, truth).sum(dtype=np.float64)),
        "rps_persistence": float(np.abs(truth - same).sum()),
        "brier": float(metrics.brier(1 - cdf[:, 0], truth >= 1).sum(dtype=np.float64)),
        "error": float(metrics.absolute_error(algebra.quantile(cdf, 0.5), truth).sum(dtype=np.float64)),
        "covered_80": int(metrics.covered(cdf, truth, 0.8).sum()),
    }


def _store(database: Database, system_id: str, issued_at: datetime, rows: list[Mapping[str, Any]]) -> int:
    """Write the rows that are not there yet."""
    with database.write() as connection:
        key = connection.execute(select(schema.System.key).where(schema.System.system_id == system_id)).scalar_one()
        there = select(_TABLE.target, _TABLE.horizon_s).where(_TABLE.system_key == key, _TABLE.issued_at == issued_at)
        known = {(row.target, row.horizon_s) for row in connection.execute(there)}
        new = [
            {"system_key": key, "issued_at": issued_at, **row}
            for row in rows
            if (row["target"], row["horizon_s"]) not in known
        ]
        if new:
            connection.execute(insert(schema.Score), new)
    return len(new)


def _tick(panel: Panel, place: int) -> datetime:
    return from_micros(int(panel.ticks[place].astype("datetime64[us]").astype(np.int64)))
