"""A day of one-minute polls of 1,500 stations: how large the archive is, loose and packed, and what packing takes.

python benchmarks/bench_archive.py [--polls 900] [--stations 1500] [--moving 0.08]
"""

import argparse
import resource
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from bench_poll import START, payloads
from velib_predictor.data.archive import Archive


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polls", type=int, default=900, help="one-minute polls from 08:00 UTC (960 end the day)")
    parser.add_argument("--stations", type=int, default=1500)
    parser.add_argument(
        "--moving", type=float, default=0.08, help="share of the stations that changes between two polls"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        archive = Archive(Path(name), "velib")
        raw_mb = 0.0
        made = payloads(options.stations, options.polls, options.moving)
        for raw, bodies in made:
            archive.put(raw, bodies)
            raw_mb += sum(map(len, bodies.values())) / 2**20
        made.clear()
        loose_mb = size_mb(Path(name))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        archive.pack(START + timedelta(days=2), timedelta(hours=1))
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        packed_mb = size_mb(Path(name))
        started = time.perf_counter()
        read = sum(1 for raw, body in archive.read() if body(raw.documents[0].sha256))
        print(f"{options.polls} polls: as received {raw_mb:.0f} MB, loose {loose_mb:.1f} MB, packed {packed_mb:.1f} MB")
        print(f"packing {seconds:.1f} s (peak memory {before:.0f} -> {after:.0f} MB); reading {read} back", end=" ")
        print(f"{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
