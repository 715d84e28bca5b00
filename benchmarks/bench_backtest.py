"""A backtest's speed and memory: `python benchmarks/bench_backtest.py [--models M,..] [--db URL --system S ...]`.

Judges the models on a test window of L days and then on one of 2 L days, in this process, and prints the seconds of
fitting, the seconds an origin, and the highest resident memory until then. Promise: memory is flat, so the second peak
is about the first one (ratio 1). Without `--db` a synthetic city of some weeks is made.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from synthetic import START, SYSTEM, city, store
from velib_predictor.data.database import Database
from velib_predictor.evaluation.evaluator import Protocol, backtest, load
from velib_predictor.evaluation.report import report
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.utils.temporal import parse_duration, parse_time


def peak_gb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def protocols(arguments: argparse.Namespace) -> list[Protocol]:
    """The same training, and test windows of one and of two lengths."""
    horizons = tuple(parse_duration(text) for text in arguments.horizons.split(",")) if arguments.horizons else None
    spec = ForecastSpec(horizons=horizons) if horizons else ForecastSpec()
    train_from = parse_time(arguments.train_from) if arguments.train_from else START.item().replace(tzinfo=UTC)
    train_until = train_from + timedelta(days=arguments.train_days)
    test_from: datetime = parse_time(arguments.test_from) if arguments.test_from else train_until
    ends = [test_from + length * timedelta(days=arguments.test_days) for length in (1, 2)]
    return [Protocol(spec, train_from, train_until, test_from, end, spec.step) for end in ends]


@contextmanager
def history(arguments: argparse.Namespace) -> Iterator[tuple[Database, str]]:
    """The database and the system that were asked for, else those of a synthetic city."""
    if arguments.db:
        database = Database(arguments.db)
        yield database, arguments.system
        database.close()
        return
    with tempfile.TemporaryDirectory() as temporary:
        days = arguments.train_days + 2 * arguments.test_days + 1
        database = store(city(arguments.stations, days), Path(temporary))
        yield database, SYSTEM
        database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", help="address of a database (default: one with a synthetic city)")
    parser.add_argument("--system", default="velib", help="its system")
    parser.add_argument("--stations", type=int, default=300, help="of the synthetic city")
    parser.add_argument("--models", default="persistence_delta,climatology,linear")
    parser.add_argument("--horizons", help="such as 15m,1h (default: the product's)")
    parser.add_argument("--train-from", help="first moment of training (default: the synthetic city's first)")
    parser.add_argument("--train-days", type=int, default=21)
    parser.add_argument("--test-from", help="first origin (default: the end of training)")
    parser.add_argument("--test-days", type=int, default=3, help="L")
    arguments = parser.parse_args()
    if arguments.db and not arguments.train_from:
        parser.error("--db needs --train-from")
    names = arguments.models.split(",")
    with history(arguments) as (database, system):
        print(f"made ready: {peak_gb():.2f} GB")
        print(f"{'days':>5}{'origins':>9}{'load s':>9}{'fit s':>9}{'s/origin':>10}{'peak GB':>9}", flush=True)
        peaks, paces = [], []
        for length, protocol in enumerate(protocols(arguments), start=1):
            begun = time.perf_counter()
            panel = load(database, system, protocol)
            loaded = time.perf_counter()
            result = backtest(panel, names, protocol)
            report(result)
            spent = time.perf_counter() - loaded
            fit = sum(entry.fit_s for entry in result.judged.values())
            peaks.append(peak_gb())
            paces.append((spent - fit) / result.origins)
            print(
                f"{length * arguments.test_days:>5}{result.origins:>9}{loaded - begun:>9.2f}{fit:>9.2f}"
                f"{paces[-1]:>10.4f}{peaks[-1]:>9.2f}",
                flush=True,
            )
            for name, entry in result.judged.items():
                print(f"      {name:<20} fit {entry.fit_s:.2f} s, {entry.predict_s / result.origins:.4f} s an origin")
            del panel, result
    print(f"peak of 2 L / peak of L: {peaks[1] / peaks[0]:.2f}   seconds an origin: {paces[1] / paces[0]:.2f}")


if __name__ == "__main__":
    main()
