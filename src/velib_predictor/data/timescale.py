"""What TimescaleDB adds to PostgreSQL, each feature where the server and its licence have it, else the plain fallback.

| feature              | needs                    | without it                                        |
|----------------------|--------------------------|---------------------------------------------------|
| hypertable           | the extension            | one table with its primary key                    |
| columnstore          | the TSL licence          | row storage                                       |
| retention policy     | the TSL licence          | `velib prune` deletes rows                        |
| continuous aggregate | the TSL licence          | a view of the same name, `station_status_15m`     |

With `timescaledb.license = apache` the last three are refused (measured on 2.28).
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Connection, text

from velib_predictor.config.config import StorageSettings
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.grid_view import CONTINUOUS_AGGREGATE, POSTGRESQL_VIEW, SQLITE_VIEW, VIEW
from velib_predictor.utils.logger import get_logger

_FIRST_WITH_COLUMNSTORE = (2, 18)
_log = get_logger(__name__)


class Level(StrEnum):
    """How much of TimescaleDB a database has."""

    NONE = "none"
    APACHE = "apache"
    TIMESCALE = "timescale"


class Feature(NamedTuple):
    """One feature and the statements that switch it on."""

    name: str
    needs: Level
    statements: Sequence[str]


class Timescale(NamedTuple):
    """What was found and what is in force."""

    level: Level
    version: str | None
    features: dict[str, str]
    """Feature -> "on", or why not."""


def detect(connection: Connection) -> tuple[Level, str | None]:
    """The level and version of the extension in this database (installed in it, not merely on the server)."""
    version = connection.execute(
        text("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    ).scalar_one_or_none()
    if version is None:
        return Level.NONE, None
    licence = connection.execute(text("SELECT current_setting('timescaledb.license', true)")).scalar_one_or_none()
    return (Level.APACHE if licence == "apache" else Level.TIMESCALE), version


def apply(database: Database, settings: StorageSettings) -> Timescale:
    """Switch on what there is, and create the fallbacks for what there is not. Idempotent; loses no row.

    A feature that the server refuses is logged and left out: everything works without it.
    """
    if database.dialect == "sqlite":
        with database.write() as connection:
            connection.execute(text(SQLITE_VIEW))
        return Timescale(Level.NONE, None, {})
    _install(database)
    with database.read() as connection:
        level, version = detect(connection)
    states: dict[str, str] = {}
    for feature in features(settings, version or "0"):
        if level is Level.NONE or (feature.needs is Level.TIMESCALE and level is Level.APACHE):
            states[feature.name] = (
                "off: the extension is not installed" if level is Level.NONE else "off: apache licence"
            )
        else:
            states[feature.name] = _switch_on(database, feature)
    if states["continuous_aggregate"] != "on":
        with database.write() as connection:
            if not _is_continuous_aggregate(connection, level):
                connection.execute(text(POSTGRESQL_VIEW))
    return Timescale(level, version, states)


def state(database: Database) -> Timescale:
    """What is in force now, changing nothing."""
    if database.dialect == "sqlite":
        return Timescale(Level.NONE, None, {})
    with database.read() as connection:
        level, version = detect(connection)
        if level is Level.NONE:
            return Timescale(level, None, {})
        hypertable = connection.execute(
            text(
                "SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema() "
                "AND hypertable_name = 'station_status'"
            )
        ).scalar_one()
        jobs = connection.execute(
            text(
                "SELECT proc_name FROM timescaledb_information.jobs WHERE hypertable_schema = current_schema() "
                "AND hypertable_name = 'station_status'"
            )
        ).scalars()
        policies = set(jobs)
        found = {
            "hypertable": bool(hypertable),
            "columnstore": bool(policies & {"policy_compression", "policy_columnstore"}),
            "retention": "policy_retention" in policies,
            "continuous_aggregate": _is_continuous_aggregate(connection, level),
        }
    return Timescale(level, version, {name: "on" if on else "off" for name, on in found.items()})


def features(settings: StorageSettings, version: str) -> list[Feature]:
    """The statements for this configuration and version of the extension."""
    after = _interval(settings.columnstore_after)
    if _numbers(version) >= _FIRST_WITH_COLUMNSTORE:
        columnstore = [
            "ALTER TABLE station_status SET (timescaledb.enable_columnstore = true, "
            "timescaledb.segmentby = 'station_key', timescaledb.orderby = 'observed_at')",
            f"CALL add_columnstore_policy('station_status', after => {after}, if_not_exists => true)",
        ]
    else:
        columnstore = [
            "ALTER TABLE station_status SET (timescaledb.compress = true, "
            "timescaledb.compress_segmentby = 'station_key', timescaledb.compress_orderby = 'observed_at')",
            f"SELECT add_compression_policy('station_status', compress_after => {after}, if_not_exists => true)",
        ]
    retention = ["SELECT remove_retention_policy('station_status', if_exists => true)"]
    if settings.retention:
        retention.append(
            f"SELECT add_retention_policy('station_status', drop_after => {_interval(settings.retention)}, "
            "if_not_exists => true)"
        )
    return [
        Feature(
            "hypertable",
            Level.APACHE,
            [
                "SELECT create_hypertable('station_status', by_range('observed_at', "
                f"{_interval(settings.chunk)}), if_not_exists => true, migrate_data => true)"
            ],
        ),
        Feature("columnstore", Level.TIMESCALE, columnstore),
        Feature("retention", Level.TIMESCALE, retention),
        Feature(
            "continuous_aggregate",
            Level.TIMESCALE,
            [
                CONTINUOUS_AGGREGATE,
                f"SELECT add_continuous_aggregate_policy('{VIEW}', start_offset => {_refresh_from(settings)}, "
                "end_offset => INTERVAL '15 minutes', schedule_interval => INTERVAL '15 minutes', "
                "if_not_exists => true)",
            ],
        ),
    ]


def _install(database: Database) -> None:
    """Create the extension where the server offers it and this user may."""
    try:
        with database.write() as connection:
            offered = connection.execute(
                text("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'")
            ).scalar_one()
            if offered:
                connection.execute(text("CREATE EXTENSION IF NOT EXISTS timescaledb"))
    except DatabaseError as error:
        _log.warning("TimescaleDB is offered but cannot be installed", error=error.reason)


def _switch_on(database: Database, feature: Feature) -> str:
    try:
        with database.write() as connection:
            statements = list(feature.statements)
            if feature.name == "continuous_aggregate":
                if _is_continuous_aggregate(connection, Level.TIMESCALE):
                    statements = statements[1:]
                else:
                    connection.execute(text(f"DROP VIEW IF EXISTS {VIEW}"))
            if feature.name == "columnstore" and _has_columnstore(connection):
                statements = statements[1:]
            for statement in statements:
                connection.exec_driver_sql(statement)
    except DatabaseError as error:
        reason = error.reason
        _log.warning("TimescaleDB refuses a feature; the plain fallback is used", feature=feature.name, error=reason)
        return f"off: {reason}"
    return "on"


def _is_continuous_aggregate(connection: Connection, level: Level) -> bool:
    if level is Level.NONE:
        return False
    query = text(
        "SELECT count(*) FROM timescaledb_information.continuous_aggregates "
        "WHERE view_schema = current_schema() AND view_name = :view"
    )
    return bool(connection.execute(query, {"view": VIEW}).scalar_one())


def _has_columnstore(connection: Connection) -> bool:
    # SET (enable_columnstore) a second time is refused once chunks are converted
    query = text(
        "SELECT compression_enabled FROM timescaledb_information.hypertables "
        "WHERE hypertable_schema = current_schema() AND hypertable_name = 'station_status'"
    )
    return bool(connection.execute(query).scalar_one_or_none())


def _refresh_from(settings: StorageSettings) -> str:
    """All history, since imports reach far back; but not what retention drops: a refresh there would empty the grid."""
    if settings.retention is None:
        return "NULL"
    return _interval(max(settings.retention - settings.chunk, settings.retention / 2))


def _interval(duration: timedelta) -> str:
    return f"INTERVAL '{int(duration.total_seconds())} seconds'"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
