"""Quarantine and frozen-feed detection, on simulated feeds whose truth is known."""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from tests.test_data.polls import snapshot
from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.checks import LEARNING_DAYS, FreezeDetector, LedgerEntry, SnapshotCheck
from velib_predictor.data.snapshot import Outcome

NOON = datetime(2026, 3, 4, 11, 0, tzinfo=UTC)  # noon in Paris
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PARIS = ZoneInfo("Europe/Paris")
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


@pytest.mark.parametrize("in_between", [None, Outcome.FAILED, Outcome.MISSED])
def test_after_a_day_without_answers_the_last_sizes_still_count(in_between: Outcome | None) -> None:
    check = checked([1000] * 96)
    if in_between:
        check.observe(entry(NOON + 24 * HOUR, 0, 0, in_between))
    later = NOON + 25 * HOUR
    assert check.reason(snapshot(later, {"1": 1}))
    check.observe(entry(later, 1, 0, Outcome.QUARANTINED))
    assert check.reason(snapshot(later + MINUTE, {"1": 1})) is None  # the last day says so now


def test_sizes_are_forgotten_after_a_day_whatever_becomes_of_the_polls() -> None:
    assert len(checked([100] * 1_000)._sizes) <= 97


# -- frozen feeds ----------------------------------------------------------------------------------------------


def paris(every: timedelta, days: float, seed: int, start: datetime = NOON) -> Iterator[LedgerEntry]:
    """A lively network of 1,500 stations: 6 % change a minute by day, 0.3 % at four in the morning."""
    generator = random.Random(seed)
    for i in range(round(days * DAY / every)):
        at = start + i * every
        share = 0.003 + 0.03 * (1 - math.cos(2 * math.pi * (at.hour - 3) / 24))
        expected = 1500 * (1 - math.exp(-share * (every / MINUTE)))
        yield entry(at, 1500, round(generator.gauss(expected, math.sqrt(expected))))


Rate = Callable[[datetime], float]  # changes a station and minute, by local time


