"""Quarantine and frozen-feed detection, on simulated feeds whose truth is known."""

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.test_data.polls import snapshot
from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.checks import FreezeDetector, LedgerEntry, SnapshotCheck
from velib_predictor.data.snapshot import Outcome

NOON = datetime(2026, 3, 4, 11, 0, tzinfo=UTC)  # noon in Paris
MINUTE = timedelta(minutes=1)
SETTINGS = CollectorSettings()


def entry(at: datetime, stations: int, changed: int, outcome: Outcome = Outcome.OK, rejected: int = 0) -> LedgerEntry:
    return LedgerEntry(at, outcome, stations, changed, rejected)


# -- quarantine ------------------------------------------------------------------------------------------------


def checked(sizes: list[int], every: timedelta = 15 * MINUTE) -> SnapshotCheck:
    check = SnapshotCheck(SETTINGS)
    for i, size in enumerate(sizes):
        check.observe(entry(NOON - (len(sizes) - i) * every, size, 0))
    return check


@pytest.mark.parametrize(("rejected", "quarantined"), [(9, False), (10, False), (11, True)])
def test_over_ten_percent_unreadable(rejected: int, quarantined: bool) -> None:
    said = snapshot(NOON, {str(i): 1 for i in range(100 - rejected)}, rejected=["bad"] * rejected)
    assert (SnapshotCheck(SETTINGS).reason(said) is not None) is quarantined


@pytest.mark.parametrize(("size", "quarantined"), [(100, False), (80, False), (79, True), (0, True), (150, False)])
def test_fallen_by_over_a_fifth(size: int, quarantined: bool) -> None:
    reason = checked([100] * 20).reason(snapshot(NOON, {str(i): 1 for i in range(size)}))
    assert (reason is not None) is quarantined


def test_an_empty_list_is_quarantined_on_the_first_poll_too() -> None:
    assert SnapshotCheck(SETTINGS).reason(snapshot(NOON, {})) == "the station list is empty"


def test_a_network_that_really_shrank_is_believed_within_a_day() -> None:
    small = snapshot(NOON, {str(i): 1 for i in range(60)})
    assert checked([100] * 96).reason(small)
    assert checked([100] * 60 + [60] * 36).reason(small)
    assert checked([100] * 40 + [60] * 56).reason(small) is None


# -- frozen feeds ----------------------------------------------------------------------------------------------


def paris(every: timedelta, days: float, seed: int, start: datetime = NOON) -> Iterator[LedgerEntry]:
    """A lively network of 1,500 stations: 6 % change a minute by day, 0.3 % at four in the morning."""
    generator = random.Random(seed)
    at = start
    while at < start + timedelta(days=days):
        share = 0.003 + 0.03 * (1 - math.cos(2 * math.pi * (at.hour - 3) / 24))
        expected = 1500 * (1 - math.exp(-share * every.total_seconds() / 60))
        yield entry(at, 1500, round(generator.gauss(expected, math.sqrt(expected))))
        at += every


def run(detector: FreezeDetector, entries: Iterator[LedgerEntry]) -> list[bool]:
    found = []
    for one in entries:
        frozen = detector.is_frozen(one.polled_at, one.stations, one.changed)
        detector.observe(one._replace(outcome=Outcome.FROZEN if frozen else Outcome.OK))
        found.append(frozen)
    return found


@pytest.mark.parametrize("every", [MINUTE, 5 * MINUTE, 15 * MINUTE])
@pytest.mark.parametrize("learned", [True, False])
def test_a_live_network_is_never_frozen_day_or_night(every: timedelta, learned: bool) -> None:
    detector = FreezeDetector("Europe/Paris", SETTINGS)
    if learned:
        detector.learn(paris(every, 3, seed=1, start=NOON - timedelta(days=3)), NOON)
    assert not any(run(detector, paris(every, 2, seed=2)))


@pytest.mark.parametrize("every", [MINUTE, 5 * MINUTE, 15 * MINUTE])
@pytest.mark.parametrize("still_moving", [0, 1, 3])
@pytest.mark.parametrize("learned", [True, False])
def test_a_freeze_by_day_is_found_within_a_quarter_of_an_hour(
    every: timedelta, still_moving: int, learned: bool
) -> None:
    detector = FreezeDetector("Europe/Paris", SETTINGS)
    if learned:
        detector.learn(paris(every, 3, seed=1, start=NOON - timedelta(days=3)), NOON)
    assert not any(run(detector, paris(every, 1 / 24, seed=3)))
    frozen_from = NOON + timedelta(hours=1)
    count = 60 * MINUTE // every
    found = run(detector, iter([entry(frozen_from + i * every, 1500, still_moving) for i in range(count)]))
    first = found.index(True)
    assert (first + 1) * every <= 15 * MINUTE
    assert all(found[first:])
    assert not any(run(detector, paris(every, 1 / 24, seed=4, start=frozen_from + timedelta(hours=1))))


def test_a_freeze_at_night_is_found_once_there_is_evidence() -> None:
    detector = FreezeDetector("Europe/Paris", SETTINGS)
    night = datetime(2026, 3, 5, 2, 30, tzinfo=UTC)
    detector.learn(paris(MINUTE, 3, seed=1, start=NOON - timedelta(days=3)), NOON)
    run(detector, paris(MINUTE, (night - NOON) / timedelta(days=1), seed=5))
    found = run(detector, iter([entry(night + i * MINUTE, 1500, 0) for i in range(60)]))
    assert 14 <= found.index(True) <= 30


def test_silence_proves_nothing_in_a_small_calm_system() -> None:
    """20 stations, five changes an hour: an hour without one happens."""
    detector = FreezeDetector("Europe/Paris", SETTINGS)
    lively = [entry(NOON + i * MINUTE, 20, 1 if i % 12 == 0 else 0) for i in range(240)]
    silent = [entry(NOON + (240 + i) * MINUTE, 20, 0) for i in range(60)]
    assert not any(run(detector, iter(lively + silent)))


def test_the_first_poll_and_the_prior_at_night_accuse_nobody() -> None:
    detector = FreezeDetector(None, SETTINGS)
    midnight = datetime(2026, 3, 4, 0, 0, tzinfo=UTC)
    assert not any(run(detector, iter([entry(midnight + i * 15 * MINUTE, 1500, 0) for i in range(20)])))
