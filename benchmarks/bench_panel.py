"""Database to Panel against the bare ADBC query: `python benchmarks/bench_panel.py [--rows N] [--postgres URL]`.

Bare: SELECT of the whole table, fetched as one Arrow table. Ours: `Panel.load`, the whole way to counts and masks on a
grid of 15 minutes. Promise: at most 2 times the bare query's time. Both run in turn; the best time counts. Rows are
stored as an import of history leaves them, by station, or as a collector does (`--shuffle`), by time. The last column
is the memory of a process that loads the panel and nothing else, at its height.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from bench_bulk_read import bare, seconds
from bench_import import STATIONS, history, scratch
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.data.panel import Panel

ALONE = """
import resource, sys
from velib_predictor.data.panel import Panel
Panel.load(sys.argv[1], "velib")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def ours(database: Database) -> int:
    panel = Panel.load(database, "velib")
    return int(panel.observed[:, :, 0].sum())  # every row lies on a tick


def peak_gb(database: Database) -> float:
    """Peak memory of a process of its own."""
    address = database.url.set(drivername=database.dialect).render_as_string(hide_password=False)
    said = subprocess.run([sys.executable, "-c", ALONE, address], check=True, capture_output=True, text=True)
    return int(said.stdout) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--postgres", default="postgresql://postgres@127.0.0.1:5432/test")
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shuffle", action="store_true", help="rows stored in time order instead of station order")
    arguments = parser.parse_args()
    stations, status = history(-(-arguments.rows // STATIONS) * STATIONS)  # every station at every tick
    if arguments.shuffle:
        status = status.sort_by("observed_at")
    rows = len(status)
    print(f"{rows} rows" + (" in time order" if arguments.shuffle else " in station order"))
    print(f"{'engine':<12}{'bare s':>9}{'ours s':>9}{'ours/bare':>11}{'peak GB':>9}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pq.write_table(stations, folder / "stations.parquet")
        pq.write_table(status, folder / "status.parquet")
        del stations, status
        for engine in arguments.engines.split(","):
            with scratch(engine, folder, arguments.postgres) as database:
                files = folder / "stations.parquet", [folder / "status.parquet"]
                import_history(database, "velib", *files, timezone="Europe/Paris")
                rounds = [[seconds(read, database, rows) for read in (bare, ours)] for _ in range(arguments.rounds)]
                peak = peak_gb(database)
            best = [min(times) for times in zip(*rounds, strict=True)]
            print(f"{engine:<12}{best[0]:>9.2f}{best[1]:>9.2f}{best[1] / best[0]:>11.2f}{peak:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
