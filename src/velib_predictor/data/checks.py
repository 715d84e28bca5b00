"""What is believed of a snapshot: quarantine of suspicious ones, and detection of a frozen feed.

Both are functions of the ledger alone, so a replay of the archive comes to the same outcomes.
"""

from collections import deque
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import NamedTuple
from zoneinfo import ZoneInfo

from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.snapshot import Outcome, Snapshot

LEARNING_DAYS = 14
_DAY = timedelta(days=1)
_LONGEST_GAP = timedelta(minutes=30)
"""Counts that moved and came back within a gap are not seen, so a longer one says little more."""
_PRIOR_RATE = 0.001
"""Changes a station and minute by day before anything is learned; Vélib' has 0.06-0.12, Bay Wheels 0.011."""
_ENOUGH_EVIDENCE = 20.0
"""Expected changes below which silence proves nothing: P(at most 2 | 20) is 5e-7."""
_SILENCE = 0.1
"""Share of the expected changes up to which a feed counts as silent: a few stations move in a freeze too."""


class LedgerEntry(NamedTuple):
    """What the checks read of a poll's row in the ledger."""

    polled_at: datetime
    outcome: Outcome
    stations: int
    changed: int
    rejected: int


class SnapshotCheck:
    """Judges whole snapshots against the median station count of the last day."""

    def __init__(self, settings: CollectorSettings) -> None:
        self._settings = settings
        self._sizes: deque[tuple[datetime, int]] = deque()

    def observe(self, entry: LedgerEntry) -> None:
        """Take a ledger row into account. Quarantined ones count too: a network that has really shrunk
        is believed once half a day's polls say so."""
        if size := entry.stations + entry.rejected:
            self._sizes.append((entry.polled_at, size))

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
        while self._sizes and self._sizes[0][0] < snapshot.fetched_at - _DAY:
            self._sizes.popleft()
        if not self._sizes:
            return None
        usual = median(size for _, size in self._sizes)
        if readable + rejected < (1 - self._settings.max_lost) * usual:
            return (
                f"{readable + rejected} stations, the median of the last day is {usual:g} "
                f"(fell by over {self._settings.max_lost:.0%})"
            )
        return None


class FreezeDetector:
    """Tells a feed that serves old counts from a quiet hour.

    A frozen Vélib' portal served the same counts with fresh times for up to a day, one to three stations still moving
    (2024-11-01 to 03). So silence is judged against the number of changes expected since it began: by the hour of the
    local day from the last 14 days; else from the hour before the silence; else by a low prior for daytime.
    """

    def __init__(self, timezone: str | None, settings: CollectorSettings) -> None:
        self._zone = ZoneInfo(timezone or "UTC")
        self._patience = settings.frozen_after
        self._rates: dict[int, float] = {}
        self._learned_on: date | None = None
        self._last: datetime | None = None
        self._before: deque[tuple[float, int]] = deque()  # (station-minutes, changes) of the last lively hour
        self._silent_since: datetime | None = None
        self._expected = 0.0
        self._seen = 0

    def needs_learning(self, at: datetime) -> bool:
        """Whether a new UTC day has begun, so that `learn` should be called with the ledger of the days before."""
        return self._learned_on != at.astimezone(UTC).date()

    def learn(self, entries: Iterable[LedgerEntry], at: datetime) -> None:
        """Set the hourly rates from the ledger rows of the `LEARNING_DAYS` whole UTC days before `at`, in order."""
        exposure, changes = dict.fromkeys(range(24), 0.0), dict.fromkeys(range(24), 0)
        previous: datetime | None = None
        for entry in entries:
            if not entry.outcome.accepted:
                previous = None
                continue
            if previous is not None and entry.polled_at - previous <= _LONGEST_GAP:
                hour = entry.polled_at.astimezone(self._zone).hour
                exposure[hour] += entry.stations * _minutes(entry.polled_at - previous)
                changes[hour] += entry.changed
            previous = entry.polled_at
        self._rates = {hour: changes[hour] / exposure[hour] for hour in exposure if exposure[hour] > 0}
        self._learned_on = at.astimezone(UTC).date()

    def is_frozen(self, polled_at: datetime, stations: int, changed: int) -> bool:
        """Whether a poll with these numbers would be one of a frozen feed. Changes nothing."""
        if self._last is None or changed > _few(stations):
            return False
        since = self._silent_since or self._last
        expected = self._expected + self._expect(polled_at, stations)
        seen = self._seen + changed
        return polled_at - since >= self._patience and expected >= _ENOUGH_EVIDENCE and seen <= expected * _SILENCE

    def observe(self, entry: LedgerEntry) -> None:
        """Take a ledger row into account."""
        if entry.outcome in (Outcome.FAILED, Outcome.MISSED, Outcome.QUARANTINED):
            return
        if self._last is not None:
            if entry.changed <= _few(entry.stations):
                self._silent_since = self._silent_since or self._last
                self._expected += self._expect(entry.polled_at, entry.stations)
                self._seen += entry.changed
            else:
                self._silent_since, self._expected, self._seen = None, 0.0, 0
                self._remember(entry)
        self._last = entry.polled_at

    def _remember(self, entry: LedgerEntry) -> None:
        assert self._last is not None  # noqa: S101 - for the type checker
        gap = min(entry.polled_at - self._last, _LONGEST_GAP)
        self._before.append((max(entry.stations, 1) * _minutes(gap), entry.changed))
        while len(self._before) > 1 and sum(e for e, _ in self._before) > 60 * max(entry.stations, 1):
            self._before.popleft()

    def _expect(self, polled_at: datetime, stations: int) -> float:
        """Changes expected between the poll before and `polled_at`."""
        assert self._last is not None  # noqa: S101 - for the type checker
        return self._rate(polled_at) * stations * _minutes(min(polled_at - self._last, _LONGEST_GAP))

    def _rate(self, at: datetime) -> float:
        """Changes a station and minute."""
        hour = at.astimezone(self._zone).hour
        if hour in self._rates:
            return self._rates[hour]
        if self._before:
            return sum(changes for _, changes in self._before) / sum(exposure for exposure, _ in self._before)
        return _PRIOR_RATE if 7 <= hour < 22 else 0.0


def _few(stations: int) -> int:
    """Stations that may still move in a freeze."""
    return max(3, stations // 500)


def _minutes(duration: timedelta) -> float:
    return duration.total_seconds() / 60
