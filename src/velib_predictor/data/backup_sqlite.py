"""SQLite's side of backup and restore: its online backup, which neither stops a writer nor sees half a transaction."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from velib_predictor.data.database import Database, DatabaseError

Progress = Callable[[str, int, int], None]
"""Told of (phase, done, total)."""
_PAGES = 2_000  # 8 MB between two words on progress


def copy_out(database: Database, file: Path, tell: Progress) -> dict[str, int]:
    """Copy the database, as it is at one moment, into a new file; returns the rows of each table at that moment."""
    with database.driver() as source:
        # The first read fixes what this connection sees: the copy and the counts are of one moment, and the copy is
        # not begun anew whenever a collector writes.
        source.execute("BEGIN")
        try:
            rows = count_rows(source)
            with closing(sqlite3.connect(file)) as copy:
                source.backup(copy, pages=_PAGES, progress=_told(tell, "copy"))
                copy.execute("PRAGMA journal_mode = DELETE")  # one file that needs no others beside it
        finally:
            source.execute("ROLLBACK")
    return rows


def copy_in(database: Database, file: Path, tell: Progress) -> None:
    """Replace what the database holds; whoever has it open sees all of the old, then all of the new.

    Raises:
        DatabaseError: another program goes on writing; nothing was changed.
    """
    Path(str(database.url.database)).parent.mkdir(parents=True, exist_ok=True)
    with database.driver() as target, opened(file) as source:
        source.backup(target, pages=_PAGES, progress=_told(tell, "restore"))
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def examine(file: Path) -> tuple[str | None, dict[str, int]]:
    """Schema version and rows of each table in a backup, after every page of it was checked.

    Raises:
        DatabaseError: it is damaged.
    """
    try:
        with opened(file) as copy:
            said = [row[0] for row in copy.execute("PRAGMA integrity_check(1)")]
            if said != ["ok"]:
                raise DatabaseError(f"{file} is damaged: {said[0]}")
            rows = count_rows(copy)
            found = copy.execute("SELECT version_num FROM alembic_version").fetchone() if rows else None
    except sqlite3.Error as error:
        raise DatabaseError(f"{file} cannot be read as a backup of SQLite: {error}") from error
    return (found[0] if found else None), rows


def count_rows(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows of each table."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {
        name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608 - from the catalogue
        for name in sorted(row[0] for row in names)
    }


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """A backup, for reading, with nothing left beside it."""
    with closing(sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro&immutable=1", uri=True)) as connection:
        yield connection


def _told(tell: Progress, phase: str) -> Callable[[int, int, int], None]:
    def progress(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # else it would be tried for ever
            raise DatabaseError("another program goes on writing into the database; stop it and try again")
        tell(phase, total - remaining, total)

    return progress