class Watch:
    """A detector fed as the store feeds it: learning at each UTC midnight."""

    def __init__(self, zone: str | None = "Europe/Paris") -> None:
        self.zone = zone
        self.detector = FreezeDetector(zone, SETTINGS)
        self.ledger: list[LedgerEntry] = []

    def see(self, entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
        """Judge, learn and observe; the entries as they were judged."""
        start = len(self.ledger)
        for one in entries:
            self._learn(one.polled_at)
            if one.outcome.accepted and self.detector.is_frozen(one.polled_at, one.stations, one.changed):
                one = one._replace(outcome=Outcome.FROZEN)
            self.ledger.append(one)
            self.detector.observe(one)
        return self.ledger[start:]

    def restart(self) -> None:
        """Open a new detector, from the last day of the ledger and what `learn` is given."""
        self.detector = FreezeDetector(self.zone, SETTINGS)
        for one in [one for one in self.ledger if one.polled_at >= self.ledger[-1].polled_at - DAY]:
            self._learn(one.polled_at)
            self.detector.observe(one)

    def _learn(self, at: datetime) -> None:
        if self.detector.needs_learning(at):
            midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
            days = (one for one in self.ledger if midnight - LEARNING_DAYS * DAY <= one.polled_at < midnight)
            self.detector.learn(days, at)


def network(
    stations: int, rate: Rate, every: timedelta, duration: timedelta, start: datetime = NOON, zone: str = "Europe/Paris"
) -> Iterator[LedgerEntry]:
    """Stations that change independently of each other."""
    generator, local = random.Random(stations), ZoneInfo(zone)
    for i in range(duration // every):
        at = start + i * every
        share = 1 - math.exp(-rate((at - every / 2).astimezone(local)) * (every / MINUTE))
        yield entry(at, stations, sum(generator.random() < share for _ in range(stations)))


def quiet(size: int, every: timedelta, start: datetime, duration: timedelta, changed: int = 0) -> Iterator[LedgerEntry]:
    return (entry(start + i * every, size, changed) for i in range(duration // every))


def accused(entries: Iterable[LedgerEntry], since: datetime = NOON) -> list[datetime]:
    return [one.polled_at for one in entries if one.outcome is Outcome.FROZEN and one.polled_at >= since]


def shut(rate: float, closes: float, opens: float, at_night: float = 0.0) -> Rate:
    """A network that closes for a part of the night."""
    return lambda local: at_night if closes <= local.hour + local.minute / 60 < opens else rate


EVERY = pytest.mark.parametrize("every", [MINUTE, 5 * MINUTE, 15 * MINUTE])


@EVERY
def test_a_live_network_is_never_frozen_day_or_night(every: timedelta) -> None:
    assert accused(Watch().see(paris(every, 4, seed=2))) == []


@EVERY
@pytest.mark.parametrize("still_moving", [0, 1, 3])
@pytest.mark.parametrize("days", [1 / 24, 3])
def test_a_freeze_by_day_is_found_within_a_quarter_of_an_hour(every: timedelta, still_moving: int, days: float) -> None:
    watch = Watch()
    watch.see(paris(every, days, seed=1))
    start = NOON + days * DAY
    polls = watch.see(quiet(1500, every, start, HOUR, still_moving))
    assert accused(polls)[0] + every - start <= 15 * MINUTE
    assert accused(polls) == [one.polled_at for one in polls[-len(accused(polls)) :]]
    assert accused(watch.see(paris(every, 1 / 24, seed=4, start=start + HOUR))) == []


def test_a_freeze_at_night_is_found_once_there_is_evidence() -> None:
    watch = Watch()
    night = NOON + 3 * DAY + 15.5 * HOUR
    watch.see(paris(MINUTE, (night - NOON) / DAY, seed=1))
    assert 14 * MINUTE <= accused(watch.see(quiet(1500, MINUTE, night, HOUR)))[0] - night <= 30 * MINUTE


def test_the_first_polls_at_night_accuse_nobody() -> None:
    assert accused(Watch(None).see(quiet(1500, 15 * MINUTE, NOON - 11 * HOUR, 5 * HOUR)), NOON - DAY) == []


@pytest.mark.parametrize("every", [5 * MINUTE, 15 * MINUTE])
@pytest.mark.parametrize(
    ("stations", "rate"),
    [(200, shut(0.02, 0, 6)), (200, shut(0.02, 0.5, 5.75)), (300, shut(0.02, 0, 6, 0.0002)), (60, shut(0.02, 0, 6))],
)
@pytest.mark.parametrize("zone", ["Europe/Paris", "America/Los_Angeles"])
def test_who_rests_at_night_is_accused_once(stations: int, rate: Rate, every: timedelta, zone: str) -> None:
    polls = Watch(zone).see(network(stations, rate, every, 4 * DAY, zone=zone))
    assert accused(polls, NOON + DAY) == []
    assert len(accused(polls)) * every <= 2 * HOUR


def test_clocks_that_are_put_forward_wake_no_suspicion() -> None:
    """In a feed that does not tell its zone, the closing hour shifts with the clocks (in Paris on 2026-03-29)."""
    polls = Watch(None).see(network(200, shut(0.02, 0, 6), 15 * MINUTE, 9 * DAY, start=NOON + 20 * DAY))
    assert accused(polls, NOON + 21 * DAY) == []


@pytest.mark.parametrize("every", [MINUTE, 15 * MINUTE])
@pytest.mark.parametrize(("stations", "rate"), [(20, 0.004), (40, 0.02), (100, 0.01)])
def test_a_small_network_is_not_accused(stations: int, rate: float, every: timedelta) -> None:
    assert accused(Watch().see(network(stations, lambda _: rate, every, 10 * DAY))) == []


@EVERY
@pytest.mark.parametrize("days", [1, 4])
def test_a_freeze_of_a_small_network_is_found_within_the_hour(every: timedelta, days: int) -> None:
    watch = Watch()
    watch.see(network(100, lambda _: 0.01, every, days * DAY))
    start = NOON + days * DAY
    assert accused(watch.see(quiet(100, every, start, 6 * HOUR)))[0] + every - start <= HOUR


@pytest.mark.parametrize("every", [MINUTE, 15 * MINUTE])
def test_polls_that_come_a_moment_early_are_judged_as_if_on_time(every: timedelta) -> None:
    watch = Watch()
    watch.see(paris(every, 0.25, seed=1))
    start = NOON + 6 * HOUR
    assert accused(watch.see(quiet(1500, every, start - MINUTE / 12, HOUR)))[0] < start + 14 * MINUTE


def test_the_end_of_the_season_is_believed_within_two_days() -> None:
    watch = Watch()
    watch.see(network(200, shut(0.02, 0, 6), 15 * MINUTE, 5 * DAY))
    closed = NOON + 5 * DAY
    times = accused(watch.see(quiet(200, 15 * MINUTE, closed, 60 * DAY)))
    assert times[0] - closed <= HOUR
    assert times[-1] - closed <= 2 * DAY


def test_a_network_that_rests_on_sundays_is_believed_after_two_of_them() -> None:
    polls = Watch().see(network(100, lambda at: 0 if at.weekday() == 6 else 0.02, 15 * MINUTE, 19 * DAY))
    assert accused(polls)
    assert accused(polls, datetime(2026, 3, 21, 23, tzinfo=UTC)) == []  # from midnight in Paris


@pytest.mark.parametrize("every", [5 * MINUTE, 15 * MINUTE])
@pytest.mark.parametrize("days", [1, 3])
def test_a_freeze_of_a_whole_day_does_not_teach_that_silence_is_normal(every: timedelta, days: int) -> None:
    watch = Watch()
    watch.see(paris(every, days, seed=1))
    frozen_from = NOON + days * DAY
    polls = watch.see(quiet(1500, every, frozen_from, DAY + 6 * HOUR))
    first = next(i for i, one in enumerate(polls) if one.outcome is Outcome.FROZEN)
    assert (first + 1) * every <= 15 * MINUTE
    assert all(one.outcome is Outcome.FROZEN for one in polls[first:])
    assert accused(watch.see(paris(every, 0.9, seed=2, start=frozen_from + DAY + 6 * HOUR))) == []
    again = NOON + (days + 3) * DAY
    watch.see(paris(every, 0.25, seed=3, start=again - 6 * HOUR))
    assert accused(watch.see(quiet(1500, every, again, HOUR)))[0] + every - again <= 15 * MINUTE


def test_a_large_network_that_is_silent_by_day_from_the_first_poll_is_frozen() -> None:
    """Vélib' portal, 2024-11-01: the first day that was polled in the morning was frozen all day."""
    polls = Watch().see(quiet(1485, 5 * MINUTE, NOON, 8 * HOUR))
    assert accused(polls)[0] - NOON <= 30 * MINUTE
    assert len(accused(polls)) > 80
    assert accused(Watch().see(quiet(300, 5 * MINUTE, NOON, 20 * HOUR))) == []


def test_a_detector_opened_anew_before_every_poll_says_the_same() -> None:
    generator = random.Random(1)
    polls = list(network(120, shut(0.03, 0, 6), 15 * MINUTE, 2 * DAY))
    polls += quiet(120, 15 * MINUTE, NOON + 2 * DAY, 30 * HOUR)
    polls += network(120, shut(0.03, 0, 6), 15 * MINUTE, DAY, start=NOON + 2 * DAY + 30 * HOUR)
    polls = [one._replace(outcome=Outcome.FAILED, stations=0) if generator.random() < 0.05 else one for one in polls]
    through, anew = Watch(), Watch()
    through.see(polls)
    for one in polls:
        anew.see([one])
        anew.restart()
    assert len(accused(through.ledger)) > 100
    assert anew.ledger == through.ledger


VELIB_FROZEN = [  # Paris time, from the notes on the data
    ("2024-11-01 09:50", "2024-11-01 23:59"),
    ("2024-11-02 11:35", "2024-11-02 12:45"),
    ("2024-11-02 14:15", "2024-11-02 18:30"),
    ("2024-11-03 11:50", "2024-11-03 13:00"),
    ("2024-11-03 17:35", "2024-11-03 19:35"),
    ("2024-11-04 10:05", "2024-11-04 10:20"),
]


def test_the_freezes_of_the_velib_portal_are_found_and_nothing_else(shared_data: Path) -> None:
    columns = ["observed_at", "station_id", "bikes"]
    table = pq.read_table(shared_data / "velib_2024_11" / "status.parquet", columns=columns)
    said: dict[datetime, dict[str, int]] = {}
    for at, station, bikes in zip(*(column.to_pylist() for column in table.columns), strict=True):
        said.setdefault(at.astimezone(UTC), {})[station] = bikes
    pairs = pairwise(sorted(said.items()))
    polls = [entry(at, len(now), len(now.items() - before.items())) for (_, before), (at, now) in pairs]
    found = set(accused(Watch().see(polls), polls[0].polled_at))
    spells = [[datetime.fromisoformat(text).replace(tzinfo=PARIS) for text in spell] for spell in VELIB_FROZEN]
    assert all(any(start <= at <= end for start, end in spells) for at in found)
    for start, end in spells:
        assert {one.polled_at for one in polls if start + 25 * MINUTE <= one.polled_at <= end} <= found
