"""Stored issues as a file of forecasts, pmf included."""

from datetime import datetime
from pathlib import Path

from velib_predictor.data.database import Database
from velib_predictor.evaluation.writer import ForecastWriter
from velib_predictor.inference.current import systems
from velib_predictor.inference.issues import Issues
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import MICROSECOND


def write_issues(database: Database, system_id: str, start: datetime | None, end: datetime | None, out: Path) -> int:
    """Write the issues of [start, end) to a .parquet file; returns how many that were.

    Raises:
        UsageError: an unknown system, an empty period, no issue in it, or a name that is not .parquet.
    """
    there = [about.system_id for about in systems(database)]
    if system_id not in there:
        raise UsageError(f"the database has no system {system_id!r}; there are: {', '.join(there) or 'none yet'}")
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--from {start.isoformat()} is not before --to {end.isoformat()}")
    issues = Issues(database, system_id)
    times = issues.times(start - MICROSECOND if start else None, end)
    if not times:
        raise UsageError(f"no issue of {system_id!r} is stored in that period; `velib issue` makes one")
    with ForecastWriter(out, system_id) as writer:
        for time in times:
            if issue := issues.at(time):
                writer.write(issue.forecast())
    return len(times)
