"""A backup back into a database: checked before anything is touched, then all of it or nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import inspect, text

from velib_predictor.config.config import BackupSettings
from velib_predictor.data import backup_postgresql, backup_sqlite
from velib_predictor.data.backup import Backup, BackupError, Progress, checksum, read_note, silent
from velib_predictor.data.database import Database, head_revision
from velib_predictor.data.lock import database_lock
from velib_predictor.utils.errors import UsageError


def restore_backup(
    database: Database,
    settings: BackupSettings,
    file: Path,
    now: datetime,
    *,
    may_replace: Callable[[str], bool] = lambda _question: False,
    beside: bool = False,
    tell: Progress | None = None,
) -> Backup:
    """Replace what a database holds by a backup, all of it or nothing; returns what is in it now.

    Args:
        may_replace: asked whether rows that the database holds may be replaced.
        beside: see `backup_postgresql.restore`.

    Raises:
        UsageError: there is no such file, or the database holds rows that may not be replaced.
        BackupError: the backup is damaged, of another engine, or of a newer program.
        AlreadyRunningError: a collector writes into the database.
        DatabaseError: the database cannot be used, or refused the backup; it is as it was.
    """
    tell = tell or silent
    tell("check", 0, 3)
    kind = _kind(file)
    if (kind == "db") != (database.dialect == "sqlite"):
        raise BackupError(
            f"{file} is a backup of {'SQLite' if kind == 'db' else 'PostgreSQL'}, the database {database} is not; "
            "to change engines, `velib export` and `velib import` the history"
        )
    noted = read_note(file)
    if noted and (found := checksum(file)) != noted.sha256:
        raise BackupError(f"{file} is damaged: its SHA-256 is {found}, {noted.sha256} was noted when it was made")
    if kind == "db":
        revision, counted = backup_sqlite.examine(file)
        _check_revision(file, revision)
        rows: Mapping[str, int] | None = counted
    else:
        dump = _examined(database, settings, file, noted, plain=kind == "sql")
        rows = dump.rows
    filled = database.exists() and _is_filled(database)
    if filled and not may_replace(f"Replace what {database} holds by {file}?"):
        raise UsageError(f"the database {database} holds data, which restoring would replace; with --yes it does")
    tell("restore", 1, 3)
    with _nobody_writes(database, filled):
        if kind == "db":
            backup_sqlite.copy_in(database, file, tell)
        else:
            backup_postgresql.restore(database, dump, settings.client, now, beside=beside)
    tell("look", 2, 3)
    arrived = _counted(database)
    backup_postgresql.check_rows(arrived, rows)
    return Backup(file, noted.sha256 if noted else "", str(database.revision()), arrived)


def _kind(file: Path) -> Literal["dump", "sql", "db"]:
    """What a file is, by its content: a name can be changed."""
    if not file.is_file():
        raise UsageError(f"there is no backup {file}")
    with file.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"PGDMP"):
        return "dump"
    if head.startswith(b"SQLite format 3\0"):
        return "db"
    if head.lstrip(b"\r\n -").startswith(b"PostgreSQL database dump"):
        return "sql"
    raise BackupError(f"{file} is no backup: neither a dump of pg_dump (custom or plain) nor a file of SQLite")


def _examined(
    database: Database, settings: BackupSettings, file: Path, noted: Backup | None, *, plain: bool
) -> backup_postgresql.Dump:
    """A dump that was read from beginning to end.

    Raises:
        BackupError: it is cut off, or no dump of this program's database.
    """
    found = backup_postgresql.examine(database, file, plain=plain, client=settings.client)
    if not found.complete:
        raise BackupError(f"{file} is cut off: it does not go on to the end of a dump")
    _check_revision(file, found.revision)
    if noted:
        return backup_postgresql.Dump(file, plain, found, noted.rows, noted.timescaledb)
    rows = None if found.timescaledb else found.rows  # TimescaleDB's rows stand under other names
    return backup_postgresql.Dump(file, plain, found, rows)


def _check_revision(file: Path, revision: str | None) -> None:
    if revision is None:
        raise BackupError(f"{file} holds no schema of this program: it is a backup of something else")
    if revision > head_revision():
        raise BackupError(
            f"{file} has schema version {revision}, this program knows up to {head_revision()}; install the newer one"
        )


@contextmanager
def _nobody_writes(database: Database, filled: bool) -> Iterator[None]:
    """Keep collectors out: one that went on would store its rows under the numbers of other stations."""
    with ExitStack() as locks:
        for name in _systems(database) if filled else []:
            locks.enter_context(database_lock(database, name))
        yield


def _systems(database: Database) -> list[str]:
    with database.read() as connection:
        if not inspect(connection).has_table("system"):
            return []
        return list(connection.execute(text("SELECT system_id FROM system")).scalars())


def _counted(database: Database) -> dict[str, int]:
    if database.dialect == "sqlite":
        with database.driver() as connection:
            return backup_sqlite.count_rows(connection)
    with database.read() as connection:
        return backup_postgresql.count_rows(connection)


def _is_filled(database: Database) -> bool:
    """Whether anything would be lost: an initialised, empty database is nothing to lose."""
    return any(count for name, count in _counted(database).items() if name != "alembic_version")
