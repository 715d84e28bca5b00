"""Backups of the database: made while it is in use, checked when written, and restored whole or not at all.

    backups/velib_20241222_120000.dump          PostgreSQL, pg_dump's custom format; .sql plain; .db SQLite
    backups/velib_20241222_120000.dump.sha256   its checksum, for `sha256sum --check` too, and what it holds
    backups/velib_20241222_120000.dump.part     being written; an interrupted one is left so, and deleted by the next

A backup has its name once it is whole, was read back, and is on the disk. Times are UTC.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from velib_predictor.config.config import BackupSettings
from velib_predictor.data import backup_postgresql, backup_sqlite
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.utils.errors import VelibError

_NAME = re.compile(r"velib_(\d{8}_\d{6})\.(dump|sql|db)")
_SUM, _PART = ".sha256", ".part"
_NOTE = "# velib "
Progress = Callable[[str, int, int], None]


class BackupError(VelibError):
    """A backup is damaged, or not what it is taken for."""


@dataclass(frozen=True)
class Backup:
    """A backup, and what was in the database when it was made."""

    file: Path
    sha256: str
    revision: str
    """Version of the schema."""
    rows: dict[str, int] | None = None
    """Rows of each table; None: made by hand, nobody has counted."""
    server: str | None = None
    """Version of PostgreSQL."""
    timescaledb: str | None = None
    """Version of the extension."""
    deleted: tuple[Path, ...] = ()
    """Older ones that were deleted for it."""

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "file": str(self.file), "bytes": self.file.stat().st_size, "sha256": self.sha256, "revision": self.revision,
            "server": self.server, "timescaledb": self.timescaledb, "rows": self.rows,
            "deleted": [str(file) for file in self.deleted],
        }  # fmt: skip


def make_backup(
    database: Database,
    settings: BackupSettings,
    now: datetime,
    *,
    folder: Path | None = None,
    plain: bool | None = None,
    tell: Progress | None = None,
) -> Backup:
    """Write a backup, read it back, and delete those that are no longer to be kept.

    Args:
        folder, plain: over the settings.
        tell: told of progress.

    Raises:
        DatabaseError: the database cannot be used, or has no schema yet.
        ClientError: there is no pg_dump for this server.
        BackupError: what was written does not hold what the database does, or another process backs up there.
    """
    folder = folder or settings.folder
    plain = settings.format == "plain" if plain is None else plain
    tell = tell or silent
    revision = database.revision() if database.exists() else None
    if revision is None:
        raise DatabaseError(f"the database {database} is not initialised: there is nothing to back up")
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".db" if database.dialect == "sqlite" else ".sql" if plain else ".dump"
    with _alone(folder):
        for left in folder.glob(f"velib_*{_PART}"):
            left.unlink()
        file = _unused(folder, now, suffix)
        part = file.with_name(file.name + _PART)
        try:
            made = _write(database, settings, part, plain, revision, tell)
            tell("checksum", 2, 3)
            made = replace(made, file=file, sha256=checksum(part))
            _write_note(made)
            to_disk(part)
            part.rename(file)
            to_disk(folder)
        except BaseException:
            part.unlink(missing_ok=True)
            file.with_name(file.name + _SUM).unlink(missing_ok=True)
            raise
        return replace(made, deleted=tuple(prune_backups(folder, settings.keep, settings.retention, now)))


def prune_backups(folder: Path, keep: int, retention: timedelta | None, now: datetime) -> list[Path]:
    """Delete all but the `keep` newest backups, and those older than `retention`; never the newest, nor other files."""
    known = sorted((file for file in folder.iterdir() if _NAME.fullmatch(file.name)), key=_made_at, reverse=True)
    deleted = []
    for place, file in enumerate(known):
        old = retention is not None and now - _made_at(file) > retention
        if place >= keep or (place and old):
            file.unlink()
            file.with_name(file.name + _SUM).unlink(missing_ok=True)
            deleted.append(file)
    return deleted


def read_note(file: Path) -> Backup | None:
    """What was noted of a backup when it was made; None if nothing lies beside it.

    Raises:
        BackupError: the note cannot be read.
    """
    note = file.with_name(file.name + _SUM)
    facts: dict[str, Any] = {}
    sha256 = None
    try:
        for line in note.read_text(encoding="utf-8").splitlines():
            if line.startswith(_NOTE):
                facts = json.loads(line.removeprefix(_NOTE))
            elif match := re.match(r"([0-9a-f]{64})\b", line):
                sha256 = match[1]
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, ValueError) as error:
        raise BackupError(f"{note} cannot be read: {error}") from None
    if sha256 is None:
        raise BackupError(f"{note} holds no SHA-256; delete it to restore without the check")
    rows, server, timescaledb = facts.get("rows"), facts.get("server"), facts.get("timescaledb")
    return Backup(file, sha256, str(facts.get("revision")), rows, server, timescaledb)


# -- writing -------------------------------------------------------------------------------------------------


def _write(
    database: Database, settings: BackupSettings, part: Path, plain: bool, revision: str, tell: Progress
) -> Backup:
    """Write and read back; what is read must be what was there."""
    tell("copy", 0, 3)
    server = timescaledb = None
    whole, elsewhere = True, set[str]()
    if database.dialect == "sqlite":
        rows = backup_sqlite.copy_out(database, part, tell)
        tell("read back", 1, 3)
        found_revision, found = backup_sqlite.examine(part)
    else:
        rows, server, timescaledb = backup_postgresql.write(database, part, plain=plain, client=settings.client)
        tell("read back", 1, 3)
        dump = backup_postgresql.examine(database, part, plain=plain, client=settings.client)
        found_revision, found, whole = dump.revision, dump.rows, dump.complete
        with database.read() as connection:
            elsewhere = backup_postgresql.hypertables(connection)
    wrong = [
        f"{name} has {found.get(name, 0)} rows of {count}"
        for name, count in rows.items()
        if name not in elsewhere and found.get(name) != count
    ]
    if not whole:
        wrong.append("it ends too early")
    if found_revision != revision:
        wrong.append(f"its schema version is {found_revision}, not {revision}")
    if wrong:
        raise BackupError(
            f"the backup of {database} is not what the database holds, and was deleted: {', '.join(wrong)}"
        )
    return Backup(part, "", revision, rows, server, timescaledb)


def _write_note(made: Backup) -> None:
    facts = {"revision": made.revision, "rows": made.rows, "server": made.server, "timescaledb": made.timescaledb}
    note = f"{_NOTE}{json.dumps(facts)}\n{made.sha256}  {made.file.name}\n"
    path = made.file.with_name(made.file.name + _SUM)
    path.write_text(note, encoding="utf-8")
    to_disk(path)


def checksum(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unused(folder: Path, now: datetime, suffix: str) -> Path:
    """A name that no backup has: two within one second get different ones."""
    while (file := folder / f"velib_{now.astimezone(UTC):%Y%m%d_%H%M%S}{suffix}").exists():
        now += timedelta(seconds=1)
    return file


def _made_at(file: Path) -> datetime:
    match = _NAME.fullmatch(file.name)
    assert match is not None  # noqa: S101 - for the type checker
    return datetime.strptime(match[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One backup at a time: so what is half written belongs to nobody."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another process is making a backup in {folder}") from None
        yield


def silent(_phase: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""
