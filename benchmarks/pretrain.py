"""Makes the cold-start model's weights anew: `python benchmarks/pretrain.py ../shared/data [--out FOLDER]`.

Without --out they are put into the package. The same data, seed, torch and processor give the same weights.
`--without SYSTEM` leaves a system out (velib, baywheels, synthetic) or one data set, to see what the model is worth
where it has never been.
"""

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

import velib_predictor.models.coldstart as package
from lessons import lessons
from velib_predictor.models.coldstart.dataset import Lesson
from velib_predictor.models.coldstart.trainer import pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(package.__path__[0]) / "weights")
    parser.add_argument("--without", default="", help="system or data set to leave out")
    parser.add_argument("--times", type=int, default=1, help="so many times the rows")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.process_time()
    taken = [replace(one, rows=one.rows * options.times) for one in lessons(options.data, options.without)]
    for lesson in taken:
        print(f"{lesson.name}: {lesson.rows} rows of {lesson.panel!r}", flush=True)
    about = pretrain(taken, options.out, epochs=options.epochs, seed=options.seed, told={"windows": _windows(taken)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{about['rows']} rows, held-out RPS {about['rps_in_units']} typical changes; "
        f"{time.process_time() - begun:.0f} CPU s, peak memory {peak:.1f} GiB; in {options.out}"
    )


def _windows(taken: list[Lesson]) -> dict[str, list[str | None]]:
    return {lesson.name: [lesson.panel.describe()[tick] for tick in ("first_tick", "last_tick")] for lesson in taken}


if __name__ == "__main__":
    main()
