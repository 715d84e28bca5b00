"""Tidy history files -> database. First every file is read to its end and judged, then rows are written in chunks.

A malformed file leaves the database as it was. Each chunk is one transaction that also says how far the file has come,
so after a kill the same command goes on where it stopped, and repeated it finds all its rows stored.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
from adbc_driver_manager import Error as ArrowError
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from velib_predictor.data import bulk
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.history import (
    COVERED_WITHIN,
    Coverage,
    Keys,
    StatusScan,
    read_polls,
    read_stations,
    scan_status,
)
from velib_predictor.data.preprocessor import accepted_polls
from velib_predictor.data.rows import Row, insert_missing_rows, stations_with_rows
from velib_predictor.data.rows import polls as polls_of
from velib_predictor.data.schema import ImportedFile, Poll
from velib_predictor.data.snapshot import UNKNOWN, Outcome, StationInfo
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.data.tidy import Findings, read, suffix_of
from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.temporal import format_time, from_micros, to_micros

CHUNK_ROWS = 262_144
Progress = Callable[[str, int, int], None]
"""Called with a phase in words, and rows done and in all."""


class HistoryError(VelibError):
    """The files cannot be imported as they are; nothing was written."""


@dataclass
class ImportReport:
    """What an import found and did. `rows_already_there` includes those stored by an interrupted run before."""

    system_id: str
    rows_read: int = 0
    rows_stored: int = 0
    rows_already_there: int = 0
    rows_duplicate: int = 0
    rows_contradicting: int = 0
    stations_new: int = 0
    stations_known: int = 0
    polls_read: int = 0
    polls_stored: int = 0
    polls_contradicting: int = 0
    first_observed_at: datetime | None = None
    last_observed_at: datetime | None = None
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        times = {name: value and format_time(value) for name, value in asdict(self).items() if name.endswith("_at")}
        return {**asdict(self), **times}


def import_history(
    database: Database,
    system_id: str,
    stations: Path | None,
    status: Sequence[Path],
    polls: Path | None = None,
    *,
    timezone: str | None = None,
    licence: str | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import the files of one system; the columns are those of `tidy.COLUMNS`.

    Raises:
        UsageError: a file name, or the time zone, is not what it should be.
        HistoryError: a file is malformed, names unknown stations, or contradicts the collector's ledger.
    """
    database.require_current()
    for path in filter(None, [stations, polls, *status]):
        suffix_of(path)
    _check_zone(timezone)
    progress = progress or (lambda _phase, _done, _all: None)
    report = ImportReport(system_id)
    with _explained(database):
        judged = _judge(database, system_id, stations, status, polls, report, progress)
        key, keys = _register(database, judged, report, timezone=timezone, licence=licence)
        _store_status(database, key, keys, judged, report, progress)
        if polls:
            _store_polls(database, key, judged.polls, report)
        elif report.last_observed_at is not None:
            _end_at_the_ledger(database, key, report.last_observed_at)
    report.rows_already_there = (
        report.rows_read - report.rows_stored - report.rows_duplicate - report.rows_contradicting
    )
    if report.rows_contradicting:
        report.warnings.append(f"{report.rows_contradicting} rows contradict stored ones; the stored ones were kept")
    if report.polls_contradicting:
        report.warnings.append(f"{report.polls_contradicting} polls contradict stored ones; the stored ones were kept")
    return report


# -- first pass: judge -------------------------------------------------------------------------------------------


@dataclass
class _Judged:
    """What the first pass found sound."""

    system_id: str
    infos: list[StationInfo]
    scans: list[StatusScan]
    polls: list[dict[str, Any]]
    names: set[str]
    """Stations as the status files call them."""
    at: datetime


