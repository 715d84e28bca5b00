"""`velib import` and `velib export`: history in, tidy files out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from velib_predictor.commands.output import ConfigFile, Db, Json, emit, open_database, progress_bar
from velib_predictor.commands.output import start as read_settings

if TYPE_CHECKING:
    from velib_predictor.data.database import Database
    from velib_predictor.data.exporter import What as Kind

SystemId = Annotated[str, typer.Option("--system", help="Name of the system, such as velib.")]


class What(StrEnum):
    """What can be exported."""

    STATUS = "status"
    STATIONS = "stations"
    POLLS = "polls"
    FORECASTS = "forecasts"


def import_(
    system: SystemId,
    status: Annotated[list[Path], typer.Option("--status", help="Status file (.parquet, .csv); may be repeated.")],
    more_status: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="More status files.")] = None,
    stations: Annotated[
        Path | None, typer.Option("--stations", help="Stations file; not needed where the database has them.")
    ] = None,
    polls: Annotated[Path | None, typer.Option("--polls", help="Poll ledger that goes with the status files.")] = None,
    weather: Annotated[
        Path | None, typer.Option("--weather", help="Weather forecasts as they were issued (.parquet, .csv).")
    ] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", help="IANA zone, such as Europe/Paris.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Licence of the data.")] = None,
    db: Db = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Import history files into the database. Repeat it after an interruption: it goes on where it stopped."""
    from velib_predictor.data.importer import import_history
    from velib_predictor.data.weather_store import import_weather

    files = [*status, *(more_status or [])]
    with _database(db, config, create=True) as database, progress_bar() as progress:
        report = import_history(
            database, system, stations, files, polls, timezone=timezone, licence=licence, progress=progress
        )
        forecasts = import_weather(database, system, weather) if weather else 0
    for warning in report.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    emit(
        {**report.as_dict(), "weather_stored": forecasts},
        as_json,
        f"{report.rows_read} rows read: {report.rows_stored} stored, {report.rows_already_there} already there, "
        f"{report.rows_duplicate} duplicates, {report.rows_contradicting} contradict stored ones\n"
        f"{report.stations_new} new stations, {report.stations_known} known ones; {report.polls_stored} polls stored"
        + (f"; {forecasts} weather forecasts stored" if weather else ""),
    )


def export(
    what: Annotated[What, typer.Argument(help="What to write.")],
    system: SystemId,
    out: Annotated[Path, typer.Option("--out", help="File to write; .parquet or .csv.")],
    start: Annotated[str | None, typer.Option("--from", metavar="T", help="First moment, with its offset.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="First moment that is left out.")] = None,
    grid: Annotated[
        str | None, typer.Option("--grid", metavar="STEP", help="Every station at every tick, e.g. 15m.")
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="AGE", help="Oldest value that a tick takes; the step if not given."),
    ] = None,
    db: Db = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write stored rows, or with --grid a full grid, to a file that `velib import` reads; or the stored forecasts."""
    from velib_predictor.data.exporter import export as write
    from velib_predictor.jobs.export import write_issues
    from velib_predictor.utils.errors import UsageError
    from velib_predictor.utils.temporal import parse_duration, parse_time

    first, last = parse_time(start) if start else None, parse_time(end) if end else None
    step, oldest = parse_duration(grid) if grid else None, parse_duration(tolerance) if tolerance else None
    with _database(db, config) as database:
        if what is What.FORECASTS:
            if step or oldest:
                raise UsageError("--grid and --tolerance are for status only, not for forecasts")
            count = write_issues(database, system, first, last, out)
            data = {"what": "forecasts", "system_id": system, "file": str(out), "issues": count}
            emit(data, as_json, f"{count} issues written to {out}")
            return
        report = write(database, cast("Kind", what.value), system, first, last, out, grid=step, tolerance=oldest)
    emit(report.as_dict(), as_json, f"{report.rows} rows written to {out}")


@contextmanager
def _database(db: str | None, config: Path | None, *, create: bool = False) -> "Iterator[Database]":
    database = open_database(read_settings(config, db), create=create)
    try:
        yield database
    finally:
        database.close()
