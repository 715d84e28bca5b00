"""Two copies of SQLite in one process: without the gate these tests lose rows."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from velib_predictor.data import sqlite_gate
from velib_predictor.data.database import Database
from velib_predictor.data.schema import System
from velib_predictor.utils.errors import VelibError


def seen_by_another_process(path: Path) -> list[str]:
    code = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT system_id FROM system'))"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    return sorted(done.stdout.translate(str.maketrans("", "", "(),'")).split())


@pytest.fixture
def path(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite:///"))


def add(database: Database, name: str) -> None:
    with database.write() as connection:
        connection.execute(insert(System).values(system_id=name))


def test_what_is_written_after_a_bulk_write_is_there_for_others(path: Path) -> None:
    first, second = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path.parent}/./{path.name}")
    add(first, "a")
    add(second, "b")  # both hold a pooled connection now
    with first.arrow() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO system (system_id) VALUES ('c')")
        connection.commit()
    add(first, "d")
    add(second, "e")
    assert seen_by_another_process(path) == ["a", "b", "c", "d", "e"]
    with sqlite3.connect(path) as check:
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
    first.close()
    second.close()


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_connection_of_one_kind_keeps_the_other_out(path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(sqlite_gate, "_PATIENCE_S", 0.01)
    database, other = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    with database.arrow(), pytest.raises(VelibError, match="this process's other connections"), getattr(other, way)():
        pass
    with getattr(database, way)(), pytest.raises(VelibError, match="other connections"), other.arrow():
        pass
    with database.arrow(), other.arrow() as connection, connection.cursor() as cursor:  # of one kind, many
        cursor.execute("SELECT count(*) FROM system")
        assert cursor.fetchone() == (0,)
    with database.read() as one, other.read() as two:
        assert one.execute(select(System.key)).all() == two.execute(select(System.key)).all() == []
    database.close()
    other.close()
