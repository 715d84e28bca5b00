"""The shell scripts, run for real from another directory: what they do, what they leave, how they end."""

import fcntl
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.conftest import REPOSITORY
from tests.processes import Velib as Process
from tests.test_data.polls import stored_ledger
from tests.test_inference.test_predictor import START, make_town
from tests.test_inference.test_predictor import town_file as stored_town
from velib_predictor.data.database import Database
from velib_predictor.utils.temporal import format_time

SCRIPTS = {
    "setup_database.sh", "collect_data.sh", "train_baseline.sh", "train_lstm.sh", "train_gnn.sh", "run_inference.sh",
    "evaluate_model.sh",
}  # fmt: skip
DAY = timedelta(days=1)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """What keeps a script in the test's own folder."""
    return {
        "VELIB": str(Path(sys.executable).parent / "velib"),
        "DATABASE_URL": f"sqlite:///{tmp_path}/velib.db",
        "VELIB_DATA_DIR": str(tmp_path / "data"),
        "VELIB_MODELS_DIR": str(tmp_path / "models"),
        "VELIB_LOG_LEVEL": "WARNING",
        "LOG_FILE": str(tmp_path / "logs" / "collect.log"),
        "LOCK_FILE": str(tmp_path / "collect.lock"),
        "SYSTEM": "town",
    }


