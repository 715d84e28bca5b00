"""`station_status_15m`: the last row of each station in each quarter of an hour, under one name on every engine.

TimescaleDB keeps it as a continuous aggregate; PostgreSQL and SQLite answer it as a view.
"""

# ruff: noqa: S608 - the names put into these statements are the constants below

VIEW = "station_status_15m"
_VALUES = ("bikes", "mechanical", "ebikes", "docks", "is_renting", "is_returning")

SQLITE_VIEW = f"""
CREATE VIEW IF NOT EXISTS {VIEW} AS
SELECT station_key, observed_at - observed_at % 900000000 AS bucket, max(observed_at) AS last_at, {", ".join(_VALUES)}
FROM station_status
GROUP BY station_key, observed_at - observed_at % 900000000
"""
"""SQLite fills bare columns from the row that holds the max() (its documentation, "Bare columns in an aggregate")."""

POSTGRESQL_VIEW = f"""
CREATE OR REPLACE VIEW {VIEW} AS
SELECT DISTINCT ON (station_key, bucket) station_key, bucket, observed_at AS last_at, {", ".join(_VALUES)}
FROM (
    SELECT *, date_bin('15 minutes', observed_at, TIMESTAMPTZ '2000-01-01 00:00:00+00') AS bucket FROM station_status
) AS binned
ORDER BY station_key, bucket, observed_at DESC
"""

CONTINUOUS_AGGREGATE = f"""
CREATE MATERIALIZED VIEW {VIEW}
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT station_key, time_bucket(INTERVAL '15 minutes', observed_at) AS bucket, max(observed_at) AS last_at,
       {", ".join(f"last({name}, observed_at) AS {name}" for name in _VALUES)}
FROM station_status
GROUP BY station_key, time_bucket(INTERVAL '15 minutes', observed_at)
WITH NO DATA
"""
"""Real-time: buckets not yet materialised are computed from the rows, as in the views."""
