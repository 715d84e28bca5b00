"""The polling loop, in simulated time: when it asks, what it does when things go wrong, and what is lost: nothing."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.test_data.polls import stored_ledger, stored_rows
from tests.test_data.simulated import JumpingClock, ScriptedFeed, moment
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.archive import Archive
from velib_predictor.data.collector import Collector
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.replay import replay
from velib_predictor.data.rows import insert_poll
from velib_predictor.data.schema import Poll
from velib_predictor.data.snapshot import Outcome

MINUTE = timedelta(minutes=1)
SYSTEM = SystemSettings(url="http://127.0.0.1/gbfs.json", timezone="Europe/Paris")
Bikes = Callable[[datetime], dict[str, int] | None]


def lively(at: datetime) -> dict[str, int]:
    """40 stations, each moving every few minutes."""
    return {str(i): (i * 7 + int(at.timestamp()) // (60 * (1 + i % 5))) % 20 for i in range(40)}


class Bench:
    """A collector of a scripted feed in simulated time."""

    def __init__(
        self, database: Database, folder: Path, start: str, end: str, bikes: Bikes = lively, **more: Any
    ) -> None:
        self.database = database
        self.settings = Settings(data_dir=folder, database_url="sqlite://")
        self.clock = JumpingClock(moment(start), moment(end))
        self.feed = ScriptedFeed(self.clock, bikes, **{k: more.pop(k) for k in ("ttl",) if k in more})
        self.archive = Archive(self.settings.raw_dir, "town")
        self._more = {"every": MINUTE, **more}

    def run(self) -> list[tuple[datetime, Outcome, int, int, int]]:
        """Run a new collector to the end of time; the ledger."""
        self.collector = Collector(
            "town",
            self._more.get("system", SYSTEM),
            self.settings,
            self.database,
            every=self._more["every"],
            feed=self.feed,  # type: ignore[arg-type]
            clock=self.clock,  # type: ignore[arg-type]
        )
        self.collector.run(threading.Event())
        return stored_ledger(self.database)

    def until(self, end: str) -> list[tuple[datetime, Outcome, int, int, int]]:
        """Go on to a later end with a new collector, as after a restart."""
        self.clock._end = moment(end)
        return self.run()


def details(database: Database) -> list[str]:
    with database.read() as connection:
        return [detail or "" for detail in connection.execute(select(Poll.detail).order_by(Poll.polled_at)).scalars()]


def test_ticks_are_aligned_and_lead_the_grid(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00:05", "13:01", every=15 * MINUTE)
    ledger = bench.run()
    assert bench.feed.scheduled[0] - moment("12:00:05") < timedelta(seconds=1)  # nobody likes to wait for a quarter
    assert bench.feed.scheduled[1:] == [moment(t) for t in ("12:14:45", "12:29:45", "12:44:45", "12:59:45")]
    assert [outcome for _, outcome, *_ in ledger] == [Outcome.OK] * 5


def test_a_restart_within_the_period_waits_for_the_tick(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00:05", "12:16", every=15 * MINUTE)
    bench.run()
    made = len(bench.feed.scheduled)
    bench.until("12:45")
    assert bench.feed.scheduled[made:] == [moment("12:44:45")]


def test_short_periods_have_a_short_lead(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00:00", "12:00:30", every=timedelta(seconds=10))
    bench.run()
    assert bench.feed.scheduled[1:] == [moment(t) for t in ("12:00:07.500", "12:00:17.500", "12:00:27.500")]


@pytest.mark.parametrize(
    ("feed_ttl", "system_ttl", "expected"),
    [(0, None, 1), (60, None, 1), (180, None, 3), (3600, None, 5), (3600, MINUTE, 1)],
)
def test_the_ttl_is_honoured_up_to_five_minutes_unless_overridden(
    sqlite_url: str, tmp_path: Path, feed_ttl: int, system_ttl: timedelta | None, expected: int
) -> None:
    system = SystemSettings(url="http://127.0.0.1/", every=MINUTE, ttl=system_ttl)
    database = Database(sqlite_url)
    bench = Bench(database, tmp_path, "12:00", "12:20", every=None, system=system, ttl=feed_ttl)
    bench.run()
    gaps = [b - a for a, b in zip(bench.feed.scheduled[1:], bench.feed.scheduled[2:], strict=False)]
    assert set(gaps) == {expected * MINUTE}
    database.close()


def test_a_slow_poll_is_never_overlapped_and_its_missed_ticks_are_said(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00", "12:06")
    bench.feed.latency = timedelta(seconds=130)
    ledger = bench.run()
    assert [outcome for _, outcome, *_ in ledger] == [Outcome.OK, *[Outcome.MISSED, Outcome.MISSED, Outcome.OK] * 2]
    assert bench.feed.scheduled[1:] == [moment("12:02:45"), moment("12:05:45")]
    assert "tick 2026-03-04T12:00:45Z" in details(database)[1]
    assert "tick 2026-03-04T12:01:45Z" in details(database)[2]


def test_a_failing_feed_is_asked_less_often_and_again_when_it_is_back(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00", "13:10", lambda at: lively(at) if at > moment("12:40") else None)
    ledger = bench.run()
    gaps = [round((b - a) / MINUTE) for a, b in zip(bench.feed.scheduled, bench.feed.scheduled[1:], strict=False)]
    assert gaps[:9] == [1, 1, 1, 1, 2, 4, 8, 10, 10]
    assert set(gaps[10:]) == {1}
    outcomes = [outcome for _, outcome, *_ in ledger]
    assert outcomes.count(Outcome.FAILED) == 10
    assert outcomes.count(Outcome.MISSED) == sum(gaps[:10]) - 10  # not asked is said, too
    assert any("asking less often" in detail for detail in details(database))


def test_a_freeze_is_said_while_it_lasts_and_nothing_confirmed(database: Database, tmp_path: Path) -> None:
    def bikes(at: datetime) -> dict[str, int]:
        frozen = moment("13:00") <= at < moment("14:00")
        said = lively(moment("13:00") if frozen else at)
        if frozen:  # one station still moves
            said["3"] = at.minute % 20
        return said

    ledger = Bench(database, tmp_path, "12:00", "14:30", bikes).run()
    outcomes = {at.replace(second=0, microsecond=0): outcome for at, outcome, *_ in ledger}
    frozen = [at for at, outcome in outcomes.items() if outcome is Outcome.FROZEN]
    assert moment("13:05") <= frozen[0] <= moment("13:16")
    assert frozen[-1] == moment("13:59")
    assert len(frozen) == (frozen[-1] - frozen[0]) // MINUTE + 1
    assert outcomes[moment("14:00")] is Outcome.OK
    rows = [name for name, at, _ in stored_rows(database) if at.replace(second=0, microsecond=0) == moment("14:00")]
    assert len(rows) == 40  # a checkpoint: what did not change is confirmed again


def test_downtime_is_said_on_restart_and_followed_by_a_checkpoint(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00", "12:03")
    bench.run()
    bench.clock.pass_time(timedelta(hours=9))
    ledger = bench.until("21:10")
    assert [outcome for _, outcome, *_ in ledger[:5]] == [Outcome.OK] * 4 + [Outcome.MISSED]
    assert "not running since 2026-03-04T12:02:46" in details(database)[4]
    after = ledger[5][0]
    assert sum(1 for _, at, _ in stored_rows(database) if at == after) == 40


def test_polls_made_while_the_database_is_away_are_stored_in_order_later(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = (moment("12:05"), moment("12:09"))
    bench = Bench(database, tmp_path, "12:00", "12:15")

    def sometimes(*args: Any, **more: Any) -> None:
        if away[0] < bench.clock._now < away[1]:
            raise DatabaseError("the database has gone away")
        insert_poll(*args, **more)

    monkeypatch.setattr("velib_predictor.data.store.insert_poll", sometimes)
    ledger = bench.run()
    assert [outcome for _, outcome, *_ in ledger] == [Outcome.OK] * 16
    assert len(list(bench.archive.read())) == 16
    assert_replays_to_the_same(database, bench, tmp_path)


def test_polls_acknowledged_but_not_stored_are_stored_on_restart(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00", "12:05")
    bench.run()
    for _ in range(3):  # killed between archive and database
        bench.archive.put(*bench.feed.poll(bench.clock.now(), bench.clock.now))
    ledger = bench.until("12:07")
    assert len(ledger) == len(list(bench.archive.read())) > 8
    assert_replays_to_the_same(database, bench, tmp_path)


def assert_replays_to_the_same(database: Database, bench: Bench, tmp_path: Path) -> None:
    """An empty database that replays the archive holds the same rows and the same ledger."""
    other = Database(f"sqlite:///{tmp_path / 'replayed.db'}")
    other.upgrade()
    settings = Settings(data_dir=tmp_path, systems={"town": SYSTEM})
    counts = replay(other, [bench.archive.folder], settings)
    assert counts == {"recorded": len(stored_ledger(database)), "known": 0, "damaged": 0}
    assert stored_rows(other) == stored_rows(database)
    assert stored_ledger(other) == stored_ledger(database)
    assert details(other) == details(database)
    assert replay(other, [bench.archive.folder], settings)["recorded"] == 0
    other.close()


def test_an_archive_that_cannot_be_written_is_said_in_the_ledger(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(database, tmp_path, "12:00", "12:03")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Archive, "put", full)
    ledger = bench.run()
    assert [outcome for _, outcome, *_ in ledger] == [Outcome.FAILED] * 4
    assert "No space left" in details(database)[0]
    assert stored_rows(database) == []


def test_a_stepped_clock_refuses_one_poll_and_goes_on(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00", "12:04")
    bench.clock.steps = [None, 86.4, None, None, None]
    assert [outcome for _, outcome, *_ in bench.run()] == [Outcome.OK, Outcome.FAILED, *[Outcome.OK] * 3]


def test_the_autumn_and_spring_hours_are_just_hours(sqlite_url: str, tmp_path: Path) -> None:
    """Time is UTC: nothing is doubled on 25 October 2026, nothing skipped on 29 March."""
    for day in ("2026-03-29", "2026-10-25"):
        database = Database(sqlite_url.replace("velib.db", f"{day}.db"))
        database.upgrade()
        bench = Bench(database, tmp_path / day, "12:00", "12:00", every=15 * MINUTE)
        start = datetime.fromisoformat(f"{day}T00:10:00+00:00")
        bench.clock = JumpingClock(start, start + timedelta(hours=3))
        bench.feed = ScriptedFeed(bench.clock, lively)
        bench.run()
        gaps = {b - a for a, b in zip(bench.feed.scheduled[1:], bench.feed.scheduled[2:], strict=False)}
        assert gaps == {15 * MINUTE}
        assert len(bench.feed.scheduled) == 13
        database.close()


def test_closed_days_are_packed_beside_the_loop(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, "12:00", "12:05")
    bench.run()
    stored = [raw for raw, _ in bench.archive.read()]
    bench.clock.pass_time(timedelta(days=1))
    bench.clock._end = bench.clock.now() + 3 * MINUTE
    bench.run()
    thread = bench.collector._housekeeping
    assert thread is not None
    thread.join()
    assert (bench.archive.folder / "2026-03-04.tar.zst").exists()
    assert [raw for raw, _ in bench.archive.read()][: len(stored)] == stored
    assert stored[0].polled_at.tzinfo is not None
    assert stored[0].polled_at.astimezone(UTC).date().isoformat() == "2026-03-04"
