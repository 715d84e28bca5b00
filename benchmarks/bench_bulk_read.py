"""Bulk read against the bare ADBC query: `python benchmarks/bench_bulk_read.py [--rows N] [--postgres URL]`.

Bare: SELECT of the same columns of the whole table, fetched as one Arrow table. Ours: `read_status` (one system, exact
types, by station and time). Promise: at most 1.5 times the bare query's time. Both run in turn; the best time counts.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from bench_import import COLUMNS, history, scratch
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.data.preprocessor import read_status


def bare(database: Database) -> int:
    with database.arrow() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {COLUMNS} FROM station_status")
        return int(cursor.fetch_arrow_table().num_rows)


def ours(database: Database) -> int:
    return int(read_status(database, "velib").num_rows)


def seconds(read: Callable[[Database], int], database: Database, expected: int) -> float:
    begun = time.perf_counter()
    assert read(database) == expected
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgres", default="postgresql://postgres@127.0.0.1:5432/test")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    stations, status = history(arguments.rows)
    print(f"{len(status)} rows")
    print(f"{'engine':<12}{'bare s':>9}{'ours s':>9}{'ours/bare':>11}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pq.write_table(stations, folder / "stations.parquet")
        pq.write_table(status, folder / "status.parquet")
        for engine in ("sqlite", "postgresql"):
            with scratch(engine, folder, arguments.postgres) as database:
                import_history(database, "velib", folder / "stations.parquet", [folder / "status.parquet"])
                rounds = [
                    [seconds(read, database, len(status)) for read in (bare, ours)] for _ in range(arguments.rounds)
                ]
            best = [min(times) for times in zip(*rounds, strict=True)]
            print(f"{engine:<12}{best[0]:>9.2f}{best[1]:>9.2f}{best[1] / best[0]:>11.2f}")


if __name__ == "__main__":
    main()
