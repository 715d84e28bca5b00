"""Import of history against the bare driver: `python benchmarks/bench_import.py [--rows N] [--postgres URL]`.

Bare: the same rows, as Python tuples that lie ready, into an identical empty table, by sqlite3 executemany and by
psycopg COPY. Ours: the whole of `import_history` (read, check, resolve, store, note the progress). Promise: ours takes
in at least 60 % of the rows a second.
"""

import argparse
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import make_url

from velib_predictor.data import bulk
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.utils.temporal import to_micros

STATIONS = 1_500
START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS = ", ".join(bulk.ROWS.names)


def history(rows: int) -> tuple[pa.Table, pa.Table]:
    """A stations file and a status file: every station every 15 minutes, by station and time."""
    ticks = -(-rows // STATIONS)
    random = np.random.default_rng(1)
    names = np.array([f"{n:05d}" for n in range(STATIONS)])
    bikes = random.integers(0, 40, STATIONS * ticks).astype(np.int16)
    ebikes = (bikes * random.random(len(bikes))).astype(np.int16)
    micros = to_micros(START) + np.arange(ticks) * (timedelta(minutes=15) // timedelta(microseconds=1))
    status = pa.table(
        {
            "station_id": np.repeat(names, ticks),
            "observed_at": pa.array(np.tile(micros, STATIONS)).cast(pa.timestamp("us", "UTC")),
            "bikes": bikes,
            "mechanical": bikes - ebikes,
            "ebikes": ebikes,
            "docks": (40 - bikes).astype(np.int16),
            **{flag: np.ones(len(bikes), dtype=bool) for flag in ("is_installed", "is_renting", "is_returning")},
        }
    ).slice(0, rows)
    return pa.table(
        {"station_id": names, "name": names, "lat": np.full(STATIONS, 48.8), "lon": np.full(STATIONS, 2.3)}
    ), status


def tuples(status: pa.Table, *, sqlite: bool) -> list[tuple[Any, ...]]:
    """The rows as the bare driver wants them."""
    key = np.array(status["station_id"].to_pylist(), dtype=np.int32) + 1
    given = [pa.array(key)]
    for field in bulk.ROWS.names[1:]:
        column = status[field] if field in status.column_names else pa.nulls(len(status))
        if sqlite and field == "observed_at":
            column = column.cast(pa.int64())
        given.append(column)
    return list(zip(*(column.to_pylist() for column in given), strict=True))


def bare_sqlite(database: Database, rows: list[tuple[Any, ...]]) -> None:
    with sqlite3.connect(str(database.url.database)) as connection:
        marks = ", ".join("?" * len(bulk.ROWS))
        connection.executemany(f"INSERT INTO station_status ({COLUMNS}) VALUES ({marks})", rows)
    connection.close()


def bare_postgresql(database: Database, rows: list[tuple[Any, ...]]) -> None:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    statement = f"COPY station_status ({COLUMNS}) FROM STDIN"
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


@contextmanager
def scratch(engine: str, folder: Path, postgres: str) -> Iterator[Database]:
    """An upgraded, empty database that is gone afterwards."""
    name = f"velib_bench_{uuid.uuid4().hex[:8]}"
    if engine == "sqlite":
        database = Database(f"sqlite:///{folder / name}.db")
        database.upgrade()
        yield database
        database.close()
        return
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"'.encode())
        database = Database(make_url(postgres).set(database=name).render_as_string(hide_password=False))
        database.upgrade()
        yield database
        database.close()
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgres", default="postgresql://postgres@127.0.0.1:5432/test")
    parser.add_argument("--shuffle", action="store_true", help="rows in time order instead of station order")
    arguments = parser.parse_args()
    stations, status = history(arguments.rows)
    if arguments.shuffle:
        status = status.sort_by("observed_at")
    print(f"{len(status)} rows" + (" in time order" if arguments.shuffle else " in station order"))
    print(f"{'engine':<12}{'bare rows/s':>14}{'ours rows/s':>14}{'ours/bare':>11}{'again rows/s':>14}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pq.write_table(stations, folder / "stations.parquet")
        pq.write_table(status, folder / "status.parquet")
        for engine, bare in (("sqlite", bare_sqlite), ("postgresql", bare_postgresql)):
            rows = tuples(status, sqlite=engine == "sqlite")
            with scratch(engine, folder, arguments.postgres) as database:
                begun = time.perf_counter()
                bare(database, rows)
                bare_s = time.perf_counter() - begun
            del rows
            with scratch(engine, folder, arguments.postgres) as database:
                ours = []
                for stored in (len(status), 0):
                    begun = time.perf_counter()
                    report = import_history(database, "velib", folder / "stations.parquet", [folder / "status.parquet"])
                    ours.append(time.perf_counter() - begun)
                    assert report.rows_stored == stored
            speeds = [len(status) / seconds for seconds in (bare_s, *ours)]
            print(
                f"{engine:<12}{speeds[0]:>14,.0f}{speeds[1]:>14,.0f}{speeds[1] / speeds[0]:>11.2f}{speeds[2]:>14,.0f}"
            )


if __name__ == "__main__":
    main()
