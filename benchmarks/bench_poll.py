"""One poll of 1,500 stations, fetch excluded: decode + check + store against the bare insert of 1,500 rows.

Promise: at most 3 times the bare insert, on the same engine, in one run. The archive's fsync is shown apart.

    python benchmarks/bench_poll.py [--postgres URL] [--stations 1500] [--moving 0.4] [--polls 60]
"""

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psycopg

from servers import scratch_postgres
from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.archive import Archive
from velib_predictor.data.database import Database
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.raw import STATUS, Document, RawPoll, content_hash
from velib_predictor.data.replay import decode
from velib_predictor.data.rows import COLUMNS
from velib_predictor.data.store import Store

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
LIST = ", ".join(COLUMNS)
TABLE = (
    "CREATE TABLE bare (station_key INTEGER, observed_at {time}, bikes SMALLINT, mechanical SMALLINT, ebikes SMALLINT, "
    "docks SMALLINT, bikes_disabled SMALLINT, docks_disabled SMALLINT, is_installed BOOLEAN, is_renting BOOLEAN, "
    "is_returning BOOLEAN, last_reported {time}, PRIMARY KEY (station_key, observed_at)) {more}"
)
Payload = tuple[RawPoll, dict[str, bytes]]


def payloads(stations: int, polls: int, moving: float) -> list[Payload]:
    """Status documents in Vélib's shape, in each of which a share of the stations has moved."""
    generator = random.Random(1)
    mechanical = [generator.randrange(20) for _ in range(stations)]
    ids = generator.sample(range(10_000, 20_000_000_000), stations)
    ebikes = [generator.randrange(10) for _ in range(stations)]
    heard = [generator.randrange(600) for _ in range(stations)]  # last_reported moves about once an hour
    made = []
    for i in range(polls):
        at = START + timedelta(minutes=i)
        for j in generator.sample(range(stations), int(stations * moving)):
            mechanical[j] = (mechanical[j] + 1) % 20
        records = [
            {
                "station_id": ids[j],
                "num_bikes_available": n + ebikes[j],
                "numBikesAvailable": n + ebikes[j],
                "num_bikes_available_types": [{"mechanical": n}, {"ebike": ebikes[j]}],
                "num_docks_available": 28 - n,
                "numDocksAvailable": 28 - n,
                "is_installed": 1,
                "is_returning": 1,
                "is_renting": 1,
                "last_reported": int(START.timestamp()) + i // 60 * 3600 - heard[j],
                "stationCode": str(1000 + j),
                "station_opening_hours": None,
            }
            for j, n in enumerate(mechanical)
        ]
        body = msgspec.json.encode(
            {"lastUpdatedOther": int(at.timestamp()), "ttl": 3600, "data": {"stations": records}}
        )
        document = Document(
            name=STATUS, url="x", status=200, fetched_at=at, duration_s=0.1, sha256=content_hash(body), size=len(body)
        )
        raw = RawPoll(system_id="velib", polled_at=at, scheduled_at=at, documents=(document,))
        made.append((raw, {document.sha256: body}))
    return made


def bare_sqlite(folder: Path, stations: int) -> Callable[[int], None]:
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(TABLE.format(time="INTEGER", more="WITHOUT ROWID"))
    marks = ", ".join("?" * len(COLUMNS))

    def insert(i: int) -> None:
        at = (START + timedelta(minutes=i)).timestamp() * 1_000_000
        rows = [(j, int(at), 7, 5, 2, 23, None, None, True, True, True, int(at)) for j in range(stations)]
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(f"INSERT INTO bare ({LIST}) VALUES ({marks})", rows)
        connection.execute("COMMIT")
        insert.seconds.append(time.perf_counter() - started)  # type: ignore[attr-defined]

    insert.seconds = []  # type: ignore[attr-defined]
    return insert


def bare_postgresql(url: str, stations: int) -> Callable[[int], None]:
    connection = psycopg.connect(url)
    connection.execute(TABLE.format(time="TIMESTAMPTZ", more=""))
    connection.commit()

    def insert(i: int) -> None:
        at = START + timedelta(minutes=i)
        rows = [(j, at, 7, 5, 2, 23, None, None, True, True, True, at) for j in range(stations)]
        started = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy(f"COPY bare ({LIST}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.commit()
        insert.seconds.append(time.perf_counter() - started)  # type: ignore[attr-defined]

    insert.seconds = []  # type: ignore[attr-defined]
    return insert


def measure(url: str, folder: Path, made: list[Payload], bare: Callable[[int], None]) -> tuple[float, float, float]:
    """Median seconds of our poll, of the bare insert, and of the archive's write; alternating in one run."""
    database = Database(url)
    database.upgrade()
    store, decoder, archive = Store(database, "velib", None, CollectorSettings()), Decoder(), Archive(folder, "velib")
    ours, archived = [], []
    for i, (raw, bodies) in enumerate(made):
        bare(i)
        started = time.perf_counter()
        archive.put(raw, bodies)
        archived.append(time.perf_counter() - started)
        started = time.perf_counter()
        entry = store.record(raw, decode(decoder, raw, bodies.__getitem__))
        ours.append(time.perf_counter() - started)
        assert entry.outcome.accepted
    database.close()
    skip = 3  # the first polls create the stations and warm the caches
    baseline: list[float] = bare.seconds  # type: ignore[attr-defined]
    return statistics.median(ours[skip:]), statistics.median(baseline[skip:]), statistics.median(archived[skip:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", help="admin address of a PostgreSQL (default: one of our own)")
    parser.add_argument("--stations", type=int, default=1500)
    parser.add_argument(
        "--moving", type=float, default=0.4, help="share of the stations that changes between two polls"
    )
    parser.add_argument("--polls", type=int, default=60)
    options = parser.parse_args()
    made = payloads(options.stations, options.polls, options.moving)
    print(f"{options.stations} stations, {options.moving:.0%} moving, median of {options.polls} polls")
    print("engine       poll ms   bare insert ms   ratio   archive ms (apart)")
    with tempfile.TemporaryDirectory() as name, scratch_postgres(options.postgres) as postgres:
        folder = Path(name)
        for engine, url in (("sqlite", f"sqlite:///{folder / 'ours.db'}"), ("postgresql", postgres)):
            if url is None:
                print(f"{engine:<12} skipped: no PostgreSQL here")
                continue
            bare = (
                bare_sqlite(folder, options.stations) if engine == "sqlite" else bare_postgresql(url, options.stations)
            )
            ours, baseline, archived = measure(url, folder / engine, made, bare)
            print(
                f"{engine:<12} {ours * 1e3:7.1f} {baseline * 1e3:16.1f} {ours / baseline:7.2f} {archived * 1e3:20.1f}"
            )


if __name__ == "__main__":
    main()
