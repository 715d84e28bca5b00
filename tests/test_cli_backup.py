"""`velib db backup` and `velib db restore`, and the job of the same: what they print, and how they end."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.command_line import Velib, runner
from tests.processes import Velib as Process
from tests.processes import eventually
from tests.test_data.stored import client_for, everything, fill, in_front_of
from velib_predictor.config.config import BackupSettings, Settings
from velib_predictor.data.database import Database
from velib_predictor.jobs.backup import run_backup


@pytest.fixture
def velib(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], database: Database) -> Velib:
    """Runs `velib ...` on a database with something in every table."""
    fill(database)
    if client := client_for(database):
        monkeypatch.setenv("VELIB_BACKUP__CLIENT", str(client))
    monkeypatch.setenv("DATABASE_URL", address(database))
    monkeypatch.setenv("VELIB_LOG_LEVEL", "ERROR")
    return runner(monkeypatch, capfd)


def address(database: Database) -> str:
    return database.url.set(drivername=database.dialect).render_as_string(hide_password=False)


def test_there_and_back(velib: Velib, database: Database) -> None:
    before = everything(database)
    made = velib("db", "backup", "--json")
    assert (made.code, made.errors) == (0, "")
    file = Path(made.data["file"])
    assert file.parent == Path("backups")
    assert (file.stat().st_size, made.data["rows"]["poll"]) == (made.data["bytes"], 20)
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM score")
    refused = velib("db", "restore", file)
    assert (refused.code, refused.output) == (2, "")
    assert "--yes" in refused.errors
    done = velib("db", "restore", file, "--yes", "--json")
    assert (done.code, done.errors) == (0, "")
    assert done.data["rows"] == made.data["rows"]
    assert everything(database) == before
    said = velib("db", "restore", file, "--yes").output
    assert said.strip().endswith(f"rows restored from {file}")


def test_where_how_and_how_many(velib: Velib, database: Database) -> None:
    suffix = ".db" if database.dialect == "sqlite" else ".sql"
    for _ in range(3):
        made = velib("db", "backup", "--to", "elsewhere", "--plain", "--keep", "2")
        assert made.code == 0
    assert "read back; 1 old ones deleted" in made.output
    assert len(list(Path("elsewhere").glob(f"velib_*{suffix}"))) == 2
    assert not Path("backups").exists()


def test_a_bad_backup_is_one_plain_line(velib: Velib) -> None:
    Path("other.sql").write_text("SELECT 1;\n")
    for file, code, words in (("nowhere.sql", 2, "there is no backup"), ("other.sql", 1, "is no backup")):
        done = velib("db", "restore", file, "--yes")
        assert (done.code, done.output, len(done.errors.splitlines())) == (code, "", 1)
        assert words in done.errors


def test_a_backup_that_is_killed_leaves_nothing_that_looks_whole(postgres_url: str, tmp_path: Path) -> None:
    """With pg_dump in the middle of its work: half the file is there."""
    database = Database(postgres_url)
    fill(database)
    client = client_for(database)
    database.close()
    assert client
    script = f'"$REAL" "$@"; touch {tmp_path}/half; exec sleep 600'
    slow = in_front_of("pg_dump", client, tmp_path / "slow", script)
    variables = {"DATABASE_URL": postgres_url, "VELIB_BACKUP__CLIENT": str(slow)}
    with Process("db", "backup", folder=tmp_path, variables=variables, start_new_session=True) as process:
        eventually(lambda: (tmp_path / "half").exists())
        os.killpg(process.pid, signal.SIGKILL)
        assert process.end() == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "backups").iterdir() if path.name != ".lock"]
    assert [name.endswith(".part") for name in left] == [True]
    variables["VELIB_BACKUP__CLIENT"] = str(client)
    with Process("db", "backup", folder=tmp_path, variables=variables) as process:
        assert process.end() == 0
    assert not list((tmp_path / "backups").glob("*.part"))
    assert len(list((tmp_path / "backups").glob("*.dump"))) == 1


def test_the_job_does_as_the_settings_say(database: Database, tmp_path: Path) -> None:
    fill(database)
    backup = BackupSettings(folder=tmp_path / "there", keep=1, format="plain", client=client_for(database))
    settings = Settings(backup=backup)
    for day in (1, 2):
        made = run_backup(settings, database, datetime(2026, 3, day, tzinfo=UTC))
    assert [path.name for path in (tmp_path / "there").glob("velib_*[lb]")] == [made.file.name]
    assert made.file.name.startswith("velib_20260302_000000")
