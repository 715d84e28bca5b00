"""What happens between archive and database when one of them, or both, or a poll, is not as it should be."""

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url, text

from tests.test_data.polls import stored_ledger, stored_rows
from tests.test_data.simulated import moment
from tests.test_data.test_collector import Bench, details
from velib_predictor.config.config import Settings
from velib_predictor.data.collector import collect
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.lock import AlreadyRunningError, database_lock
from velib_predictor.data.rows import insert_poll
from velib_predictor.data.snapshot import Outcome

MINUTE = timedelta(minutes=1)


def fail_between(monkeypatch: pytest.MonkeyPatch, bench: Bench, start: str, end: str) -> None:
    """Take the database away for a while."""

    def sometimes(*args: Any, **more: Any) -> None:
        if moment(start) < bench.clock._now < moment(end):
            raise DatabaseError("the database has gone away")
        insert_poll(*args, **more)

    monkeypatch.setattr("velib_predictor.data.store.insert_poll", sometimes)


def test_polls_before_the_newest_ledger_row_are_stored_too(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set back while the database is away: those polls lie before the last one stored."""
    bench = Bench(database, tmp_path, "12:00", "12:10")
    bench.run()
    bench.clock._now = moment("11:30")
    bench.clock._end = moment("11:40")
    fail_between(monkeypatch, bench, "11:32", "11:36")
    bench.run()
    assert len(stored_ledger(database)) == len(list(bench.archive.read())) == 22


def test_a_poll_that_the_database_refuses_costs_only_itself(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(database, tmp_path, "12:00", "12:06")
    from velib_predictor.data import store

    real = store.insert_rows  # type: ignore[attr-defined]

    def refuse_one(connection: Any, rows: Any) -> None:
        if rows and rows[0].observed_at.minute == 2:
            connection.execute(text("INSERT INTO poll (system_key, polled_at, outcome) VALUES (1, NULL, 'ok')"))
        real(connection, rows)

    monkeypatch.setattr("velib_predictor.data.store.insert_rows", refuse_one)
    outcomes = [outcome for _, outcome, *_ in bench.run()]
    assert outcomes == [*[Outcome.OK] * 3, Outcome.FAILED, *[Outcome.OK] * 3]
    assert details(database)[3].startswith("it could not be stored: ")


def test_a_mistake_in_the_decoder_costs_one_poll(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from velib_predictor.data.decoder import Decoder

    real = Decoder.decode

    def broken(self: Decoder, poll: Any, body: Any) -> Any:
        if poll.polled_at.minute == 2:
            raise KeyError("a case that nobody thought of")
        return real(self, poll, body)

    monkeypatch.setattr(Decoder, "decode", broken)
    bench = Bench(database, tmp_path, "12:00", "12:06")
    outcomes = [outcome for _, outcome, *_ in bench.run()]
    assert outcomes.count(Outcome.FAILED) == 1
    assert outcomes.count(Outcome.OK) == 6


def test_polls_are_in_the_ledger_even_if_archive_and_database_failed_together(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from velib_predictor.data.archive import Archive

    bench = Bench(database, tmp_path, "12:00", "12:10")
    real = Archive.put

    def sometimes_full(self: Archive, poll: Any, bodies: Any) -> None:
        if moment("12:03") < bench.clock._now < moment("12:08"):
            raise OSError(28, "No space left on device")
        real(self, poll, bodies)

    monkeypatch.setattr(Archive, "put", sometimes_full)
    fail_between(monkeypatch, bench, "12:05", "12:06")
    outcomes = [outcome for _, outcome, *_ in bench.run()]
    assert outcomes.count(Outcome.OK) == 6
    # what was neither archived nor could be stored is the one gap, and nothing confirms anything in it
    assert outcomes.count(Outcome.FAILED) == 4


def test_a_long_backlog_does_not_stop_the_polling(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored a portion a tick: new polls are made and archived meanwhile, and come last."""
    bench = Bench(database, tmp_path, "12:00", "12:30")
    for _ in range(200):
        bench.archive.put(*bench.feed.poll(bench.clock.now(), bench.clock.now))
    before = len(bench.feed.scheduled)
    bench.clock._end = bench.clock.now() + 30 * MINUTE
    portions = iter([False] * 20 + [True, False] * 10_000)
    monkeypatch.setattr("velib_predictor.data.collector.time.monotonic", lambda: 1e9 if next(portions) else 0.0)
    bench.run()
    assert len(bench.feed.scheduled) - before in (30, 31)
    times = [at for at, *_ in stored_ledger(database)]
    assert times == [raw.polled_at for raw, _ in bench.archive.read()][: len(times)]


def test_a_lock_that_is_waited_for_in_vain_costs_no_poll(postgres_url: str, tmp_path: Path) -> None:
    """VACUUM FULL, a restore: PostgreSQL says so after a while, and the polls wait in the archive."""
    database = Database(postgres_url)
    with database.read() as connection:
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "30s"
    bench = Bench(database, tmp_path, "12:00", "12:04")
    bench.run()
    real = database.engine.pool.connect

    def impatient() -> Any:
        connection = real()
        connection.cursor().execute("SET lock_timeout = '10ms'")
        return connection

    bench.clock._end = moment("12:08")
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE poll IN ACCESS EXCLUSIVE MODE")
        bench.collector._intake.store._database.engine.pool.connect = impatient  # type: ignore[method-assign]
        bench.collector.run(threading.Event())
    assert len(bench.feed.scheduled) == len(list(bench.archive.read())) == 8
    assert len(stored_ledger(database)) == 5
    bench.collector._intake.catch_up()
    assert len(stored_ledger(database)) == 8
    database.close()


def read_only(url: str, yes: bool) -> None:
    """Whether new sessions may write."""
    change = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("SET default_transaction_read_only = off")
        admin.execute(change.format(sql.Identifier(str(make_url(url).database)), sql.Literal("on" if yes else "off")))


def test_a_database_that_may_only_be_read_is_said_and_polls_are_kept(postgres_url: str, tmp_path: Path) -> None:
    database = Database(postgres_url)
    bench = Bench(database, tmp_path, "12:00", "12:04")
    bench.run()
    read_only(postgres_url, True)
    database.close()  # new sessions find it so
    bench.clock._end = moment("12:08")
    bench.collector.run(threading.Event())
    assert len(stored_ledger(database)) == 5
    read_only(postgres_url, False)
    database.close()
    assert len(bench.until("12:10")) == len(list(bench.archive.read())) > 7
    database.close()


def test_the_advisory_lock_is_taken_again_after_a_server_restart_or_lost_for_good(postgres_url: str) -> None:
    first, second = Database(postgres_url), Database(postgres_url)
    end_sessions = (  # and wait until they have ended
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE locktype = 'advisory' AND datname = current_database()"
    )
    with database_lock(first, "town") as verify:
        with pytest.raises(AlreadyRunningError), database_lock(second, "town"):
            pass
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(end_sessions)
            verify()
            with pytest.raises(AlreadyRunningError), database_lock(second, "town"):
                pass
            admin.execute(end_sessions)
            with database_lock(second, "town"), pytest.raises(AlreadyRunningError):
                verify()
    first.close()
    second.close()


def test_a_thread_that_ends_unasked_ends_the_command_with_a_failure(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("velib_predictor.data.collector.Collector.run", broken)
    database = Database(sqlite_url)
    settings = Settings(data_dir=tmp_path, database_url=sqlite_url)
    with pytest.raises(Exception, match="ended by a mistake"):
        collect(settings, database, {"velib": settings.systems["velib"]}, threading.Event())
    database.close()


def test_a_pause_that_is_cut_short_leaves_no_ticks_missed_that_were_not(sqlite_url: str, tmp_path: Path) -> None:
    """While the feed fails, ticks are skipped; they are said only once they have passed."""
    database = Database(sqlite_url)
    bench = Bench(database, tmp_path, "12:00", "12:20", lambda _at: None)
    ledger = bench.run()
    missed = sum(outcome is Outcome.MISSED for _, outcome, *_ in ledger)
    ticks = bench.feed.scheduled[1:]  # the first poll is made at once
    assert missed == (ticks[-1] - ticks[0]) // MINUTE + 1 - len(ticks) > 5
    assert stored_rows(database) == []
    database.close()
