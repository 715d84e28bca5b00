"""What is believed of a snapshot: quarantine of suspicious ones, and detection of a frozen feed.

Both are functions of the ledger alone, so a replay of the archive comes to the same outcomes.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import NamedTuple
from zoneinfo import ZoneInfo

from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.snapshot import Outcome, Snapshot

LEARNING_DAYS = 14
_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_LONGEST_GAP = timedelta(minutes=30)
"""Counts that moved and came back within a gap are not seen, so a longer one says little more."""
_TOO_LONG = timedelta(minutes=90)
"""A gap that says nothing of the rate: what has changed in it belongs to no hour."""
_LEAST_MINUTES = 29.0
"""Time over which a rate must have been seen: half an hour, less the jitter of polls."""
_RECENT = timedelta(hours=2)
"""How long the hour before a silence speaks for what should be heard in it."""
_BELIEVED = timedelta(days=2)
"""A longer silence is believed: the season is over."""
_REPLAYED = timedelta(days=3)
"""How far back a silence is followed over midnight: further than `_BELIEVED`."""
_DAY_HOURS = range(9, 20)
"""Local hours in which a network does not rest."""
_PRIOR_RATE, _LARGE = 0.001, 500
"""Changes a station and minute by day, in a network of so many stations: Vélib' has 0.06-0.12, Bay Wheels 0.011."""
_LAST_DAYS = 3
"""Quiet days in a row that are believed."""
_ENOUGH_EVIDENCE = 30.0
"""Expected changes below which silence proves nothing: P(at most 3 | 30) is 5e-10, on a day half as lively 2e-4."""
_SILENCE = 0.1
"""Share of the expected changes up to which a feed counts as silent: a few stations move in a freeze too."""
_JITTER = timedelta(seconds=30)
"""Polls come a little early or late."""


class LedgerEntry(NamedTuple):
    """What the checks read of a poll's row in the ledger."""

    polled_at: datetime
    outcome: Outcome
    stations: int
    changed: int
    rejected: int


class SnapshotCheck:
    """Judges whole snapshots against the median station count of the day up to the last one that had stations."""

    def __init__(self, settings: CollectorSettings) -> None:
        self._settings = settings
        self._sizes: deque[tuple[datetime, int]] = deque()

    def observe(self, entry: LedgerEntry) -> None:
        """Take a ledger row into account. Quarantined ones count too: a network that has really shrunk
        is believed once half a day's polls say so. Polls without an answer leave the last sizes standing."""
        if size := entry.stations + entry.rejected:
            self._sizes.append((entry.polled_at, size))
            while self._sizes[0][0] < entry.polled_at - _DAY:
                self._sizes.popleft()

    def reason(self, snapshot: Snapshot) -> str | None:
        """Why `snapshot` must be quarantined, or None."""
        readable, rejected = len(snapshot.stations), len(snapshot.rejected)
        if not readable and not rejected:
            return "the station list is empty"
        if rejected > self._settings.max_rejected * (readable + rejected):
            return (
                f"{rejected} of {readable + rejected} station records are unreadable "
                f"(over {self._settings.max_rejected:.0%}), such as: {snapshot.rejected[0]}"
            )
        if not self._sizes:
            return None
        usual = median(size for _, size in self._sizes)
        if readable + rejected < (1 - self._settings.max_lost) * usual:
            return (
                f"{readable + rejected} stations, the median of the last day is {usual:g} "
                f"(fell by over {self._settings.max_lost:.0%})"
            )
        return None


class _Interval(NamedTuple):
    """What was seen from one poll to the next."""

    end: datetime
    minutes: float
    exposure: float  # station-minutes
    changed: int
    doubtful: bool  # one of the two was called frozen


class _Silence(NamedTuple):
    """Polls in a row at which hardly anything changed, and the changes expected in it."""

    since: datetime
    rate_before: float | None  # changes a station and minute in the hour before
    lasting: float = 0.0  # expected by the rates of the hours
    recent: float = 0.0  # expected by the rate before, in hours that have none
    seen: int = 0

    def expected(self, at: datetime) -> float:
        return self.lasting + (self.recent if at - self.since <= _RECENT else 0.0)


