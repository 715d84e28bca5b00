"""The schema: one definition, the same tables on both engines, and a document that cannot drift from it."""

import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Interval, bindparam, insert, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import StatementError

from tests.conftest import REPOSITORY, execute, on_database
from velib_predictor.data.database import Database, RefusedError, head_revision
from velib_predictor.data.schema import Base, Poll, Station, StationStatus, System, UtcDateTime
from velib_predictor.data.schema_doc import QUERIES, data_schema

T0 = datetime(2024, 11, 5, tzinfo=UTC)
STATE, EMPTY, COVERAGE = QUERIES.values()


def minutes(count: int) -> datetime:
    return T0 + timedelta(minutes=count)


# -- the document ------------------------------------------------------------------------------------------------


def test_the_committed_document_is_the_generated_one() -> None:
    committed = (REPOSITORY / "docs" / "data_schema.md").read_text(encoding="utf-8")
    assert committed == data_schema(), "run: python -m velib_predictor.data.schema_doc > docs/data_schema.md"


def test_the_document_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-m", "velib_predictor.data.schema_doc"]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=environment)
    assert done.stdout == data_schema()


def test_every_table_and_column_is_described() -> None:
    document = data_schema()
    for table in Base.metadata.tables.values():
        assert f"### {table.name}\n" in document
        for column in table.columns:
            assert column.comment, f"{table.name}.{column.name} has no comment"
            assert f"| {column.name} |" in document


# -- migrations --------------------------------------------------------------------------------------------------


