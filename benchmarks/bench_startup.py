"""How long `velib --help` takes, beside a Python that does nothing. Promise: under 0.3 s.

python benchmarks/bench_startup.py [--runs 15]
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str], runs: int) -> float:
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    bare = seconds([sys.executable, "-c", "pass"], runs)
    ours = seconds([str(Path(sys.executable).with_name("velib")), "--help"], runs)
    print(f"python -c pass {bare:.3f} s, velib --help {ours:.3f} s, ratio {ours / bare:.1f} (median of {runs})")


if __name__ == "__main__":
    main()
