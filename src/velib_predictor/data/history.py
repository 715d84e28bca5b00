"""The first pass of an import: is every row of a status file sound, and may it be stored? Nothing is written here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from velib_predictor.data import bulk
from velib_predictor.data.database import Database
from velib_predictor.data.snapshot import StationInfo, Values
from velib_predictor.data.tidy import Findings, Kind, read
from velib_predictor.utils.temporal import MICROSECOND, format_time, from_micros

COVERED_WITHIN = timedelta(hours=1)
"""Between two accepted polls this close, a station without a row is known to be unchanged; no row may come between."""
Times = npt.NDArray[np.int64]
_UNKNOWN = -1
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: (station, time) pairs rarely share a number
_CHUNK_ROWS = 262_144


class Keys:
    """Station keys by the names that a file uses."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self._known = known
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def of(self, batch: pa.RecordBatch) -> npt.NDArray[np.int32]:
        """Keys, [row]; -1 for a station that nothing knows."""
        encoded = batch.column("station_id").dictionary_encode()
        keys = [self._key(name) for name in encoded.dictionary.to_pylist()]
        codes = encoded.indices.fill_null(len(keys)).to_numpy(zero_copy_only=False)
        found: npt.NDArray[np.int32] = np.array([*keys, _UNKNOWN], dtype=np.int32)[codes]
        return found

    def _key(self, name: str | None) -> int:
        if name is None:
            return _UNKNOWN
        (self.used if name in self._known else self.missing).add(name)
        return self._known.get(name, _UNKNOWN)


class Coverage:
    """The times for which the ledger speaks already.

    Args:
        ledger: accepted polls in the database, microseconds, ascending.
        own: accepted polls of the import's own ledger file; rows that these wrote may come.
    """

    def __init__(self, ledger: Times, own: Times) -> None:
        self._ledger = ledger
        self._own = np.intersect1d(ledger, own)

    def covers(self, times: Times) -> npt.NDArray[np.bool_]:
        """Which of the times (microseconds) the ledger covers, bool[time]."""
        ledger = self._ledger
        if len(ledger) < 2:
            return np.zeros(len(times), dtype=bool)
        close = np.diff(ledger) <= COVERED_WITHIN // MICROSECOND
        after = np.searchsorted(ledger, times, side="right")  # the first poll later than the time
        padded = np.concatenate([[False], close, [False]])  # padded[i]: polls i - 1 and i are close
        at_poll = (after > 0) & (ledger[np.maximum(after - 1, 0)] == times)
        covered: npt.NDArray[np.bool_] = padded[after] | (at_poll & padded[np.maximum(after - 1, 0)])
        return covered & ~np.isin(times, self._own)


def read_stations(seen: list[Findings], path: Path) -> list[StationInfo]:
    """The stations of a file, by station_id; its findings are appended to `seen`."""
    seen.append(findings := Findings(path))
    infos: dict[str, StationInfo] = {}
    for row, record in _records(path, "stations", findings):
        record["capacity"] = record["capacity"] or None  # 0: the feed does not know
        info = StationInfo(**record)
        if info.station_id is not None and infos.setdefault(info.station_id, info) != info:
            findings.add(f"station {info.station_id!r} was described otherwise further up", row=row)
    return sorted(infos.values(), key=lambda info: info.station_id)


def read_polls(seen: list[Findings], path: Path) -> list[dict[str, Any]]:
    """The ledger of a file, as rows of `poll` without their system; its findings are appended to `seen`."""
    seen.append(findings := Findings(path))
    polls: dict[datetime, dict[str, Any]] = {}
    for row, record in _records(path, "polls", findings):
        at = record["polled_at"]
        if at is not None and polls.setdefault(at, record) != record:
            findings.add(f"the poll at {format_time(at)} was told otherwise further up", row=row)
    return [] if findings.found else list(polls.values())


