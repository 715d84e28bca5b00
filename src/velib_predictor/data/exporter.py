"""Database -> tidy files, in a stable total order: export, import into an empty database, export gives equal bytes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from adbc_driver_manager import Error as ArrowError
from sqlalchemy import func, select

from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.preprocessor import accepted_polls, as_of, grid_ticks, read_status, take
from velib_predictor.data.schema import Poll, Station, StationStatus, System
from velib_predictor.data.stations import StationBook
from velib_predictor.data.tidy import SCHEMAS, Kind, csv_text, suffix_of
from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.temporal import EPOCH, MICROSECOND, from_micros

Times = npt.NDArray[np.datetime64]
What = Literal["status", "stations", "polls"]
_GROUP_ROWS = 500_000  # read at a time
_FILE_ROWS = 524_288  # of one Parquet row group


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    what: str
    system_id: str
    out: Path
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {"what": self.what, "system_id": self.system_id, "out": str(self.out), "rows": self.rows}


def export(
    database: Database,
    what: What,
    system_id: str,
    start: datetime | None,
    end: datetime | None,
    out: Path,
    *,
    grid: timedelta | None = None,
    tolerance: timedelta | None = None,
) -> ExportReport:
    """Write the rows of [start, end) to a .parquet or .csv file, by station_id and time (in code point order).

    Stations come as they were last described, whatever the times. With `grid` the status is not the stored rows but
    every station at every tick, null where it is not known (`preprocessor.as_of`); the tolerance is by
    default the step.
    The file is written under another name and then renamed: it is there as a whole or not at all.

    Raises:
        UsageError: an unknown system, an empty period, a grid of something else than status, a name of no known format.
        VelibError: the file cannot be written.
    """
    database.require_current()
    system = _system_key(database, system_id)
    suffix_of(out)
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--from {start.isoformat()} is not before --to {end.isoformat()}")
    if (grid or tolerance) and what != "status":
        raise UsageError(f"--grid and --tolerance are for status only, not for {what}")
    if tolerance and not grid:
        raise UsageError("--tolerance needs --grid: stored rows come as they are")
    if what == "stations":
        tables = _stations(database, system)
    elif what == "polls":
        tables = _polls(database, system, start, end)
    else:
        tables = _status(database, system, system_id, start, end, grid, tolerance or grid)
    try:
        with TidyWriter(out, what) as writer:
            for table in tables:
                writer.write(table.add_column(0, "system_id", _same(system_id, len(table))))
    except OSError as error:
        raise VelibError(f"{out} cannot be written: {error.strerror or error}") from error
    except ArrowError as error:
        raise DatabaseError(f"the database {database}: {str(error).splitlines()[0]}") from error
    return ExportReport(what, system_id, out, writer.rows)


class TidyWriter:
    """Writes tables of one kind to a file, in equal pieces whatever pieces they come in."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.rows = 0
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._schema = SCHEMAS[kind]
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def __enter__(self) -> "TidyWriter":
        self._stream = self._temporary.open("wb")
        try:
            self._writer = self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        self.rows += len(table)
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        self._waiting_rows += len(table)
        if self._waiting_rows >= _FILE_ROWS:
            joined = pa.concat_tables(self._waiting)
            whole = len(joined) // _FILE_ROWS * _FILE_ROWS
            for first in range(0, whole, _FILE_ROWS):
                self._put(joined.slice(first, _FILE_ROWS))
            self._waiting = [joined.slice(whole)]
            self._waiting_rows = len(joined) - whole

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._waiting_rows:
                self._put(pa.concat_tables(self._waiting))
            self._writer.close()
            self._stream.close()
            if kind is None:
                self._temporary.replace(self._path)
        finally:
            self._discard()

    def _open(self) -> pacsv.CSVWriter | pq.ParquetWriter:
        if suffix_of(self._path) == ".csv":
            self._stream.write((",".join(self._schema.names) + "\n").encode())
            options = pacsv.WriteOptions(include_header=False, quoting_style="needed")
            return pacsv.CSVWriter(self._stream, csv_text(self._schema.empty_table()).schema, write_options=options)
        # Times repeat from station to station: a dictionary makes the file a sixth.
        return pq.ParquetWriter(self._stream, self._schema, compression="zstd", use_dictionary=True)

    def _discard(self) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def _put(self, table: pa.Table) -> None:
        table = table.combine_chunks()  # where chunks end shows in a Parquet file's pages
        self._writer.write_table(csv_text(table) if isinstance(self._writer, pacsv.CSVWriter) else table)


