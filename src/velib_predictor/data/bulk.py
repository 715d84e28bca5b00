"""Station rows by the hundred thousand: Arrow in through ADBC, on both engines, and never over a row that is stored."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import ClauseElement

from velib_predictor.data.columns import TIME
from velib_predictor.data.database import Database
from velib_predictor.data.snapshot import Values
from velib_predictor.data.tidy import SCHEMAS

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Cursor

ROWS = pa.schema(
    [
        ("station_key", pa.int32()),
        *(field for field in SCHEMAS["status"] if field.name not in ("system_id", "station_id")),
    ]
)
"""A row of `station_status` in Arrow."""

_NAMES = ", ".join(ROWS.names)
_ALL_ROWS = f"INSERT OR IGNORE INTO station_status ({_NAMES}) VALUES ({', '.join('?' * len(ROWS))})"  # noqa: S608
_MISSING_ROWS = f"INSERT INTO station_status ({_NAMES}) SELECT {_NAMES} FROM incoming ON CONFLICT DO NOTHING"  # noqa: S608
_STORED, _GIVEN = (", ".join(f"{table}.{name}" for name in Values._fields) for table in ("s", "i"))
_COMPARED = (
    "SELECT count(*), coalesce(sum(CASE WHEN ({}) {} ({}) THEN 1 ELSE 0 END), 0) FROM incoming AS i "
    "JOIN station_status AS s ON s.station_key = i.station_key AND s.observed_at = i.observed_at"
)


class Compared(NamedTuple):
    """Rows whose (station, time) is stored already, and how many of these with other values."""

    present: int
    differing: int


class Stored(NamedTuple):
    """What became of a chunk."""

    inserted: int
    contradicting: int


def as_sql(database: Database, statement: ClauseElement) -> str:
    """A statement with its values written into it: ADBC binds parameters differently on each engine."""
    return str(statement.compile(database.engine, compile_kwargs={"literal_binds": True}))


def fetch(database: Database, query: ClauseElement, columns: pa.Schema = ROWS) -> pa.Table:
    """The rows of a query over some of these columns, in their types there."""
    with database.arrow() as connection, connection.cursor() as cursor:
        if database.dialect == "sqlite":  # its own choice, 1,024, makes casting a batch dearer than reading it
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "65536"})
        cursor.execute(as_sql(database, query))
        with cursor.fetch_record_batch() as reader:
            schema = pa.schema([columns.field(name) for name in reader.schema.names])
            # Batch by batch: SQLite's numbers come as 64 bits each, four times what they need.
            return pa.Table.from_batches([batch.cast(schema) for batch in reader], schema=schema)


def status_rows(keys: np.ndarray, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows of a status file, in `ROWS`; `keys` holds the station key of each."""
    arrays = [pa.array(keys, pa.int32()), *(batch.column(name) for name in ROWS.names[1:])]
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def in_key_order(rows: pa.Table) -> pa.Table:
    """The rows by (station, time), the first of each pair only: the order in which a B-tree takes them fastest."""
    key, time = rows["station_key"].to_numpy(), pc.cast(rows["observed_at"], pa.int64()).to_numpy()
    if not _ascends(key, time):
        order = np.lexsort((time, key))
        rows, key, time = rows.take(pa.array(order)), key[order], time[order]
        first = np.concatenate([[True], (key[1:] != key[:-1]) | (time[1:] != time[:-1])])
        if not first.all():
            rows = rows.filter(pa.array(first))
    return rows.combine_chunks()


def store(cursor: "Cursor", dialect: str, rows: pa.Table) -> Stored:
    """Insert the rows, in `in_key_order`, whose (station, time) is not taken; the caller commits."""
    if dialect == "sqlite":
        before = _scalar(cursor, "SELECT total_changes()")
        cursor.executemany(_ALL_ROWS, _for_sqlite(rows))
        inserted = _scalar(cursor, "SELECT total_changes()") - before
        return Stored(inserted, 0 if inserted == len(rows) else compare(cursor, dialect, rows).differing)
    if not _any_in_reach(cursor, rows):
        cursor.adbc_ingest("station_status", rows, mode="append")
        return Stored(len(rows), 0)
    _give(cursor, rows)
    compared = _compare(cursor, "IS DISTINCT FROM")
    if compared.present < len(rows):
        cursor.execute(_MISSING_ROWS)
    _take_away(cursor)
    return Stored(len(rows) - compared.present, compared.differing)


def compare(cursor: "Cursor", dialect: str, rows: pa.Table) -> Compared:
    """Compare rows with those that are stored under the same (station, time)."""
    _give(cursor, _for_sqlite(rows) if dialect == "sqlite" else rows)
    compared = _compare(cursor, "IS NOT" if dialect == "sqlite" else "IS DISTINCT FROM")
    _take_away(cursor)
    return compared


def _ascends(key: np.ndarray, time: np.ndarray) -> bool:
    return bool(np.all((key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & (time[1:] > time[:-1]))))


def _for_sqlite(rows: pa.Table) -> pa.Table:
    """Times as microseconds, flags as 0 and 1: what the schema keeps on SQLite."""
    to = {TIME: pa.int64(), pa.bool_(): pa.int8()}
    return rows.cast(pa.schema([(field.name, to.get(field.type, field.type)) for field in ROWS]))


def _any_in_reach(cursor: "Cursor", rows: pa.Table) -> bool:
    """Whether any row is stored, for a station of these, in the time that its rows span (PostgreSQL).

    Where none is, COPY goes straight into the table; by way of a temporary one it takes twice as long.
    """
    key = rows["station_key"].to_numpy()
    time = pc.cast(rows["observed_at"], pa.int64()).to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    ends = np.concatenate([starts[1:], [len(key)]]) - 1
    spans = ", ".join(f"({k}, {lo}, {hi})" for k, lo, hi in zip(key[starts], time[starts], time[ends], strict=True))
    micros = "timestamptz 'epoch' + interval '1 microsecond' *"
    # min() of one station walks the index; a join lets the planner read the whole table once a chunk.
    return bool(
        _scalar(
            cursor,
            f"SELECT count(*) FROM (VALUES {spans}) AS span (key, low, high) WHERE "  # noqa: S608 - numbers only
            f"(SELECT min(observed_at) FROM station_status WHERE station_key = key AND observed_at >= {micros} low) "
            f"<= {micros} high",
        )
    )


def _give(cursor: "Cursor", rows: pa.Table) -> None:
    cursor.adbc_ingest("incoming", rows, mode="create", temporary=True)
    cursor.execute("ANALYZE incoming")


def _take_away(cursor: "Cursor") -> None:
    cursor.execute("DROP TABLE incoming")


def _compare(cursor: "Cursor", differs: str) -> Compared:
    cursor.execute(_COMPARED.format(_STORED, differs, _GIVEN))
    (present, differing) = cursor.fetchall()[0]
    return Compared(int(present), int(differing))


def _scalar(cursor: "Cursor", query: str) -> int:
    cursor.execute(query)
    return int(cursor.fetchall()[0][0])
