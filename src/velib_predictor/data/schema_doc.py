"""Writes `docs/data_schema.md` from the tables' own classes: `python -m velib_predictor.data.schema_doc > FILE`."""

import sys

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.schema import ColumnCollectionConstraint

from velib_predictor.data.schema import (
    Base,
    ImportedFile,
    Issue,
    Poll,
    Score,
    Station,
    StationStatus,
    StationVersion,
    System,
    Weather,
)

_TABLES: tuple[type[Base], ...] = (
    StationStatus,
    Poll,
    System,
    Station,
    StationVersion,
    ImportedFile,
    Issue,
    Score,
    Weather,
)

_INTRODUCTION = """\
# The stored data

<!-- Generated: python -m velib_predictor.data.schema_doc > docs/data_schema.md. A test compares the two. -->

One schema on two engines: SQLite in WAL mode (the embedded default) and PostgreSQL 15 or later, where TimescaleDB is
used if its extension is available. `velib db init` creates it, `velib db upgrade` migrates it.

## How to read it

- **A row means a change.** `station_status` gets a row when a value of a station changes or becomes unknown. Between
  two rows, the first one's values hold.
- **The ledger says whether they do.** `poll` has one row for each poll. At an accepted poll (`ok`, `not_modified`)
  every station without a new row is unchanged. At any other outcome silence says nothing: `frozen` (the feed repeats
  itself; the few changes that it does show are kept), `quarantined` (an answer not believed as a whole), `failed` (no
  readable answer), `missed` (not asked).
- **As-of rule.** The state at a time T is the last row at or before T. Its age is the time since it was written or
  since the last accepted poll at or before T, which confirmed it, whichever is less. If it is older than the tolerance
  (5 minutes, say), or a row of nulls, the state at T is unknown. Never look at a row after T.
- **Imported history** is stored row by row as it came. It has no ledger unless it brings one: then each row vouches
  for itself alone.
- **A row of nulls is an observation**: in an accepted poll the station was absent or its record could not be read.
  Missing is null, never 0 or true: 0 bikes is a count, null is not known.
- **Hourly checkpoints.** The first accepted poll of an hour (UTC), and the first after one whose answer was not
  believed (`frozen`, `quarantined`), writes a row for every station that it holds, changed or not. So a reader never
  looks back far, and a row by itself is no proof of a change.
- **Observation time is `observed_at`**, when our fetch ended; it equals `polled_at` of its poll. A feed's own times
  (`last_reported`, `feed_time`) stand still or step back while counts move: never order or deduplicate by them.
- **Times** are UTC to the microsecond: `timestamptz` on PostgreSQL, whole microseconds since 1970-01-01 on SQLite
  (`datetime(observed_at / 1000000, 'unixepoch')` shows one). Booleans on SQLite are 0 and 1.
- **Stations are joined through `station.key`**, which never changes. A feed's `station_id` and the public `code` on the
  kiosk are both kept; names, places and capacities have versions in `station_version`.
- **TimescaleDB**, where available, makes `station_status` a hypertable with columnstore and retention. Tables, columns
  and queries stay the same; without it everything works.
- **`station_status_15m`** has the last row of each station in each quarter of an hour (`bucket`, `last_at`): a
  continuous aggregate where TimescaleDB offers it, else a view. It knows nothing of the ledger: for charts.
"""

_FILES = """\
## Files

`velib import` reads and `velib export` writes Parquet or CSV with these columns (`?`: may be absent or null). Times
are UTC; in CSV they are written as RFC 3339.

- **status**: system_id, station_id, observed_at, bikes?, mechanical?, ebikes?, docks?, bikes_disabled?,
  docks_disabled?, is_installed?, is_renting?, is_returning?, last_reported?
- **stations**: system_id, station_id, code?, name, lat, lon, capacity?
- **polls**: system_id, polled_at (equal to the observed_at of the rows that the poll wrote), outcome, stations,
  changed, rejected, detail
- **forecasts**: system_id, model, station_id, issued_at, target_at, target, mean, p_ge_1, pmf (list of float32 over
  0..K)
- **weather** (import only): system_id?, issued_at, valid_at, temperature_c?, apparent_c?, precipitation_mm?, rain_mm?,
  snowfall_cm?, wind_kmh?, gusts_kmh?, cloud_percent?
"""

_QUERIES_INTRODUCTION = """\
## Example queries

They run as they stand on both engines; only the values of `:names` are written differently.

| | SQLite | PostgreSQL |
|---|---|---|
| a time | `unixepoch('2024-11-05 07:10:00') * 1000000` | `timestamptz '2024-11-05 07:10:00Z'` |
| a day | `86400000000` | `interval '24 hours'` |

In the shells: `.parameter set :at "unixepoch('2024-11-05') * 1000000"` (sqlite3) and
`\\set at 'timestamptz ''2024-11-05 00:00Z'''` (psql). From Python,
`text(query).bindparams(bindparam("at", type_=UtcDateTime()))` takes a `datetime` on both.
"""