def run(name: str, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / "scripts" / name), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def town_file(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine days of a town."""
    return stored_town(make_town(), sqlite_template, tmp_path_factory.mktemp("town"))


@pytest.fixture
def town(town_file: Path, tmp_path: Path) -> None:
    shutil.copy(town_file, tmp_path / "velib.db")


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_each_is_there_and_says_what_it_does(name: str, variables: dict[str, str]) -> None:
    script = REPOSITORY / "scripts" / name
    assert os.access(script, os.X_OK)
    for word in ("--help", "-h"):
        done = run(name, variables, word)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: {name}")


def test_there_are_no_others() -> None:
    assert {file.name for file in (REPOSITORY / "scripts").iterdir()} == SCRIPTS | {"common.sh"}


# -- the database --------------------------------------------------------------------------------------------


def test_the_database_is_set_up(variables: dict[str, str], tmp_path: Path) -> None:
    for _ in range(2):  # safe to repeat
        assert run("setup_database.sh", variables).returncode == 0
    database = Database(f"sqlite:///{tmp_path}/velib.db")
    database.require_current()
    database.close()


@pytest.fixture
def names(postgres_server: str) -> Iterator[dict[str, str]]:
    """A role and a database that do not exist yet; both are gone afterwards."""
    name = f"velib_{uuid.uuid4().hex[:10]}"
    yield {"DB_NAME": name, "DB_USER": f"{name} o'role", "DB_PASSWORD": 'p\'w "x" \\ ; $HOME'}
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(f"{name} o'role")))


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_role_and_database_are_created(variables: dict[str, str], names: dict[str, str], postgres_server: str) -> None:
    server = make_url(postgres_server)
    admin = server.set(drivername="postgresql").render_as_string(hide_password=False)
    created = server.set(
        drivername="postgresql", username=names["DB_USER"], password=names["DB_PASSWORD"], database=names["DB_NAME"]
    ).render_as_string(hide_password=False)
    for _ in range(2):
        done = run("setup_database.sh", {**variables, **names, "DB_ADMIN_URL": admin, "DATABASE_URL": created})
        assert done.returncode == 0, done.stderr
    database = Database(created)
    database.require_current()  # as that role
    database.close()
    with psycopg.connect(admin) as connection:
        query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
        assert connection.execute(query, [names["DB_NAME"]]).fetchone() == (names["DB_USER"],)
        kept = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [names["DB_USER"]]).fetchone()
        assert kept
        assert str(kept[0]).startswith("SCRAM-SHA-256$")


# -- collecting ----------------------------------------------------------------------------------------------


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A city's feed over HTTP, in a process of its own."""
    folder = tmp_path / "city"
    folder.mkdir()
    with Process("city", "serve", "--port", "0", "--stations", "5", folder=folder) as city:
        address = city.wait_for(r"(http://127\.0\.0\.1:\d+/gbfs/\S*gbfs\.json)")[1]
        yield {"VELIB_SYSTEMS__VELIB__URL": address}


def stored_polls(variables: dict[str, str]) -> int:
    database = Database(variables["DATABASE_URL"])
    try:
        return len(stored_ledger(database))
    finally:
        database.close()


def test_a_poll_is_stored_and_nothing_printed(variables: dict[str, str], feed: dict[str, str]) -> None:
    for number in (1, 2):
        done = run("collect_data.sh", {**variables, **feed})
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert stored_polls(variables) == number
    log = Path(variables["LOG_FILE"]).read_text()
    assert log.count("velib: ok, 5 stations") == 2
    assert log.count("ended with exit code 0") == 2


def test_a_second_one_does_not_poll_beside_the_first(variables: dict[str, str], feed: dict[str, str]) -> None:
    run("setup_database.sh", variables)
    with Path(variables["LOCK_FILE"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("collect_data.sh", {**variables, **feed})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "another collect_data.sh is running" in Path(variables["LOG_FILE"]).read_text()
    assert stored_polls(variables) == 0


def test_a_feed_that_does_not_answer_is_told_to_cron(variables: dict[str, str]) -> None:
    nowhere = {"VELIB_SYSTEMS__VELIB__URL": "http://127.0.0.1:9/gbfs.json", "VELIB_COLLECTOR__ATTEMPTS": "1"}
    nowhere |= {"VELIB_SYSTEMS__VELIB__FALLBACK__URL": "http://127.0.0.1:9/x"}
    done = run("collect_data.sh", {**variables, **nowhere})
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines() == [f"collect_data.sh: exit code 4; see {variables['LOG_FILE']}"]
    assert run("collect_data.sh", variables, "--every", "never").returncode == 2


# -- models --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("town")
def test_from_history_to_forecasts(variables: dict[str, str], tmp_path: Path) -> None:
    until = format_time(START + 8 * DAY)
    models = {**variables, "MODELS": "persistence_delta climatology"}
    done = run("train_baseline.sh", models, "--until", until, "--horizons", "15m,1h")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "models" / "baseline" / "town").iterdir()} == {
        "persistence_delta",
        "climatology",
    }
    out = tmp_path / "out" / "forecasts.csv"
    done = run("run_inference.sh", {**variables, "OUT": str(out)}, "--now", until)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    lines = out.read_text().splitlines()
    assert lines[0].startswith("system_id,") or "station_id" in lines[0]
    assert len(lines) > 10
    failed = run("run_inference.sh", {**variables, "OUT": str(tmp_path / "none.csv"), "SYSTEM": "nowhere"})
    assert failed.returncode == 2
    assert [path.name for path in tmp_path.glob("none*")] == []


@pytest.mark.usefixtures("town")
def test_models_are_judged(variables: dict[str, str], tmp_path: Path) -> None:
    days = {"UNTIL": format_time(START + 8 * DAY), "TRAIN_DAYS": "5", "TEST_DAYS": "1", "MODELS": "persistence_delta"}
    report = tmp_path / "report"
    done = run(
        "evaluate_model.sh", {**variables, **days, "REPORT": str(report)}, "--horizons", "15m", "--targets", "bikes"
    )
    assert done.returncode == 0, done.stderr
    assert "persistence_delta" in done.stdout
    assert (report / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("name", ["train_baseline.sh", "train_lstm.sh", "train_gnn.sh", "run_inference.sh"])
def test_what_velib_refuses_is_refused(name: str, variables: dict[str, str]) -> None:
    run("setup_database.sh", variables)
    done = run(name, {**variables, "SYSTEM": "nowhere"})
    assert done.returncode == 2
    assert done.stderr.startswith("velib: ")


def test_without_an_environment_it_is_said_what_to_do(variables: dict[str, str], tmp_path: Path) -> None:
    """In a checkout that was not set up, and with no `velib` in PATH."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "checkout" / "scripts")
    bare = {name: value for name, value in variables.items() if name != "VELIB"} | {"PATH": "/usr/bin:/bin"}
    script = tmp_path / "checkout" / "scripts" / "setup_database.sh"
    done = subprocess.run([str(script)], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"velib is not installed; run: make -C {tmp_path}/checkout setup\n"
