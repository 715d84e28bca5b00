"""Writes polls into the database: station rows, station versions and the ledger row, in one transaction a poll.

What is written is a function of the archived polls and of what the database held before them: replaying an archive into
an empty database gives the same rows again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from velib_predictor.config.config import CollectorSettings, SystemSettings
from velib_predictor.data.checks import LEARNING_DAYS, FreezeDetector, LedgerEntry, SnapshotCheck
from velib_predictor.data.database import Database
from velib_predictor.data.raw import STATUS, DecodeError, RawPoll
from velib_predictor.data.rows import (
    Row,
    insert_missing_rows,
    insert_poll,
    insert_rows,
    last_answered_at,
    last_poll,
    last_rows,
    next_accepted_poll,
    polls,
)
from velib_predictor.data.schema import System
from velib_predictor.data.snapshot import UNKNOWN, Outcome, Snapshot, StationInfo, Values
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.utils.logger import redact_text
from velib_predictor.utils.temporal import MICROSECOND

_DAY = timedelta(days=1)
Decoded = Snapshot | DecodeError | None
"""What a poll decodes to; why it does not; None where there was nothing to decode."""


class Store:
    """The one writer of a system's polls.

    Args:
        system: its settings; None for a system that is only replayed.
    """

    def __init__(
        self, database: Database, system_id: str, system: SystemSettings | None, settings: CollectorSettings
    ) -> None:
        self._database = database
        self._system_id = system_id
        self._system = system
        self._settings = settings
        self.last_detail: str | None = None
        """The ledger's remark on the poll that was recorded last."""
        with database.write() as connection:
            self._key = ensure_system(
                connection,
                system_id,
                name=system.name if system else None,
                timezone=system.timezone if system else None,
                licence=system.licence if system else None,
                attribution=system.attribution if system else None,
            )
        self.reload()

    def reload(self, before: datetime | None = None) -> None:
        """Read all that the next poll is judged against, as it stands now or stood before a time.

        Needed after a `record` that raised, since half of what it learned may not be stored.
        """
        with self._database.read() as connection:
            self._book = StationBook(connection, self._key)
            self._state: dict[int, Values] = {}
            self._unknown_since: dict[int, datetime] = {}
            for row in last_rows(connection, self._key, before):
                self._remember(row)
            self._last = last_poll(connection, self._key, before)
            newest = last_poll(connection, self._key)
            self._newest = newest.polled_at if newest else None
            zone = connection.execute(select(System.timezone).where(System.key == self._key)).scalar_one()
            self._check = SnapshotCheck(self._settings)
            self._freeze = FreezeDetector(zone, self._settings)
            self._accepted_at: datetime | None = None
            self._in_doubt = False
            answered_at = last_answered_at(connection, self._key, before)
            if answered_at:  # a day of it, so that an outage of days does not make the checks forget
                for entry in polls(connection, self._key, answered_at - _DAY, before):
                    self._learn(connection, entry.polled_at)
                    self._observe(entry)
        self._information: Sequence[StationInfo] | None = None

    @property
    def last_polled_at(self) -> datetime | None:
        """The newest poll in the ledger."""
        return self._newest

    def known_polls(self, since: datetime | None) -> set[datetime]:
        """The times of the polls in the ledger from a time on."""
        with self._database.read() as connection:
            return {entry.polled_at for entry in polls(connection, self._key, since)}

    def record(self, poll: RawPoll, decoded: Decoded) -> LedgerEntry:
        """Store one poll: its rows and its line in the ledger, or neither.

        A poll that lies before the newest one is fitted in: its rows are those that it would have written then, and the
        accepted poll after it gets a row for each station whose value it must not inherit.

        Raises:
            DatabaseError: nothing was stored; call `reload` before the next `record`.
        """
        at = poll.polled_at
        if not self._stands_before(at):
            self.reload(before=at)
        late = self._newest is not None and at < self._newest
        with self._database.write() as connection:
            self._learn(connection, at)
            entry, rows, detail = self._judge(connection, poll, decoded, late)
            self.last_detail = redact_text(detail) if detail else None
            insert_rows(connection, rows)
            status = poll.document(STATUS)
            insert_poll(
                connection,
                self._key,
                entry,
                detail=self.last_detail,
                feed_time=decoded.feed_time if isinstance(decoded, Snapshot) else None,
                content=status.sha256 if status else None,
            )
            if late:
                self._keep_later_polls(connection, rows, at)
        for row in rows:
            self._remember(row)
        self._last = entry
        self._newest = max(at, self._newest or at)
        self._observe(entry)
        return entry

    def _stands_before(self, at: datetime) -> bool:
        """Whether what is held in memory is the state of just before a time."""
        if self._newest is None:
            return True
        if self._last is None or at <= self._last.polled_at:
            return False
        if self._last.polled_at == self._newest:
            return True
        with self._database.read() as connection:
            return not polls(connection, self._key, self._last.polled_at + MICROSECOND, at)

    # -- judging one poll -----------------------------------------------------------------------------------

    def _judge(
        self, connection: Connection, poll: RawPoll, decoded: Decoded, late: bool
    ) -> tuple[LedgerEntry, list[Row], str | None]:
        """The ledger entry of a poll, the station rows that it writes, and the ledger's remark."""
        at = poll.polled_at
        if not isinstance(decoded, Snapshot) or poll.clock_step_s is not None:
            outcome = Outcome.MISSED if poll.missed else Outcome.FAILED
            return LedgerEntry(at, outcome, 0, 0, 0), [], _failure(poll, decoded)
        stations, rejected = len(decoded.stations), len(decoded.rejected)
        if reason := self._check.reason(decoded):
            return LedgerEntry(at, Outcome.QUARANTINED, stations, 0, rejected), [], reason
        self._register(connection, decoded)
        if not late:  # what was missing then may be back since
            self._retire(connection, decoded)
        rows, changed = self._rows(decoded)
        remarks = _remarks(poll, decoded)
        status = poll.document(STATUS)
        outcome = Outcome.NOT_MODIFIED if status and status.status == 304 else Outcome.OK
        if self._freeze.is_frozen(at, stations, changed):
            outcome = Outcome.FROZEN
            remarks.insert(0, "far fewer stations changed than expected at this hour: the counts may be old")
            rows = [row for row in rows if row.values != self._state.get(row.station_key)]
        return LedgerEntry(at, outcome, stations, changed, rejected), rows, "; ".join(remarks) or None

    def _rows(self, snapshot: Snapshot) -> tuple[list[Row], int]:
        """The rows to write (changed, newly unknown, at a checkpoint all) and how many of them are changes."""
        at, checkpoint = snapshot.fetched_at, self._is_checkpoint(snapshot.fetched_at)
        state, by_id = self._state, self._book.by_id
        rows: list[Row] = []
        seen: set[int] = set()
        changed = 0
        for station in snapshot.stations:
            key = by_id(station.station_id)
            if key is None:  # the portal knows stations by their codes alone
                key = self._book.resolve(station.station_id)
            if key is None or key in seen:
                continue  # one record under the id and one under the code: the first holds
            seen.add(key)
            differs = state.get(key) != station.values
            changed += differs
            if differs or checkpoint:
                rows.append(Row(key, at, station.values, station.last_reported))
        for key, values in state.items():
            if key not in seen and values != UNKNOWN:
                rows.append(Row(key, at, UNKNOWN, None))
                changed += 1
        return rows, changed

    def _is_checkpoint(self, at: datetime) -> bool:
        """The first accepted poll of an hour, and the first after one whose answer was not believed."""
        return self._accepted_at is None or self._in_doubt or _hour(self._accepted_at) != _hour(at)

    def _register(self, connection: Connection, snapshot: Snapshot) -> None:
        """Bring station identities and versions up to date, where the snapshot tells something new."""
        infos: list[StationInfo] = []
        if snapshot.information and snapshot.information is not self._information:
            infos.extend(snapshot.information)
            self._information = snapshot.information
            if snapshot.system:
                self._describe_system(connection, snapshot)
        described = {info.station_id for info in infos}
        present = {station.station_id for station in snapshot.stations}
        infos.extend(
            # The portal's stations go by their codes: such a name is no news of the station's id.
            StationInfo(station.station_id, None if station.code == station.station_id else station.code)
            for station in snapshot.stations
            if self._book.by_id(station.station_id) is None and station.station_id not in described
        )
        if infos:
            self._book.register(connection, infos, snapshot.fetched_at, claimed=present)

    def _describe_system(self, connection: Connection, snapshot: Snapshot) -> None:
        """Take name and zone from the feed where the settings leave them open."""
        assert snapshot.system is not None  # noqa: S101 - for the type checker
        ensure_system(
            connection,
            self._system_id,
            name=None if self._system and self._system.name else snapshot.system.name,
            timezone=None if self._system and self._system.timezone else snapshot.system.timezone,
        )

    def _retire(self, connection: Connection, snapshot: Snapshot) -> None:
        """Close the versions of stations that have been away, from status and information, for long enough."""
        gone = [
            key
            for key, since in self._unknown_since.items()
            if snapshot.fetched_at - since > self._settings.missing_after
        ]
        if gone:
            named = {self._book.resolve(info.station_id) for info in snapshot.information}
            for key in gone:
                if key not in named:
                    self._book.vanish(connection, [key], self._unknown_since[key])

    def _learn(self, connection: Connection, at: datetime) -> None:
        """Let the detector learn from the days before, whenever a new day has begun."""
        if self._freeze.needs_learning(at):
            midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            self._freeze.learn(polls(connection, self._key, midnight - LEARNING_DAYS * _DAY, midnight), at)

    def _observe(self, entry: LedgerEntry) -> None:
        self._check.observe(entry)
        self._freeze.observe(entry)
        if entry.outcome.accepted:
            self._accepted_at, self._in_doubt = entry.polled_at, False
        elif entry.outcome in (Outcome.FROZEN, Outcome.QUARANTINED):
            self._in_doubt = True

    def _remember(self, row: Row) -> None:
        self._state[row.station_key] = row.values
        if row.values == UNKNOWN:
            self._unknown_since.setdefault(row.station_key, row.observed_at)
        else:
            self._unknown_since.pop(row.station_key, None)

    def _keep_later_polls(self, connection: Connection, rows: Sequence[Row], at: datetime) -> None:
        """Unchanged at a later poll means: as before that poll. A row fitted in must not change what that says."""
        after = next_accepted_poll(connection, self._key, at)
        if after is not None:
            changed = (row.station_key for row in rows if self._state.get(row.station_key) != row.values)
            kept = (Row(key, after, self._state.get(key, UNKNOWN), None) for key in changed)
            insert_missing_rows(connection, kept)


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _failure(poll: RawPoll, decoded: Decoded) -> str:
    if poll.clock_step_s is not None:
        return f"clock_step: the wall clock jumped by {poll.clock_step_s:+.1f} s; the time of this answer is not known"
    return str(poll.error or decoded or "no status document")


def _remarks(poll: RawPoll, snapshot: Snapshot) -> list[str]:
    """What the ledger says of an accepted poll that was not plain."""
    remarks = [f"fallback: {poll.kind}"] if poll.fallback else []
    if snapshot.rejected:
        remarks.append(f"rejected: {snapshot.rejected[0]}" + (" and more" if len(snapshot.rejected) > 1 else ""))
    return remarks + list(snapshot.notes[:3])