def _judge(
    database: Database,
    system_id: str,
    stations: Path | None,
    status: Sequence[Path],
    polls: Path | None,
    report: ImportReport,
    progress: Progress,
) -> _Judged:
    """Read all files to their ends.

    Raises:
        HistoryError: something speaks against one of them.
    """
    seen: list[Findings] = []
    infos = read_stations(seen, stations) if stations else []
    ledger = read_polls(seen, polls) if polls else []
    own = np.array(sorted(to_micros(p["polled_at"]) for p in ledger if Outcome(p["outcome"]).accepted), dtype=np.int64)
    keys = Keys(_rehearse(database, system_id, infos))
    coverage = Coverage(accepted_polls(database, system_id).astype(np.int64), own)
    scans = []
    for index, path in enumerate(status):
        progress("checking", index, len(status))
        scan = scan_status(database, path, keys, coverage)
        seen.append(scan.findings)
        scans.append(scan)
        report.rows_read += scan.findings.rows
        report.rows_duplicate += scan.duplicates
        if not scan.findings.rows and not scan.findings.found:
            report.warnings.append(f"{path} has no rows")
    problems = [problem for findings in seen for problem in findings.problems() + _foreign(findings, system_id, report)]
    if keys.missing:
        listed = ", ".join(sorted(keys.missing)[:20]) + (", ..." if len(keys.missing) > 20 else "")
        where = f"neither in {stations} nor in the database" if stations else "not in the database; give --stations"
        problems.append(f"{len(keys.missing)} stations of the status files are {where}: {listed}")
    if problems:
        raise HistoryError("nothing was imported:\n" + "\n".join(problems))
    report.polls_read = len(ledger)
    report.warnings.extend(note for findings in seen for note in findings.notes)
    firsts = [scan.first for scan in scans if scan.first is not None]
    lasts = [scan.last for scan in scans if scan.last is not None]
    report.first_observed_at = from_micros(min(firsts)) if firsts else None
    report.last_observed_at = from_micros(max(lasts)) if lasts else None
    return _Judged(system_id, infos, scans, ledger, keys.used, report.first_observed_at or datetime.now(UTC))


def _foreign(findings: Findings, system_id: str, report: ImportReport) -> list[str]:
    """A file may call the system by one other name, but may not hold several systems."""
    names = sorted(findings.system_ids)
    if len(names) > 1:
        return [f"{findings.path}, column system_id: several systems ({', '.join(names)}); give one file a system"]
    if names and names != [system_id]:
        report.warnings.append(f"{findings.path} says system_id {names[0]!r}; it was imported as {system_id!r}")
    return []


class _Rehearsed(Exception):  # noqa: N818 - raised to roll back
    """Ends a transaction that was only tried."""


def _rehearse(database: Database, system_id: str, infos: Sequence[StationInfo]) -> dict[str, int]:
    """Station keys by id and by code, as they will be once the stations are registered; nothing is kept."""
    names: dict[str, int] = {}
    try:
        with database.write() as connection:
            book = StationBook(connection, ensure_system(connection, system_id))
            book.register(connection, infos, datetime.now(UTC))
            names = book.all_names()
            raise _Rehearsed
    except _Rehearsed:
        return names


# -- second pass: write ------------------------------------------------------------------------------------------


def _register(
    database: Database, judged: _Judged, report: ImportReport, *, timezone: str | None, licence: str | None
) -> tuple[int, Keys]:
    """Write the system and its stations; the system's key, and the keys of stations by all their names."""
    with database.write() as connection:
        system = ensure_system(connection, judged.system_id, timezone=timezone, licence=licence)
        book = StationBook(connection, system)
        known = len(book)
        book.register(connection, judged.infos, judged.at)
        named = {book.resolve(name) for name in judged.names | {info.station_id for info in judged.infos}}
        report.stations_new = len(book) - known
        report.stations_known = len(named) - report.stations_new
        return system, Keys(book.all_names())


def _store_status(
    database: Database, system: int, keys: Keys, judged: _Judged, report: ImportReport, progress: Progress
) -> None:
    total = sum(scan.findings.rows for scan in judged.scans)
    done = 0
    for scan in judged.scans:
        path, rows = scan.findings.path, scan.findings.rows
        digest = _sha256(path)
        skipped = _begin_file(database, system, digest, rows)
        position = skipped
        for chunk in _chunks(path, keys, skipped):
            position += len(chunk)
            progress("storing", done + position, total)
            stored = _store_chunk(database, system, digest, bulk.in_key_order(chunk), position, rows)
            report.rows_stored += stored.inserted
            report.rows_contradicting += stored.contradicting
        done += rows


