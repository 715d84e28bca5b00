"""Which spells of a history of whole-network snapshots the freeze detector would have called frozen as it went on.

Nothing is known afterwards that was not known then. Compare the spells with what is known of the feed.

    python benchmarks/bench_freeze.py STATUS.parquet [--timezone Europe/Paris]
"""

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.parquet as pq

from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.checks import FreezeDetector, LedgerEntry
from velib_predictor.data.snapshot import Outcome


def ledger(status: Path, timezone: str) -> list[LedgerEntry]:
    """One entry a snapshot, with the outcome that the detector gives it."""
    table = pq.read_table(status, columns=["station_id", "observed_at", "bikes", "docks"])
    micros, poll = np.unique(table["observed_at"].cast("int64").to_numpy(), return_inverse=True)
    names, station = np.unique(table["station_id"].to_numpy(), return_inverse=True)
    counts = np.full((len(micros), len(names), 2), -1)  # [poll, station, bikes and docks]
    for channel, name in enumerate(("bikes", "docks")):
        counts[poll, station, channel] = table[name].fill_null(-1).to_numpy()
    changed = (np.diff(counts, axis=0, prepend=-2) != 0).any(axis=2).sum(axis=1)
    present = (counts[:, :, 0] >= 0).sum(axis=1)
    detector = FreezeDetector(timezone, CollectorSettings())
    entries: list[LedgerEntry] = []
    for at_us, stations, moved in zip(micros.tolist(), present.tolist(), changed.tolist(), strict=True):
        at = datetime.fromtimestamp(at_us / 1e6, UTC)
        if detector.needs_learning(at):
            detector.learn([entry for entry in entries if entry.polled_at.date() < at.date()], at)
        frozen = detector.is_frozen(at, stations, moved)
        entry = LedgerEntry(at, Outcome.FROZEN if frozen else Outcome.OK, stations, moved, 0)
        detector.observe(entry)
        entries.append(entry)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("status", type=Path)
    parser.add_argument("--timezone", default="Europe/Paris")
    options = parser.parse_args()
    entries = ledger(options.status, options.timezone)
    spells: list[list[datetime]] = []
    for entry in entries:
        if entry.outcome is Outcome.FROZEN:
            if spells and entry.polled_at - spells[-1][1] <= timedelta(minutes=20):
                spells[-1][1] = entry.polled_at
            else:
                spells.append([entry.polled_at, entry.polled_at])
    zone = ZoneInfo(options.timezone)
    print(f"{len(entries)} snapshots, {sum(entry.outcome is Outcome.FROZEN for entry in entries)} called frozen:")
    for first, last in spells:
        print(f"  {first.astimezone(zone):%Y-%m-%d %H:%M} to {last.astimezone(zone):%H:%M}")


if __name__ == "__main__":
    main()