def test_migrations_make_exactly_the_tables_of_the_classes(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_make_the_constraints_that_comparison_does_not_see(database: Database) -> None:
    with database.read() as connection:
        inspector = inspect(connection)
        for table in Base.metadata.tables.values():
            found = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert found == [column.name for column in table.primary_key], table.name
        assert [check["name"] for check in inspector.get_check_constraints("poll")] == ["poll_outcome"]


def test_upgrading_twice_is_harmless(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(System), {"key": 1, "system_id": "velib"})
    assert database.upgrade() == database.upgrade() == head_revision() == database.revision()
    database.require_current()
    with database.read() as connection:
        assert connection.execute(text("SELECT system_id FROM system")).scalars().all() == ["velib"]


def test_the_way_down_and_up_again(database: Database) -> None:
    from alembic import command

    from velib_predictor.data.database import _alembic_config

    config = _alembic_config()
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()
        assert inspect(connection).get_table_names() == ["alembic_version"]
    database.upgrade()
    database.require_current()


def test_sqlite_keeps_the_large_tables_without_rowid(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.read() as connection:
        rows = connection.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'")).scalars()
        assert set(rows) == {"station_status", "poll", "score", "weather"}
    database.close()


def test_an_outcome_outside_the_vocabulary_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(System), {"key": 1, "system_id": "velib"})
    with pytest.raises(RefusedError, match="poll_outcome"), database.write() as connection:
        connection.execute(insert(Poll), {"system_key": 1, "polled_at": T0, "outcome": "fine"})


# -- times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [sqlite, postgresql], ids=["sqlite", "postgresql"])
def test_a_naive_time_is_refused(module: Any) -> None:
    with pytest.raises(ValueError, match="naive time"):
        UtcDateTime().process_bind_param(datetime(2024, 11, 5), module.dialect())  # noqa: DTZ001


def test_a_naive_time_is_refused_by_the_database_too(database: Database) -> None:
    row = {"station_key": 1, "observed_at": datetime(2024, 11, 5)}  # noqa: DTZ001
    with pytest.raises(StatementError, match="naive time"), database.write() as connection:
        connection.execute(insert(StationStatus), row)


@given(st.datetimes(timezones=st.timezones(), min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001
def test_sqlite_keeps_an_instant_to_the_microsecond(value: datetime) -> None:
    dialect = sqlite.dialect()
    stored = UtcDateTime().process_bind_param(value, dialect)
    assert isinstance(stored, int)
    back = UtcDateTime().process_result_value(stored, dialect)
    assert back == value.astimezone(UTC)
    assert back is not None
    assert back.tzinfo is UTC


def test_a_time_comes_back_as_utc_to_the_microsecond(database: Database) -> None:
    observed = datetime.fromisoformat("2024-10-27T02:30:00.123456+02:00")  # the hour that comes twice in Paris
    again = datetime.fromisoformat("2024-10-27T02:30:00.123456+01:00")
    with database.write() as connection:
        connection.execute(
            insert(StationStatus),
            [{"station_key": 1, "observed_at": time, "bikes": bikes} for bikes, time in enumerate((observed, again))],
        )
    with database.read() as connection:
        rows = connection.execute(
            StationStatus.__table__.select().with_only_columns(StationStatus.observed_at).order_by("observed_at")
        )
        times = list(rows.scalars())
    assert times == [observed, again]
    assert {time.tzinfo for time in times} == {UTC}


# -- example queries ---------------------------------------------------------------------------------------------


@pytest.fixture
def filled(database: Database) -> Database:
    """Two stations, polled every 10 minutes for two hours: A empties at 00:20, B closes; two polls are of no use."""
    changes = [
        # key, minute, bikes, renting
        (1, 0, 3, True),
        (1, 20, 0, True),
        (1, 60, 0, True),  # checkpoint
        (1, 90, 2, True),
        (2, 0, 5, True),
        (2, 60, 5, True),  # checkpoint
        (2, 80, 0, False),
        (2, 100, None, None),  # unknown from here
    ]
    outcomes = {30: "failed", 70: "missed", 110: "not_modified"}
    with database.write() as connection:
        connection.execute(insert(System), [{"key": 1, "system_id": "velib"}, {"key": 2, "system_id": "other"}])
        connection.execute(
            insert(Station),
            [
                {"key": 1, "system_key": 1, "station_id": "A", "code": "16107"},
                {"key": 2, "system_key": 1, "station_id": "B", "code": None},
                {"key": 3, "system_key": 2, "station_id": "C", "code": None},
            ],
        )
        connection.execute(
            insert(StationStatus),
            [
                {"station_key": key, "observed_at": minutes(at), "bikes": bikes, "is_renting": renting}
                for key, at, bikes, renting in [*changes, (3, 0, 9, True)]
            ],
        )
        connection.execute(
            insert(Poll),
            [
                {"system_key": 1, "polled_at": minutes(at), "outcome": outcomes.get(at, "ok")}
                for at in range(0, 120, 10)
            ],
        )
    return database


def run(database: Database, query: str, **values: Any) -> list[Any]:
    statement = text(query)
    for name, value in values.items():
        if isinstance(value, datetime):
            statement = statement.bindparams(bindparam(name, value, type_=UtcDateTime()))
        elif isinstance(value, timedelta) and database.dialect == "postgresql":
            statement = statement.bindparams(bindparam(name, value, type_=Interval()))
        else:
            micros = value // timedelta(microseconds=1) if isinstance(value, timedelta) else value
            statement = statement.bindparams(bindparam(name, micros))
    with database.read() as connection:
        return list(connection.execute(statement))


def test_state_at_a_time_is_the_last_row_at_the_last_accepted_poll(filled: Database) -> None:
    def state(minute: float, tolerance: int = 15) -> dict[str, int | None]:
        at = T0 + timedelta(minutes=minute)
        rows = run(filled, STATE, system="velib", at=at, oldest=at - timedelta(minutes=tolerance))
        return {row.station_id: row.bikes for row in rows}

    assert state(0) == {"A": 3, "B": 5}
    assert state(19.9) == {"A": 3, "B": 5}
    assert state(20) == {"A": 0, "B": 5}
    assert state(34) == {"A": 0, "B": 5}, "the poll at 30 failed, the one at 20 is within the tolerance"
    assert state(36) == {}, "the last accepted poll is 16 minutes old"
    assert state(112) == {"A": 2, "B": None}, "unknown is not 0"
    assert state(-1) == {}


def test_share_of_time_empty_counts_accepted_polls_of_open_stations(filled: Database) -> None:
    values = {"from": T0, "to": minutes(120), "lookback": minutes(-120)}
    rows = {row.station_id: row for row in run(filled, EMPTY, system="velib", **values)}
    # A: accepted polls at 0 10 | 20 40 50 60 80 empty | 90 100 110
    assert (rows["A"].polls, float(rows["A"].share_empty)) == (10, 0.5)
    # B: 0 10 20 40 50 60; closed at 80 and 90, unknown from 100
    assert (rows["B"].polls, float(rows["B"].share_empty)) == (6, 0.0)


def test_ledger_coverage_shows_days_without_a_single_poll(filled: Database) -> None:
    day = timedelta(days=1)
    rows = run(filled, COVERAGE, system="velib", **{"from": T0 - day, "to": T0 + day, "day": day})
    (_, *before), (_, *on_the_day) = rows
    assert before == [0, 0, None, 0, 0]
    polls, accepted, share, missed, failed = on_the_day
    assert (polls, accepted, missed, failed) == (12, 10, 1, 1)
    assert float(share) == pytest.approx(10 / 12)


def test_the_document_shows_these_queries() -> None:
    document = (REPOSITORY / "docs" / "data_schema.md").read_text(encoding="utf-8")
    assert all(query in document for query in QUERIES.values())


# -- encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_server_of_another_encoding_keeps_names_and_gives_them_back(postgres_server: str, encoding: str) -> None:
    name = f"velib_test_{encoding.lower()}_{uuid.uuid4().hex[:12]}"
    made = f"CREATE DATABASE {{name}} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    execute(postgres_server, made, name)
    database = Database(on_database(postgres_server, name))
    try:
        assert database.upgrade() == head_revision()
        with database.write() as connection:
            connection.execute(insert(System), {"system_id": "île", "timezone": "Europe/Paris", "name": "Vélib'"})
        with database.read() as connection:
            assert connection.execute(select(System.system_id, System.name)).one() == ("île", "Vélib'")
        with database.arrow() as arrow, arrow.cursor() as cursor:
            cursor.execute("SELECT name FROM system")
            assert cursor.fetchone() == ("Vélib'",)
    finally:
        database.close()
        execute(postgres_server, "DROP DATABASE {name} WITH (FORCE)", name)