def _system_key(database: Database, system_id: str) -> int:
    with database.read() as connection:
        systems = {row.system_id: row.key for row in connection.execute(select(System.system_id, System.key))}
    if system_id not in systems:
        there = ", ".join(sorted(systems)) or "none yet"
        raise UsageError(f"the database {database} has no system {system_id!r}; there are: {there}")
    return int(systems[system_id])


def _stations(database: Database, system: int) -> Iterator[pa.Table]:
    with database.read() as connection:
        book = StationBook(connection, system)
    rows = []
    for key, (station_id, code) in book.names.items():
        latest = book.latest(key)
        rows.append({"station_id": station_id, "code": code, **(latest._asdict() if latest else {})})
    schema = SCHEMAS["stations"].remove(0)
    yield pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["station_id"])), schema=schema)


def _polls(database: Database, system: int, start: datetime | None, end: datetime | None) -> Iterator[pa.Table]:
    schema = SCHEMAS["polls"].remove(0)
    table = Poll.__table__
    query = select(*(table.c[name] for name in schema.names)).where(table.c.system_key == system)
    if start is not None:
        query = query.where(table.c.polled_at >= start)
    if end is not None:
        query = query.where(table.c.polled_at < end)
    with database.read() as connection:
        result = connection.execution_options(yield_per=_FILE_ROWS).execute(query.order_by(table.c.polled_at))
        for rows in result.mappings().partitions():
            yield pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _status(
    database: Database,
    system: int,
    system_id: str,
    start: datetime | None,
    end: datetime | None,
    step: timedelta | None,
    tolerance: timedelta | None,
) -> Iterator[pa.Table]:
    """Stored rows, or with a step the grid, some stations at a time."""
    with database.read() as connection:
        query = select(Station.station_id, Station.key).where(Station.system_key == system)
        keys = dict(sorted((row.station_id, row.key) for row in connection.execute(query)))
        at = StationStatus.observed_at
        stored = select(func.count(), func.min(at), func.max(at)).where(StationStatus.station_key.in_(keys.values()))
        for bound in ([at >= start] if start else []) + ([at < end] if end else []):
            stored = stored.where(bound)
        rows, first, last = connection.execute(stored).one()
    polls = accepted_polls(database, system_id, start, end)
    # A row that is written meanwhile belongs to the next export: all stations end at the same moment.
    end = end or (max(filter(None, [last, _last(polls)])) + MICROSECOND if last else EPOCH)
    ticks = grid_ticks(start or first or end, end, step) if step else None
    per_station = max(rows // max(len(keys), 1), len(ticks) if ticks is not None else 0, 1)
    size = max(1, _GROUP_ROWS // per_station)
    names = list(keys)
    for group in (names[first : first + size] for first in range(0, len(names), size)):
        table = read_status(database, system_id, start, end, stations=[keys[n] for n in group], before=step is not None)
        parts = _stored(table, [keys[name] for name in group])
        if ticks is not None and tolerance is not None:
            parts = _on_grid(table, [keys[name] for name in group], ticks, polls, tolerance)
        for name, part in zip(group, parts, strict=True):
            yield part.add_column(0, "station_id", _same(name, len(part)))


def _stored(table: pa.Table, keys: Sequence[int]) -> Iterator[pa.Table]:
    """The rows of each station."""
    column = table["station_key"].to_numpy()
    for key in keys:
        first, last = np.searchsorted(column, [key, key + 1])
        yield table.slice(first, last - first).drop_columns("station_key")


def _on_grid(
    table: pa.Table, keys: Sequence[int], ticks: Times, polls: Times, tolerance: timedelta
) -> Iterator[pa.Table]:
    """What holds for each station at each tick."""
    stations = np.sort(np.array(keys, dtype=np.int32))
    held = as_of(table, stations, ticks, polls, tolerance)  # [tick, station]
    for key in keys:
        yield take(table, held[:, np.searchsorted(stations, key)], ticks)


def _last(polls: Times) -> datetime | None:
    return from_micros(int(polls[-1].astype(np.int64))) if len(polls) else None


def _same(value: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), rows)
