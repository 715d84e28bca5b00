"""TimescaleDB is detected, used where it is, and done without where it is not.

No TimescaleDB is packaged for these tests: what it adds is played by functions of the same signatures on a real
PostgreSQL, which refuses what only the real one can do, as a server of the Apache licence does.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.test_data.polls import raw_poll, snapshot
from velib_predictor.config.config import CollectorSettings, StorageSettings
from velib_predictor.data import timescale
from velib_predictor.data.database import Database
from velib_predictor.data.grid_view import VIEW
from velib_predictor.data.store import Store
from velib_predictor.data.timescale import Level, apply, detect, features, state

START = datetime(2026, 3, 2, 10, 1, tzinfo=UTC)
RETENTION = StorageSettings(retention=timedelta(days=365))

STAND_INS = """
CREATE SCHEMA timescaledb_information;
CREATE TABLE timescaledb_information.hypertables
    (hypertable_schema name, hypertable_name name PRIMARY KEY, compression_enabled boolean);
CREATE TABLE timescaledb_information.jobs (hypertable_schema name, hypertable_name name, proc_name name);
CREATE TABLE timescaledb_information.continuous_aggregates (view_schema name, view_name name);
CREATE TYPE dimension_info AS (name name, span interval);
CREATE FUNCTION by_range(column_name name, partition_interval interval) RETURNS dimension_info
    LANGUAGE sql AS 'SELECT column_name, partition_interval';
CREATE FUNCTION create_hypertable(relation regclass, dimension dimension_info,
        create_default_indexes boolean DEFAULT true, if_not_exists boolean DEFAULT false,
        migrate_data boolean DEFAULT false) RETURNS void
    LANGUAGE sql AS 'INSERT INTO timescaledb_information.hypertables VALUES
        (current_schema(), relation::text, false) ON CONFLICT DO NOTHING';
CREATE FUNCTION remove_retention_policy(relation regclass, if_exists boolean DEFAULT false) RETURNS void
    LANGUAGE sql AS 'DELETE FROM timescaledb_information.jobs WHERE proc_name = ''policy_retention''';
CREATE FUNCTION add_retention_policy(relation regclass, drop_after interval, if_not_exists boolean DEFAULT false)
    RETURNS void LANGUAGE sql AS
    'INSERT INTO timescaledb_information.jobs VALUES (current_schema(), relation::text, ''policy_retention'')';
"""


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


def grid(database: Database) -> list[tuple[int, int]]:
    query = text(f"SELECT station_key, bikes FROM {VIEW} ORDER BY station_key, bucket")
    with database.read() as connection:
        return [(row[0], row[1]) for row in connection.execute(query)]


def fill(database: Database) -> list[tuple[int, int]]:
    """Two stations over 40 minutes; returns what the 15-minute grid must hold."""
    store = Store(database, "velib", None, CollectorSettings())
    for i in range(40):
        at = START + i * timedelta(minutes=1)
        store.record(raw_poll(at), snapshot(at, {"1": i % 19, "2": 4}))
    # station 1 at 10:14, 10:29, 10:40; station 2 has its first row only
    return [(1, 13), (1, 28 % 19), (1, 39 % 19), (2, 4)]


def test_without_the_extension_everything_works_and_the_grid_is_a_view(database: Database) -> None:
    assert apply(database, StorageSettings()).level is Level.NONE
    apply(database, StorageSettings())  # safe to repeat
    expected = fill(database)
    assert grid(database) == expected
    assert state(database).level is Level.NONE


@pytest.mark.parametrize("version", ["2.28.0", "2.14.2"])
@pytest.mark.parametrize("settings", [StorageSettings(), RETENTION])
def test_postgresql_parses_every_statement(postgres: Database, version: str, settings: StorageSettings) -> None:
    """Refused for want of the extension, never for their grammar."""
    understood = {"42883", "42704", "22023", "0A000"}  # no such function, type, parameter or feature
    statements = [statement for feature in features(settings, version) for statement in feature.statements]
    assert len(statements) >= 6
    for statement in statements:
        with pytest.raises(DBAPIError) as raised, postgres.engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert getattr(raised.value.orig, "sqlstate", None) in understood, statement


def stand_in(postgres: Database, monkeypatch: pytest.MonkeyPatch, level: Level) -> None:
    with postgres.write() as connection:
        connection.exec_driver_sql(STAND_INS)
    monkeypatch.setattr(timescale, "detect", lambda _connection: (level, "2.28.0"))


def test_the_apache_licence_gets_a_hypertable_and_the_fallbacks(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(postgres, monkeypatch, Level.APACHE)
    found = apply(postgres, RETENTION).features
    assert found.pop("hypertable") == "on"
    assert set(found.values()) == {"off: apache licence"}
    assert grid(postgres) == []
    assert fill(postgres) == grid(postgres)
    assert state(postgres).features == {
        "hypertable": "on",
        "columnstore": "off",
        "retention": "off",
        "continuous_aggregate": "off",
    }


def test_what_the_server_refuses_is_left_out_and_the_rest_switched_on(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(postgres, monkeypatch, Level.TIMESCALE)
    found = apply(postgres, RETENTION).features
    assert found["hypertable"] == "on"
    assert found["retention"] == "on"
    assert found["columnstore"].startswith("off: ")  # a plain PostgreSQL knows no such table option
    assert found["continuous_aggregate"].startswith("off: ")
    assert fill(postgres) == grid(postgres)  # the view took its place
    assert state(postgres).features["retention"] == "on"
    apply(postgres, StorageSettings())  # retention taken out of the settings is taken out of the database
    assert state(postgres).features["retention"] == "off"


@pytest.mark.parametrize(("licence", "level"), [("apache", Level.APACHE), ("timescale", Level.TIMESCALE)])
def test_the_licence_tells_the_level(postgres: Database, licence: str, level: Level) -> None:
    with postgres.write() as connection:
        assert detect(connection) == (Level.NONE, None)
        # superusers may write the catalogue: the row that CREATE EXTENSION would make
        connection.exec_driver_sql("SET allow_system_table_mods = on")
        connection.exec_driver_sql(
            "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) "
            "SELECT 99999, 'timescaledb', 10, oid, false, '2.28.0' FROM pg_namespace WHERE nspname = 'public'"
        )
        connection.exec_driver_sql(f"SET timescaledb.license = '{licence}'")
        assert detect(connection) == (level, "2.28.0")
        connection.exec_driver_sql("DELETE FROM pg_extension WHERE extname = 'timescaledb'")


def test_the_grid_is_refreshed_over_all_history_but_not_over_what_retention_drops() -> None:
    def policy(settings: StorageSettings) -> str:
        return features(settings, "2.28.0")[-1].statements[-1]

    assert "start_offset => NULL" in policy(StorageSettings())
    assert "start_offset => INTERVAL '30931200 seconds'" in policy(RETENTION)  # 365 - 7 days