def _begin_file(database: Database, system: int, digest: str, rows: int) -> int:
    """Rows of the file that an interrupted import has stored. A finished one is gone through again, from the start."""
    with database.write() as connection:
        row = connection.execute(
            select(ImportedFile.rows_done, ImportedFile.finished_at).where(*_this_file(system, digest))
        ).one_or_none()
        if row is None:
            connection.execute(
                insert(ImportedFile).values(system_key=system, sha256=digest, rows_done=0, rows_total=rows)
            )
            return 0
        if row.finished_at is not None:
            connection.execute(
                update(ImportedFile).where(*_this_file(system, digest)).values(rows_done=0, finished_at=None)
            )
            return 0
        return int(row.rows_done)


def _store_chunk(
    database: Database, system: int, digest: str, rows: pa.Table, position: int, total: int
) -> bulk.Stored:
    """One transaction: the rows and how far the file has come."""
    finished = datetime.now(UTC) if position >= total else None
    progress = update(ImportedFile).where(*_this_file(system, digest)).values(rows_done=position, finished_at=finished)
    with database.arrow() as connection, connection.cursor() as cursor:
        cursor.execute(
            bulk.as_sql(database, progress)
        )  # first: it takes the write lock, which a reader cannot get later
        stored = bulk.store(cursor, database.dialect, rows)
        connection.commit()
    return stored


def _chunks(path: Path, keys: Keys, skipped: int) -> Iterator[pa.Table]:
    """The file's rows after the first `skipped`, in chunks, in the file's order."""
    waiting: list[pa.RecordBatch] = []
    for batch in read(path, "status", Findings(path)):
        fresh = batch.slice(min(skipped, len(batch)))
        skipped -= len(batch) - len(fresh)
        if len(fresh):
            waiting.append(bulk.status_rows(keys.of(fresh), fresh))
        if sum(map(len, waiting)) >= CHUNK_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _store_polls(database: Database, system: int, polls: Sequence[dict[str, Any]], report: ImportReport) -> None:
    """Write the ledger, after all its rows: until then the collector's rule does not bind an interrupted import."""
    dialect = sqlite if database.dialect == "sqlite" else postgresql
    statement = dialect.insert(Poll).on_conflict_do_nothing()
    names = ("outcome", "stations", "changed", "rejected", "detail")
    with database.write() as connection:
        stored = _stored_polls(connection, system, names)
        new = [poll for poll in polls if poll["polled_at"] not in stored]
        report.polls_stored = len(new)
        report.polls_contradicting = sum(
            stored.get(poll["polled_at"], tuple(poll[n] for n in names)) != tuple(poll[n] for n in names)
            for poll in polls
        )
        if new:
            connection.execute(statement, [{"system_key": system, **poll} for poll in new])


def _stored_polls(connection: Connection, system: int, names: Iterable[str]) -> dict[datetime, tuple[Any, ...]]:
    columns = [Poll.__table__.c[name] for name in names]
    query = select(Poll.polled_at, *columns).where(Poll.system_key == system)
    return {row[0]: tuple(row[1:]) for row in connection.execute(query)}


def _end_at_the_ledger(database: Database, system: int, last: datetime) -> None:
    """Where imported rows are followed by the collector's own polls, these must not confirm what they never saw.

    A station that the feed has is in the first poll after a gap, which writes all stations; one that is not gets a
    row there that says "unknown".
    """
    with database.write() as connection:
        before: datetime | None = None
        for entry in polls_of(connection, system):
            if not entry.outcome.accepted:
                continue
            if before is None or entry.polled_at - before > COVERED_WITHIN:
                keys = stations_with_rows(connection, system, before, entry.polled_at)
                insert_missing_rows(connection, [Row(key, entry.polled_at, UNKNOWN, None) for key in keys])
            before = entry.polled_at
            if before > last:
                break


# -- small things ------------------------------------------------------------------------------------------------


def _this_file(system: int, digest: str) -> tuple[Any, Any]:
    return ImportedFile.system_key == system, ImportedFile.sha256 == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_zone(timezone: str | None) -> None:
    try:
        ZoneInfo(timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        raise UsageError(f"--timezone {timezone!r} is not an IANA time zone such as Europe/Paris") from None


@contextmanager
def _explained(database: Database) -> Iterator[None]:
    try:
        yield
    except ArrowError as error:
        raise DatabaseError(f"the database {database}: {str(error).splitlines()[0]}") from error
