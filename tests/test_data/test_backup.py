"""Backups: what comes back is what was there, on both engines; nothing half written or damaged is taken for whole."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url, text

from tests.test_data.stored import client_for, everything, fill, in_front_of
from velib_predictor.config.config import BackupSettings
from velib_predictor.data import backup_sqlite
from velib_predictor.data.backup import Backup, BackupError, make_backup, prune_backups
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.dump_text import read_dump
from velib_predictor.data.lock import AlreadyRunningError, database_lock
from velib_predictor.data.pg_client import Client, ClientError, find_client
from velib_predictor.data.restore import restore_backup
from velib_predictor.utils.errors import UsageError

NOW = datetime(2024, 12, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def yes(_question: str) -> bool:
    return True


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> BackupSettings:
    return BackupSettings(folder=tmp_path / "backups", client=client_for(database))


@pytest.fixture
def filled(database: Database) -> Database:
    fill(database)
    return database


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    fill(database)
    yield database
    database.close()


@pytest.fixture
def on_postgres(postgres: Database, tmp_path: Path) -> BackupSettings:
    return BackupSettings(folder=tmp_path / "backups", client=client_for(postgres))


def spoil(database: Database) -> None:
    """Change, delete and add, so that nothing is as it was."""
    with database.write() as connection:
        connection.execute(text("UPDATE station_status SET bikes = 99"))
        connection.execute(text("DELETE FROM score"))
        connection.execute(text("INSERT INTO system (system_id) VALUES ('other')"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# -- the round trip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
def test_what_comes_back_is_what_was_there(filled: Database, settings: BackupSettings, plain: bool) -> None:
    before = everything(filled)
    assert all(before.values()), "every table has a row to lose"
    made = make_backup(filled, settings, NOW, plain=plain)
    suffix = ".db" if filled.dialect == "sqlite" else ".sql" if plain else ".dump"
    assert files(settings.folder) == [f"velib_20241222_120000{suffix}", f"velib_20241222_120000{suffix}.sha256"]
    assert made.rows == {name: len(rows) for name, rows in before.items()}
    spoil(filled)
    assert everything(filled) != before
    done = restore_backup(filled, settings, made.file, NOW, may_replace=yes)
    assert everything(filled) == before
    assert (done.rows, done.sha256) == (made.rows, made.sha256)
    fill_more = {"system_id": "next"}  # numbers go on where they were: the next key is not taken
    with filled.write() as connection:
        connection.execute(text("INSERT INTO system (system_id) VALUES (:system_id)"), fill_more)


def test_sha256sum_agrees(filled: Database, settings: BackupSettings) -> None:
    made = make_backup(filled, settings, NOW)
    command = ["sha256sum", "--check", "--strict", f"{made.file.name}.sha256"]
    assert subprocess.run(command, cwd=settings.folder, capture_output=True, check=False).returncode == 0
    made.file.write_bytes(made.file.read_bytes() + b"x")
    assert subprocess.run(command, cwd=settings.folder, capture_output=True, check=False).returncode == 1


def test_a_backup_made_by_hand_is_taken_too(postgres: Database, on_postgres: BackupSettings, tmp_path: Path) -> None:
    """As `pg_dump > backups/velib_20241222_120000.sql` writes it: no checksum beside it."""
    before, file = everything(postgres), tmp_path / "by_hand.sql"
    assert on_postgres.client
    address = postgres.url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run([on_postgres.client / "pg_dump", f"--file={file}", address], check=True)
    spoil(postgres)
    assert restore_backup(postgres, on_postgres, file, NOW, may_replace=yes).sha256 == ""
    assert everything(postgres) == before


def test_a_database_can_be_replaced_by_way_of_a_new_one(postgres: Database, on_postgres: BackupSettings) -> None:
    """The way that TimescaleDB needs; here without it."""
    before, made = everything(postgres), make_backup(postgres, on_postgres, NOW)
    spoil(postgres)
    restore_backup(postgres, on_postgres, made.file, NOW, may_replace=yes, beside=True)
    assert everything(postgres) == before
    assert databases_like(postgres) == [postgres.url.database]


def test_the_old_database_stays_if_the_new_one_fails(
    postgres: Database, on_postgres: BackupSettings, tmp_path: Path
) -> None:
    assert on_postgres.client
    made = make_backup(postgres, on_postgres, NOW, plain=True)
    spoil(postgres)
    before = everything(postgres)
    half = in_front_of("psql", on_postgres.client, tmp_path / "half", 'head -n 60 | "$REAL" "$@"')
    broken = on_postgres.model_copy(update={"client": half})
    with pytest.raises(DatabaseError):
        restore_backup(postgres, broken, made.file, NOW, may_replace=yes, beside=True)
    assert everything(postgres) == before
    assert databases_like(postgres) == [postgres.url.database]


def databases_like(database: Database) -> list[str]:
    with database.read() as connection:
        query = text("SELECT datname FROM pg_database WHERE datname LIKE :name ORDER BY 1")
        return list(connection.execute(query, {"name": f"{str(database.url.database)[:30]}%"}).scalars())


# -- one moment ----------------------------------------------------------------------------------------------


def test_a_row_that_comes_meanwhile_is_not_in_it(
    postgres: Database, on_postgres: BackupSettings, tmp_path: Path
) -> None:
    """Stored after the rows were counted and before pg_dump looks: the copy is of one moment all the same."""
    assert on_postgres.client
    address = make_url(str(postgres.url)).set(drivername="postgresql").render_as_string(hide_password=False)
    script = f"""
        {on_postgres.client}/psql -qc "INSERT INTO system (system_id) VALUES ('late')" "{address}" || exit 9
        exec "$REAL" "$@"
    """
    late = in_front_of("pg_dump", on_postgres.client, tmp_path / "late", script)
    before = everything(postgres)
    made = make_backup(postgres, on_postgres.model_copy(update={"client": late}), NOW)
    assert len(everything(postgres)["system"]) == len(before["system"]) + 1
    restore_backup(postgres, on_postgres, made.file, NOW, may_replace=yes)
    assert everything(postgres) == before


def test_sqlite_is_copied_as_of_one_moment(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_sqlite, "_PAGES", 1)
    database, writer = Database(sqlite_url), Database(sqlite_url)
    fill(database)
    told: list[int] = []
    before = everything(database)

    def tell(phase: str, done: int, _total: int) -> None:
        if phase == "copy" and done and not told:
            spoil(writer)  # a collector goes on, and is not kept waiting
            told.append(done)

    made = make_backup(database, BackupSettings(folder=tmp_path / "b"), NOW, tell=tell)
    assert told == [1]
    assert everything(database) != before
    restore_backup(database, BackupSettings(), made.file, NOW, may_replace=yes)
    assert everything(database) == before
    database.close()
    writer.close()


def test_sqlite_gives_up_on_a_database_that_somebody_writes(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velib_predictor.data.database._BUSY_TIMEOUT_S", 0.2)
    database, writer = Database(sqlite_url), Database(sqlite_url)
    fill(database)
    made = make_backup(database, BackupSettings(folder=tmp_path / "b"), NOW)
    with writer.write(), pytest.raises(DatabaseError, match="goes on writing"):
        restore_backup(database, BackupSettings(), made.file, NOW, may_replace=yes)
    database.close()
    writer.close()


# -- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["copy", "read back", "checksum"])
def test_an_interrupted_backup_leaves_nothing_that_looks_whole(
    filled: Database, settings: BackupSettings, phase: str
) -> None:
    def interrupt(name: str, _done: int, _total: int) -> None:
        if name == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_backup(filled, settings, NOW, tell=interrupt)
    assert files(settings.folder) == []


def test_what_a_killed_backup_left_is_cleared_away(filled: Database, settings: BackupSettings) -> None:
    settings.folder.mkdir()
    left = settings.folder / "velib_20241221_120000.dump.part"
    left.write_bytes(b"PGDMP half")
    made = make_backup(filled, settings, NOW)
    assert files(settings.folder) == [made.file.name, f"{made.file.name}.sha256"]


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        '"$REAL" "$@"; for a in "$@"; do case $a in --file=*) truncate -s -200 "${a#--file=}";; esac; done',
        '"$REAL" "$@" --exclude-table-data=score',
        '"$REAL" "$@" --exclude-table-data=alembic_version',
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_a_dump_that_is_not_whole_is_noticed_and_deleted(
    postgres: Database, on_postgres: BackupSettings, tmp_path: Path, script: str, plain: bool
) -> None:
    assert on_postgres.client
    broken = in_front_of("pg_dump", on_postgres.client, tmp_path / "broken", script)
    with pytest.raises((BackupError, DatabaseError)):
        make_backup(postgres, on_postgres.model_copy(update={"client": broken}), NOW, plain=plain)
    assert files(on_postgres.folder) == []


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("plain", [False, True])
def test_a_damaged_backup_is_refused_and_nothing_touched(
    filled: Database, settings: BackupSettings, plain: bool, noted: bool
) -> None:
    made = make_backup(filled, settings, NOW, plain=plain)
    damage(made, noted)
    spoil(filled)
    before = everything(filled)
    with pytest.raises((BackupError, DatabaseError)):
        restore_backup(filled, settings, made.file, NOW, may_replace=yes)
    assert everything(filled) == before


def damage(made: Backup, noted: bool) -> None:
    """With its checksum beside it one bit is enough; without, its end is missing."""
    content = bytearray(made.file.read_bytes())
    if noted:
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) * 3 // 4 :]
        made.file.with_name(made.file.name + ".sha256").unlink()
    made.file.write_bytes(content)


def test_a_dump_that_is_cut_off_between_two_statements_is_refused(
    postgres: Database, on_postgres: BackupSettings
) -> None:
    """Each statement in it is whole, and a server would take them all: only the keys are missing."""
    made = make_backup(postgres, on_postgres, NOW, plain=True)
    made.file.with_name(made.file.name + ".sha256").unlink()
    made.file.write_text(made.file.read_text().partition("ALTER TABLE ONLY public.issue\n")[0])
    spoil(postgres)
    before = everything(postgres)
    with pytest.raises(BackupError, match="cut off"):
        restore_backup(postgres, on_postgres, made.file, NOW, may_replace=yes)
    assert everything(postgres) == before


def test_a_restore_that_the_server_refuses_changes_nothing(postgres: Database, on_postgres: BackupSettings) -> None:
    """Late in the dump, when everything was dropped and nearly all is there: a key that stands twice."""
    made = make_backup(postgres, on_postgres, NOW, plain=True)
    lines = made.file.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if line.startswith("COPY public.system ")) + 1
    made.file.write_text("".join([*lines[: at + 1], *lines[at:]]))
    made.file.with_name(made.file.name + ".sha256").unlink()
    spoil(postgres)
    before = everything(postgres)
    with pytest.raises(DatabaseError, match="system_pkey"):
        restore_backup(postgres, on_postgres, made.file, NOW, may_replace=yes)
    assert everything(postgres) == before


def test_a_dump_that_cannot_be_read_to_its_end_is_not_committed(
    postgres: Database, on_postgres: BackupSettings, tmp_path: Path
) -> None:
    """A disk that fails between the check and the restore."""
    assert on_postgres.client
    made = make_backup(postgres, on_postgres, NOW)
    spoil(postgres)
    before = everything(postgres)
    checked = tmp_path / "checked"
    script = f'[ -e {checked} ] && {{ "$REAL" "$@" | head -n 80; exit 1; }}; touch {checked}; exec "$REAL" "$@"'
    failing = in_front_of("pg_restore", on_postgres.client, tmp_path / "failing", script)
    with pytest.raises(DatabaseError, match="pg_restore failed"):
        restore_backup(postgres, on_postgres.model_copy(update={"client": failing}), made.file, NOW, may_replace=yes)
    assert everything(postgres) == before


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_database_that_holds_rows_is_not_replaced_unasked(filled: Database, settings: BackupSettings) -> None:
    made = make_backup(filled, settings, NOW)
    spoil(filled)
    before = everything(filled)
    with pytest.raises(UsageError, match="--yes"):
        restore_backup(filled, settings, made.file, NOW)
    assert everything(filled) == before


def test_an_empty_database_is_filled_unasked(database: Database, settings: BackupSettings, tmp_path: Path) -> None:
    empty = make_backup(database, settings, NOW, folder=tmp_path / "empty")
    fill(database)
    full, before = make_backup(database, settings, NOW), everything(database)
    restore_backup(database, settings, empty.file, NOW, may_replace=yes)
    restore_backup(database, settings, full.file, NOW)
    assert everything(database) == before


def test_a_file_that_is_not_there_yet_is_made(sqlite_url: str, tmp_path: Path) -> None:
    source = Database(sqlite_url)
    fill(source)
    made = make_backup(source, BackupSettings(folder=tmp_path / "b"), NOW)
    target = Database(f"sqlite:///{tmp_path}/new/folder/velib.db")
    restore_backup(target, BackupSettings(), made.file, NOW)
    assert everything(target) == everything(source)
    for database in (source, target):
        database.close()


def test_a_collector_is_not_written_away_from_under(filled: Database, settings: BackupSettings) -> None:
    made = make_backup(filled, settings, NOW)
    other = Database(filled.url.render_as_string(hide_password=False))
    with database_lock(other, "velib"), pytest.raises(AlreadyRunningError):
        restore_backup(filled, settings, made.file, NOW, may_replace=yes)
    other.close()


def test_a_newer_schema_and_a_foreign_database_are_refused(postgres: Database, on_postgres: BackupSettings) -> None:
    made = make_backup(postgres, on_postgres, NOW, plain=True)
    content = made.file.read_text()
    made.file.with_name(made.file.name + ".sha256").unlink()
    for revision, why in (("9999", "install the newer one"), (None, "something else")):
        if revision:
            made.file.write_text(content.replace(f"\n{made.revision}\n", f"\n{revision}\n"))
        else:
            made.file.write_text(content.replace("COPY public.alembic_version ", "COPY public.other "))
        with pytest.raises(BackupError, match=why):
            restore_backup(postgres, on_postgres, made.file, NOW, may_replace=yes)


@pytest.mark.parametrize(("content", "why"), [(b"", "no backup"), (b"PK\x03\x04", "no backup"), (None, "there is no")])
def test_a_file_that_is_something_else_is_refused(
    sqlite_url: str, tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "velib_20241222_120000.sql"
    if content is not None:
        file.write_bytes(content)
    database = Database(sqlite_url)
    with pytest.raises((BackupError, UsageError), match=why):
        restore_backup(database, BackupSettings(), file, NOW)
    database.close()


def test_engines_are_not_mixed_up(postgres: Database, on_postgres: BackupSettings, sqlite_url: str) -> None:
    embedded = Database(sqlite_url)
    dump, copy = make_backup(postgres, on_postgres, NOW), make_backup(embedded, on_postgres, NOW)
    with pytest.raises(BackupError, match="velib export"):
        restore_backup(embedded, on_postgres, dump.file, NOW)
    with pytest.raises(BackupError, match="velib export"):
        restore_backup(postgres, on_postgres, copy.file, NOW, may_replace=yes)
    embedded.close()


def test_an_uninitialised_database_is_not_backed_up(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/nowhere.db")
    with pytest.raises(DatabaseError, match="not initialised"):
        make_backup(database, BackupSettings(folder=tmp_path), NOW)
    assert not (tmp_path / "nowhere.db").exists()


def test_a_dump_with_timescaledb_needs_it(postgres: Database, on_postgres: BackupSettings) -> None:
    made = make_backup(postgres, on_postgres, NOW, plain=True)
    made.file.with_name(made.file.name + ".sha256").unlink()
    extension = "CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public;\n"
    made.file.write_text(
        made.file.read_text().replace("SET default_tablespace", extension + "SET default_tablespace", 1)
    )
    before = everything(postgres)
    with pytest.raises(DatabaseError, match="TimescaleDB, which this server does not have"):
        restore_backup(postgres, on_postgres, made.file, NOW, may_replace=yes)
    assert everything(postgres) == before
    assert databases_like(postgres) == [postgres.url.database]


# -- programs of the right version ---------------------------------------------------------------------------


def test_the_programs_are_told_no_password_but_by_the_environment(tmp_path: Path) -> None:
    """As libpq itself reads the address: a stand-in such as `***` would be tried as the password, and refused."""
    url = make_url("postgresql+psycopg://me:p%40ss@db.example:6543/velib?sslmode=disable")
    client = Client(tmp_path, url)
    told = {"user": "me", "host": "db.example", "port": "6543", "dbname": "velib", "sslmode": "disable"}
    assert conninfo_to_dict(client._target) == told
    assert client._environment["PGPASSWORD"] == "p@ss"


def test_the_programs_must_fit_the_server(on_postgres: BackupSettings, tmp_path: Path) -> None:
    assert on_postgres.client
    with pytest.raises(ClientError, match="postgresql-client-99"):
        find_client(99, None, newer=True)
    with pytest.raises(ClientError, match="found: none"):
        find_client(15, tmp_path)
    newer = in_front_of("pg_dump", on_postgres.client, tmp_path / "newer", "")
    script = (newer / "pg_dump").read_text().replace('exec "$REAL" "$@"', 'echo "pg_dump (PostgreSQL) 97.1"; exit')
    (newer / "pg_dump").write_text(script)
    assert find_client(96, newer, newer=True) == newer
    with pytest.raises(ClientError, match="of version 96 exactly are needed, found: 97"):
        find_client(96, newer)


# -- retention -----------------------------------------------------------------------------------------------


@given(
    ages=st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=12),
    keep=st.integers(1, 8),
    days=st.none() | st.integers(1, 30),
)
def test_the_newest_are_kept(
    tmp_path_factory: pytest.TempPathFactory, ages: list[int], keep: int, days: int | None
) -> None:
    folder = tmp_path_factory.mktemp("backups")
    for age in ages:
        file = folder / f"velib_{NOW - age * DAY:%Y%m%d_%H%M%S}.dump"
        file.touch()
        file.with_name(file.name + ".sha256").touch()
    others = {"notes.txt", "velib_mine.dump", "velib_20241222.sql", "velib_20241222_120000.dump.part"}
    for name in others:
        (folder / name).touch()
    prune_backups(folder, keep, days * DAY if days else None, NOW)
    kept = [age for age in sorted(ages)[:keep] if days is None or age <= days] or [min(ages)]
    expected = {f"velib_{NOW - age * DAY:%Y%m%d_%H%M%S}.dump{end}" for age in kept for end in ("", ".sha256")}
    assert set(files(folder)) == expected | others


def test_two_backups_of_one_second_are_two(filled: Database, settings: BackupSettings) -> None:
    first, second = make_backup(filled, settings, NOW), make_backup(filled, settings, NOW)
    assert first.file != second.file
    third = make_backup(filled, settings.model_copy(update={"keep": 1}), NOW + DAY)
    assert third.deleted == (second.file, first.file)
    assert files(settings.folder) == [third.file.name, f"{third.file.name}.sha256"]


# -- reading dumps -------------------------------------------------------------------------------------------


def test_rows_that_look_like_statements_are_rows() -> None:
    lines = [
        b"-- Dumped from database version 17.2 (Debian)\n", b"CREATE TABLE public.a (x text);\n",
        b"COPY public.a (x) FROM stdin;\n", b"COPY public.b (x) FROM stdin;\n",
        b"-- PostgreSQL database dump complete\n",
        b"\\.x\n", b"\\N\n", b"\\.\n", b'COPY public."B c" (x) FROM stdin;\n', b"\\.\n",
        b"COPY other.a (x) FROM stdin;\n", b"1\n", b"\\.\n",
    ]  # fmt: skip
    found = read_dump(lines)
    assert (found.rows, found.server, found.complete) == ({"a": 4, "B c": 0, "other.a": 1}, 17, False)
    assert read_dump([*lines, b"-- PostgreSQL database dump complete\n"]).complete