class FreezeDetector:
    """Tells a feed that serves old counts from a quiet hour.

    A frozen Vélib' portal served the same counts with fresh times for up to a day, one to three stations still moving
    (2024-11-01 to 03). So silence is judged against the number of changes expected since it began.

    By the learned rate of the local hour: that of the median day, but no more than the liveliest of the last three days
    or of the last two of that weekday. By day a poll that was called frozen counts only among those three and two:
    a day's freeze must not teach that silence is normal. At night it counts like all others: who closes at night is
    accused in the first night and not again. An hour beside a quieter one is taken to be as quiet, since networks close
    at half past and clocks go back.

    In an hour without a learned rate: by the hour before the silence, for two hours; and by day, in a large network, by
    a low prior.
    """

    def __init__(self, timezone: str | None, settings: CollectorSettings) -> None:
        self._zone = ZoneInfo(timezone or "UTC")
        self._day_hours = _DAY_HOURS if timezone else range(0)
        self._patience = settings.frozen_after - _JITTER
        self._rates: dict[tuple[int, int], float] = {}  # (weekday, hour) -> changes a station and minute
        self._learned_on: date | None = None
        self._last: LedgerEntry | None = None
        self._hour: deque[_Interval] = deque()  # the last one
        self._silence: _Silence | None = None

    def needs_learning(self, at: datetime) -> bool:
        """Whether a new UTC day has begun, so that `learn` should be called with the ledger of the days before."""
        return self._learned_on != at.astimezone(UTC).date()

    def learn(self, entries: Iterable[LedgerEntry], at: datetime) -> None:
        """Set the hourly rates from the ledger rows of the `LEARNING_DAYS` whole UTC days before `at`, in order.

        What was observed until then is forgotten and taken from those rows too: from here on the state depends on them
        and on what is observed since alone, in a process that runs on as in one that has just started.
        """
        entries, today = list(entries), at.astimezone(UTC).date()
        hours: dict[int, dict[date, list[_Interval]]] = {}
        self._forget()
        for entry in entries:
            if interval := self._interval(entry):
                local = (interval.end - interval.minutes / 2 * _MINUTE).astimezone(self._zone)
                hours.setdefault(local.hour, {}).setdefault(local.date(), []).append(interval)
            self._last = entry if _answered(entry) else self._last
        self._rates = {}
        for hour, days in hours.items():
            rates = _weekday_rates(days, believe_all=hour not in self._day_hours)
            self._rates.update({(weekday, hour): rate for weekday, rate in rates.items()})
        self._learned_on = today
        self._forget()
        for entry in entries:
            if entry.polled_at.astimezone(UTC).date() >= today - _REPLAYED:
                self.observe(entry)

    def is_frozen(self, polled_at: datetime, stations: int, changed: int) -> bool:
        """Whether a poll with these numbers would be one of a frozen feed. Changes nothing."""
        silence = self._silence_at(LedgerEntry(polled_at, Outcome.OK, stations, changed, 0))
        if silence is None:
            return False
        expected = silence.expected(polled_at)
        lasted = self._patience <= polled_at - silence.since <= _BELIEVED
        return lasted and expected >= _ENOUGH_EVIDENCE and silence.seen <= expected * _SILENCE

    def observe(self, entry: LedgerEntry) -> None:
        """Take a ledger row into account."""
        if not _answered(entry):
            return
        self._silence = self._silence_at(entry)
        if interval := self._interval(entry):
            self._hour.append(interval)
        while self._hour and self._hour[0].end <= entry.polled_at - _HOUR:
            self._hour.popleft()
        self._last = entry

    def _forget(self) -> None:
        self._last, self._silence = None, None
        self._hour.clear()

    def _silence_at(self, entry: LedgerEntry) -> _Silence | None:
        """The silence as it stands with a poll taken into account. None: the feed is lively."""
        few = max(3, entry.stations // 500)  # so many may still move in a freeze
        if self._last is None or entry.changed > few:
            return None
        silence = self._silence or _Silence(self._last.polled_at, _rate(self._hour))
        gap = min(entry.polled_at - self._last.polled_at, _LONGEST_GAP)
        lasting, recent = self._rates_at(entry.polled_at - gap / 2, entry.stations, silence.rate_before)
        exposure = entry.stations * gap / _MINUTE
        silence = silence._replace(
            lasting=silence.lasting + exposure * lasting,
            recent=silence.recent + exposure * recent,
            seen=silence.seen + entry.changed,
        )
        return None if silence.seen > max(few, silence.expected(entry.polled_at) * _SILENCE) else silence

    def _rates_at(self, at: datetime, stations: int, before: float | None) -> tuple[float, float]:
        """Changes a station and minute to expect at a time: for good, and for a while after a rate `before`."""
        local, *beside = [(at + shift).astimezone(self._zone) for shift in (timedelta(0), -_HOUR, _HOUR)]
        by_day = local.hour in self._day_hours
        own = self._rates.get((local.weekday(), local.hour))
        around = [self._rates.get((other.weekday(), other.hour)) for other in beside]
        if own is not None:  # at night nobody is accused next to an hour of which nothing is known
            return min(own, *(own if rate is None and by_day else rate or 0.0 for rate in around)), 0.0
        quietest = min((rate for rate in (before, *around) if rate is not None), default=math.inf)
        prior = _PRIOR_RATE if by_day and stations >= _LARGE else 0.0
        return min(quietest, prior), quietest if before is not None else 0.0

    def _interval(self, entry: LedgerEntry) -> _Interval | None:
        """What an entry tells of the rate of changes, if anything."""
        last = self._last
        if last is None or not _answered(entry) or entry.polled_at - last.polled_at > _TOO_LONG:
            return None
        minutes = min(entry.polled_at - last.polled_at, _LONGEST_GAP) / _MINUTE
        doubtful = Outcome.FROZEN in (entry.outcome, last.outcome)
        return _Interval(entry.polled_at, minutes, entry.stations * minutes, entry.changed, doubtful)


def _answered(entry: LedgerEntry) -> bool:
    """Whether the feed said something that counts."""
    return entry.outcome.accepted or entry.outcome is Outcome.FROZEN


def _rate(intervals: Collection[_Interval]) -> float | None:
    """Changes a station and minute; None if under half an hour was seen."""
    exposure = sum(interval.exposure for interval in intervals)
    if not exposure or sum(interval.minutes for interval in intervals) < _LEAST_MINUTES:
        return None
    return sum(interval.changed for interval in intervals) / exposure


def _weekday_rates(days: Mapping[date, Collection[_Interval]], *, believe_all: bool) -> dict[int, float]:
    """The rate to expect in one hour of each weekday, from that hour of the days before; none if they do not say."""
    told = {day: rate for day, intervals in days.items() if (rate := _rate(intervals)) is not None}
    sure = [_rate([i for i in intervals if believe_all or not i.doubtful]) for intervals in days.values()]
    always = [median(known)] if (known := [rate for rate in sure if rate is not None]) else []
    if len(told) >= _LAST_DAYS:
        always.append(max(list(told.values())[-_LAST_DAYS:]))
    rates = {}
    for weekday in range(7):
        same = [rate for day, rate in told.items() if day.weekday() == weekday]
        if limits := [*always, *([max(same)] if len(same) > 1 else [])]:
            rates[weekday] = min(limits)
    return rates
