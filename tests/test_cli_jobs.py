"""`velib issue`, `score`, `retrain` and `prune`: what they print, for people and programs, and how they end."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from tests.command_line import Result, Velib, runner
from tests.test_inference.made import some_issue
from tests.test_inference.test_predictor import SILENT, START, make_town
from tests.test_inference.test_predictor import town_file as stored_town
from velib_predictor.data.database import Database
from velib_predictor.data.stations import ensure_system
from velib_predictor.inference.issues import Issues
from velib_predictor.utils.temporal import format_time

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = START + 8 * DAY + 12 * HOUR
LATER = ("--now", format_time(NOW + DAY))
AT_NOON = ("--now", format_time(NOW))


@pytest.fixture(scope="module")
def town(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine days of a town in `velib.db`."""
    return stored_town(make_town(), sqlite_template, tmp_path_factory.mktemp("town"))


@pytest.fixture
def velib(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], town: Path, tmp_path: Path) -> Velib:
    """Runs `velib ...` on that history, in a folder of its own."""
    (tmp_path / "data").mkdir()
    shutil.copy(town, tmp_path / "data" / "velib.db")
    monkeypatch.setenv("VELIB_FORECAST__TRAIN_MODEL", "persistence_delta")
    monkeypatch.setenv("VELIB_FORECAST__TRAIN_DAYS", "6")
    monkeypatch.setenv("VELIB_LOG_LEVEL", "ERROR")
    return runner(monkeypatch, capfd)


@pytest.fixture
def database(tmp_path: Path, velib: Velib) -> Database:  # noqa: ARG001 - which puts it there
    return Database(f"sqlite:///{tmp_path}/data/velib.db")


def refused(result: Result, code: int, *words: str) -> None:
    """One plain line on stderr that has all these words; nothing on stdout."""
    assert (result.code, result.output) == (code, ""), result
    assert len(result.errors.strip().splitlines()) == 1
    for word in words:
        assert word in result.errors


# -- retrain, issue, score -----------------------------------------------------------------------------------


def test_retrain_issue_and_score_one_after_the_other(velib: Velib) -> None:
    trained = velib("retrain", *AT_NOON, "--json")
    assert (trained.code, trained.errors) == (0, "")
    assert [report["model"] for report in trained.data["town"]] == ["climatology", "persistence_delta"]
    assert {report["until"] for report in trained.data["town"]} == {format_time(NOW)}
    version = Path(trained.data["town"][-1]["folder"]).name
    assert (Path(trained.data["town"][-1]["folder"]) / "metadata.json").is_file()

    issued = velib("issue", *AT_NOON, "--json")
    assert issued.code == 0
    (one,) = issued.data
    assert {name: one[name] for name in ("system_id", "model", "model_version", "state", "reason", "stations")} == {
        "system_id": "town",
        "model": "persistence_delta",
        "model_version": version,
        "state": "fresh",
        "reason": None,
        "stations": 9,
    }
    scored = velib("score", *LATER, "--json")
    assert scored.code == 0
    # The horizons of 12 that the 23 hours of truth until then have reached, of four targets.
    assert scored.data["town"]["scored"] == 11 * 4
    assert {row["model"] for row in scored.data["town"]["scores"]} == {"persistence_delta"}
    assert velib("score", *LATER, "--json").data["town"]["scored"] == 0
    table = velib("score", *LATER).output.splitlines()
    assert table[0] == "town: 0 new scores"
    assert table[1].split() == ["system", "model", "target", "ahead", "rows", "RPS", "same", "skill"]
    assert len(table) == 2 + len(scored.data["town"]["scores"])
    assert table[2].split()[:4] == ["town", "persistence_delta", "bikes", "15m"]