# Titles and texts of the example queries; tests run them on both engines.
QUERIES: dict[str, str] = {
    "All stations at a time: `:at`, and `:oldest` = `:at` less the tolerance": """\
WITH seen AS (
    SELECT system.key AS system_key, max(poll.polled_at) AS polled_at
    FROM poll JOIN system ON system.key = poll.system_key
    WHERE system.system_id = :system
      AND poll.outcome IN ('ok', 'not_modified')
      AND poll.polled_at > :oldest AND poll.polled_at <= :at
    GROUP BY system.key
)
SELECT station.station_id, station.code, status.bikes, status.mechanical, status.ebikes, status.docks,
       status.is_renting, status.is_returning, status.observed_at, seen.polled_at
FROM seen
JOIN station ON station.system_key = seen.system_key
JOIN station_status AS status ON status.station_key = station.key
 AND status.observed_at = (
    SELECT max(earlier.observed_at) FROM station_status AS earlier
    WHERE earlier.station_key = station.key AND earlier.observed_at <= seen.polled_at)
ORDER BY station.station_id""",
    "Share of time that open stations are empty, `:from` to `:to` (`:lookback` = `:from` less two hours)": """\
WITH span AS (
    SELECT station.system_key, station.station_id, status.bikes, status.is_renting, status.observed_at,
           lead(status.observed_at) OVER (PARTITION BY station.key ORDER BY status.observed_at) AS until
    FROM station_status AS status
    JOIN station ON station.key = status.station_key
    JOIN system ON system.key = station.system_key
    WHERE system.system_id = :system AND status.observed_at >= :lookback AND status.observed_at < :to
)
SELECT span.station_id, count(*) AS polls, avg(CASE WHEN span.bikes = 0 THEN 1.0 ELSE 0.0 END) AS share_empty
FROM span
JOIN poll ON poll.system_key = span.system_key AND poll.outcome IN ('ok', 'not_modified')
 AND poll.polled_at >= :from AND poll.polled_at < :to
 AND poll.polled_at >= span.observed_at AND (span.until IS NULL OR poll.polled_at < span.until)
WHERE span.bikes IS NOT NULL AND span.is_renting IS NOT FALSE
GROUP BY span.station_id
ORDER BY share_empty DESC, span.station_id""",
    "How complete the ledger is, by UTC day, `:from` to `:to` (`:day` is a day)": """\
WITH RECURSIVE day(start) AS (
    SELECT :from
    UNION ALL
    SELECT start + :day FROM day WHERE start + :day < :to
)
SELECT day.start, count(poll.polled_at) AS polls,
       count(CASE WHEN poll.outcome IN ('ok', 'not_modified') THEN 1 END) AS accepted,
       count(CASE WHEN poll.outcome IN ('ok', 'not_modified') THEN 1 END) * 1.0
           / nullif(count(poll.polled_at), 0) AS share_accepted,
       count(CASE WHEN poll.outcome = 'missed' THEN 1 END) AS missed,
       count(CASE WHEN poll.outcome = 'failed' THEN 1 END) AS failed
FROM day
LEFT JOIN system ON system.system_id = :system
LEFT JOIN poll ON poll.system_key = system.key AND poll.polled_at >= day.start AND poll.polled_at < day.start + :day
GROUP BY day.start
ORDER BY day.start""",
}


def data_schema() -> str:
    """The whole document, in Markdown."""
    queries = [f"**{title}**\n\n```sql\n{query}\n```\n" for title, query in QUERIES.items()]
    tables = ["## Tables\n", *(_table_section(table) for table in _TABLES)]
    return "\n".join([_INTRODUCTION, *tables, _FILES, _QUERIES_INTRODUCTION, *queries])


def _table_section(cls: type[Base]) -> str:
    table = cls.__table__
    assert isinstance(table, Table)  # noqa: S101 - for the type checker: no class here is mapped to a join
    doc = "\n".join(line.strip() for line in (cls.__doc__ or "").strip().splitlines())
    lines = [
        f"### {table.name}\n",
        f"{doc}\n",
        "| column | SQLite | PostgreSQL | null | meaning |",
        "|---|---|---|---|---|",
    ]
    lines += [_column_line(column) for column in table.columns]
    lines += ["", *_keys(table), ""]
    return "\n".join(lines)


def _column_line(column: Column[object]) -> str:
    on_sqlite = column.type.compile(dialect=sqlite.dialect())
    on_postgresql = column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    on_postgresql = on_postgresql.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")
    null = "yes" if column.nullable else "no"
    return f"| {column.name} | {on_sqlite} | {on_postgresql} | {null} | {column.comment} |"


def _keys(table: Table) -> list[str]:
    lines = [f"- Primary key: {_names(table.primary_key)}"]
    for constraint in table.constraints:
        if isinstance(constraint, ForeignKeyConstraint):
            lines.append(f"- Foreign key: {_names(constraint)} -> {constraint.elements[0].target_fullname}")
        elif isinstance(constraint, UniqueConstraint):
            lines.append(f"- Unique: {_names(constraint)}")
        elif isinstance(constraint, CheckConstraint):
            lines.append(f"- Check: {constraint.sqltext}")
    lines += [f"- {'Unique index' if i.unique else 'Index'} {i.name}: {_names(i)}" for i in table.indexes]
    return sorted(lines)  # SQLAlchemy keeps both in sets


def _names(keyed: ColumnCollectionConstraint | Index) -> str:
    return ", ".join(column.name for column in keyed.columns)


if __name__ == "__main__":
    sys.stdout.write(data_schema())