def _records(path: Path, kind: Kind, findings: Findings) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers, from 1, and rows without their system_id."""
    for batch in read(path, kind, findings):
        yield from enumerate(batch.drop_columns("system_id").to_pylist(), findings.rows - len(batch) + 1)


@dataclass
class StatusScan:
    """What the first pass learned of one status file."""

    findings: Findings
    first: int | None = None
    last: int | None = None
    duplicates: int = 0
    _numbers: list[npt.NDArray[np.uint64]] = field(default_factory=list)


def scan_status(database: Database, path: Path, keys: Keys, coverage: Coverage) -> StatusScan:
    """Read a status file to its end and note all that speaks against it."""
    scan = StatusScan(Findings(path))
    covered = _CoveredRows(database)
    for _, rows, times in _rows(path, keys, scan.findings):
        if not len(rows):
            continue
        scan.first = int(min(times.min(), scan.first if scan.first is not None else times.min()))
        scan.last = int(max(times.max(), scan.last if scan.last is not None else times.max()))
        scan._numbers.append(_numbers(rows, times))
        inside = coverage.covers(times)
        if inside.any():
            covered.add(rows.filter(pa.array(inside)), times[inside])
    covered.flush()
    if covered.refused:
        scan.findings.add(covered.message())
    _check_duplicates(scan, path, keys)
    return scan


def _rows(path: Path, keys: Keys, findings: Findings) -> Iterator[tuple[Times, pa.RecordBatch, Times]]:
    """Row numbers from 1, rows in `bulk.ROWS` and their times in microseconds; rows that are not sound are left out."""
    for batch in read(path, "status", findings):
        stations = keys.of(batch)
        sound = (stations != _UNKNOWN) & batch.column("observed_at").is_valid().to_numpy(zero_copy_only=False)
        numbers = np.arange(findings.rows - len(batch), findings.rows) + 1
        rows = bulk.status_rows(stations, batch)
        if not sound.all():
            rows, numbers = rows.filter(pa.array(sound)), numbers[sound]
        yield numbers, rows, pc.cast(rows["observed_at"], pa.int64()).to_numpy()


def _numbers(rows: pa.RecordBatch, times: Times) -> npt.NDArray[np.uint64]:
    """One number for each row's (station, time)."""
    numbers: npt.NDArray[np.uint64] = rows["station_key"].to_numpy().astype(np.uint64) * _SPREAD + times.astype(
        np.uint64
    )
    return numbers


def _check_duplicates(scan: StatusScan, path: Path, keys: Keys) -> None:
    """Count rows that repeat another one; two different rows for one (station, time) are a problem.

    Stations are compared by key: an id and a code that mean one station meet here.
    """
    if not scan._numbers:
        return
    ordered = np.sort(np.concatenate(scan._numbers))
    scan._numbers.clear()
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(shared):
        return
    parts, numbers = [], []
    for row_numbers, rows, times in _rows(path, keys, Findings(path)):
        suspect = np.isin(_numbers(rows, times), shared)
        parts.append(rows.filter(pa.array(suspect)))
        numbers.append(row_numbers[suspect])
    table = pa.Table.from_batches(parts).append_column("number", pa.array(np.concatenate(numbers)))
    table = table.sort_by([("station_key", "ascending"), ("observed_at", "ascending"), ("number", "ascending")])
    later, earlier = table.slice(1), table.slice(0, len(table) - 1)
    same = ~_differ(later, earlier, ("station_key", "observed_at"))
    differ = same & _differ(later, earlier, Values._fields)
    scan.duplicates = int(same.sum() - differ.sum())
    for index in np.flatnonzero(differ).tolist():
        before, row = earlier["number"][index].as_py(), later["number"][index].as_py()
        at = format_time(later["observed_at"][index].as_py())
        scan.findings.add(f"the same station at the same time ({at}) as row {before}, with other values", row=row)


def _differ(left: pa.Table, right: pa.Table, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Rows that differ in one of the columns, bool[row]; null equals null."""
    differ = np.zeros(len(left), dtype=bool)
    for name in names:
        equal = pc.equal(left[name], right[name])
        both_null = pc.and_(pc.is_null(left[name]), pc.is_null(right[name]))
        differ |= ~pc.or_(pc.fill_null(equal, False), both_null).to_numpy()
    return differ


class _CoveredRows:
    """Rows for which the ledger speaks already: they may only say what is stored."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[pa.RecordBatch] = []
        self.refused = 0
        self._first: datetime | None = None

    def add(self, rows: pa.RecordBatch, times: Times) -> None:
        self._first = min(filter(None, [self._first, from_micros(int(times.min()))]))
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        rows = bulk.in_key_order(pa.Table.from_batches(self._waiting))
        self._waiting.clear()
        with self._database.arrow() as connection, connection.cursor() as cursor:
            compared = bulk.compare(cursor, self._database.dialect, rows)
            connection.rollback()
        self.refused += len(rows) - compared.present + compared.differing

    def message(self) -> str:
        assert self._first is not None  # noqa: S101 - for the type checker
        return (
            f"{self.refused} rows lie between polls of the collector that are at most an hour apart (the first at or "
            f"after {format_time(self._first)}), and say something else than is stored: the ledger says that nothing "
            "changed there. Import only the time before, after, or in the collector's longer gaps; "
            "or give the ledger that goes with the rows with --polls"
        )