def test_retrain_for_people_names_what_was_fitted_and_where(velib: Velib) -> None:
    result = velib("retrain", "--system", "town", *AT_NOON)
    lines = result.output.splitlines()
    assert result.code == 0
    assert [line.split(" fitted on ")[0] for line in lines] == ["town: climatology", "town: persistence_delta"]
    assert all("models/baseline/town" in line for line in lines)


def test_an_issue_that_is_not_fresh_is_stored_and_said_by_the_exit_code(velib: Velib, database: Database) -> None:
    bare = velib("issue", *AT_NOON)
    assert bare.code == 3
    assert "9 stations" in bare.output
    assert "degraded (no model has been trained for town yet (`velib retrain`))" in bare.output
    stale = velib("issue", "--now", format_time(SILENT[0] + HOUR), "--json")
    assert (stale.code, stale.data[0]["state"]) == (3, "stale")
    assert "the last poll since then: failed" in stale.data[0]["reason"]
    assert len(Issues(database, "town").times(None, NOW + 9 * DAY)) == 2
    database.close()


def test_retrain_with_too_little_history_says_how_much_there_is(velib: Velib) -> None:
    result = velib("retrain", "--now", format_time(START + HOUR), "--json")
    refused(result, 1, "too little history to fit climatology", "are needed")


# -- what cannot be meant ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["issue", "score", "retrain"])
def test_an_unknown_system_is_refused_with_those_there_are(velib: Velib, command: str) -> None:
    refused(velib(command, "--system", "town", "--system", "oslo"), 2, "no system 'oslo'; there are: town")
    assert not Path("models").exists()


@pytest.mark.parametrize("command", ["issue", "score", "retrain", "serve"])
def test_a_database_that_is_not_there_is_refused_with_the_command_that_makes_it(velib: Velib, command: str) -> None:
    port = ("--port", 0) if command == "serve" else ()
    refused(velib(command, *port, "--db", "sqlite:///nowhere/velib.db"), 1, "nowhere/velib.db", "`velib db init`")
    assert not Path("nowhere").exists()


def test_in_an_empty_database_there_is_nothing_to_do(velib: Velib) -> None:
    there = ("--db", "sqlite:///empty.db")
    assert velib("db", "init", *there).code == 0
    for command, words in (("score", "no system is stored"), ("retrain", "no system is stored")):
        result = velib(command, *there)
        assert (result.code, result.output.strip()) == (0, words)
        assert velib(command, *there, "--json").data == {}
    refused(velib("issue", *there), 2, "no system is stored yet")
    assert velib("prune", *there).code == 0


def test_a_naive_time_is_refused(velib: Velib) -> None:
    for command in ("issue", "score", "retrain"):
        refused(velib(command, "--now", "2024-11-12T12:00:00"), 2, "no offset from UTC")
    refused(velib("issue", "--follow", "--json"), 2, "--follow")


# -- prune ---------------------------------------------------------------------------------------------------


def test_prune_says_what_went(velib: Velib, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    issues = Issues(database, "town")
    for days in range(3):
        issues.add(some_issue(issued_at=NOW - days * DAY))
    with database.write() as connection:
        ensure_system(connection, "oslo")
    database.close()
    monkeypatch.setenv("VELIB_STORAGE__RETENTION", "8d")
    for _ in range(9):
        folder = Path("models/baseline/town/climatology") / f"20240101T00000{len(list(Path('models').rglob('2024*')))}Z"
        folder.mkdir(parents=True)
    done = velib("prune", "--json")
    assert done.code == 0
    assert done.data["issues"] == 2
    assert done.data["models"] == 2
    assert done.data["rows"] > 100
    assert velib("prune").output == ("0 days packed, 0 days, 0 rows, 0 issues and 0 old models deleted\n")
    assert len(list(Path("models/baseline/town/climatology").iterdir())) == 7
    nowhere = velib("prune", "--db", "sqlite:///nowhere.db", "--json")
    assert (nowhere.code, nowhere.data["rows"], Path("nowhere.db").exists()) == (0, 0, False)
