"""`velib models list`, `promote`, `rollback`, and `retrain --promote`: for people, for programs, and how they end."""

import shutil
from pathlib import Path

import pytest

from tests.command_line import Result, Velib, runner
from tests.test_jobs.moods import CALM, DAY, LIVELY, START, store_moods
from velib_predictor.data.database import Database
from velib_predictor.inference.registry import Registry
from velib_predictor.utils.temporal import format_time


def wakes_up(day: int) -> float:
    return CALM if day < 9 else LIVELY


@pytest.fixture(scope="module")
def stored(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("moody") / "velib.db"
    shutil.copy(sqlite_template, file)
    database = Database(f"sqlite:///{file}")
    store_moods(database, wakes_up, 26)
    database.close()
    return file


@pytest.fixture
def velib(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stored: Path, tmp_path: Path) -> Velib:
    """Runs `velib ...` on that history, in a folder of its own."""
    (tmp_path / "data").mkdir()
    shutil.copy(stored, tmp_path / "data" / "velib.db")
    for name, value in (
        ("VELIB_FORECAST__TRAIN_MODEL", "persistence_delta"),
        ("VELIB_FORECAST__ISSUE_EVERY", "3h"),
        ("VELIB_FORECAST__TOLERANCE", "3h"),
        ("VELIB_FORECAST__TRAIN_DAYS", "8"),
        ("VELIB_LOG_LEVEL", "ERROR"),
    ):
        monkeypatch.setenv(name, value)
    return runner(monkeypatch, capfd)


def at(days: int) -> tuple[str, str]:
    return ("--now", format_time(START + days * DAY))


def refused(result: Result, code: int, *words: str) -> None:
    """One plain line on stderr that has all these words; nothing on stdout."""
    assert (result.code, result.output) == (code, ""), result
    assert len(result.errors.strip().splitlines()) == 1
    for word in words:
        assert word in result.errors


def trained(velib: Velib, days: int) -> str:
    """MODEL/VERSION of a model that is fitted until then."""
    row = velib("retrain", *at(days), "--json").data["moody"][-1]
    return "/".join(Path(row["folder"]).parts[-2:])


def test_train_list_promote_and_go_back(velib: Velib) -> None:
    old = trained(velib, 8)
    assert velib("models", "promote", old).output == f"moody: {old} is in force\n", "and stays so"
    better = trained(velib, 18)
    listed = velib("models", "list", "--json")
    assert (listed.code, listed.errors) == (0, "")
    found = listed.data["moody"]
    assert found["in_force"] == old
    aliases = {row["version"]: row["alias"] for row in found["versions"]}
    assert (aliases[old], aliases[better]) == ("champion", "challenger")
    assert [row["alias"] for row in found["versions"] if row["version"].startswith("climatology/")] == [
        "stand-in",
        None,
    ]
    first = found["versions"][-1]
    assert (first["first"], first["until"], first["days"]) == (format_time(START), format_time(START + 8 * DAY), 8)
    assert len(first["data_sha256"]) == 64

    # On the days from 18 on, which nobody has seen; however long ago they are.
    promoted = velib("models", "promote", "--json")
    assert (promoted.code, promoted.data["champion"]) == (0, better)
    assert promoted.data["comparison"]["test_from"] == format_time(START + 18 * DAY)
    assert promoted.data["comparison"]["test_until"] == format_time(START + 26 * DAY)
    assert promoted.data["comparison"]["high"] < 0
    assert velib("models", "list", "--json").data["moody"]["in_force"] == better
    assert velib("issue", *at(26), "--json").data[0]["model_version"] == better.split("/")[1]
    back = velib("models", "rollback")
    assert (back.code, back.output) == (0, f"moody: {old} is in force again\n")
    assert velib("issue", *at(26), "--json").data[0]["model_version"] == old.split("/")[1]
    events = [entry["event"] for entry in velib("models", "list", "--json").data["moody"]["events"]]
    assert events == ["newest", "settled", "challenger", "promoted", "rolled back"]


def test_every_night_in_one_command(velib: Velib, monkeypatch: pytest.MonkeyPatch) -> None:
    first = velib("retrain", "--promote", *at(8))
    assert first.output.splitlines()[-1] == "moody: promoted, it is the first model, and in force at once"
    waiting = velib("retrain", "--promote", *at(10), "--json")
    assert waiting.code == 0
    assert waiting.data["moody"]["promoted"] is False
    assert "2.0 days of history that it has not seen, and a comparison needs 6d" in waiting.data["moody"]["reason"]
    monkeypatch.setenv("VELIB_FORECAST__TRAIN_DAYS", "17")
    won = velib("retrain", "--promote", *at(26), "--json")
    assert won.code == 0
    assert won.data["moody"]["promoted"] is True
    assert won.data["moody"]["comparison"]["high"] < 0
    assert won.data["moody"]["trained"][-1]["alias"] == "champion"
    table = velib("models", "list").output.splitlines()
    assert table[0].split() == ["system", "version", "counts", "as", "fitted", "on", "RPS", "champion", "same"]
    (line,) = [line for line in table if " champion " in line and "persistence_delta" in line and "2026-01-14" in line]
    assert "2026-01-14 to 2026-01-31" in line
    assert f"{won.data['moody']['comparison']['rps']:.4f}" in line
    assert "it is better than the champion (RPS -" in line


def test_what_cannot_be_meant_is_refused_with_what_there_is(velib: Velib) -> None:
    refused(velib("models", "rollback"), 2, "say which system with --system", "none yet")
    assert velib("models", "list").output == "no model has been trained yet (`velib train`, `velib retrain`)\n"
    assert velib("models", "list", "--json").data == {}
    old = trained(velib, 8)
    refused(velib("models", "list", "--system", "oslo"), 2, "no model was trained for 'oslo'", "moody")
    refused(velib("models", "promote", "2019"), 2, "'2019' means no version of 'moody'", old, "velib models list")
    refused(velib("models", "promote"), 2, "moody has no challenger")
    assert velib("models", "promote", old).code == 0
    refused(velib("models", "promote", old), 1, f"{old} is in force already")
    refused(velib("models", "rollback"), 2, f"nothing to roll back to; {old} is the first")


def test_what_loses_is_damaged_or_too_new_is_refused(velib: Velib) -> None:
    old = trained(velib, 8)
    assert velib("models", "promote", old).code == 0
    newer = trained(velib, 26)
    for now in ((), at(27)):  # nobody is judged on days that are not there
        refused(velib("models", "promote", newer, *now), 1, "cannot be compared", "history reaches to 2026-01-31")
    assert velib("models", "promote", newer[:-3], "--force").output == f"moody: {newer} is in force\n"
    assert velib("models", "rollback").code == 0
    folder = Path("models/baseline/moody") / newer
    (folder / "state.safetensors").write_bytes(b"")
    for force in ((), ("--force",)):
        refused(velib("models", "promote", newer, *force), 1, "damaged", "train it anew")
    (folder / "metadata.json").write_text("{")
    rows = {row["version"]: row for row in velib("models", "list", "--json").data["moody"]["versions"]}
    assert rows[newer]["until"] is None
    assert "there is no model in" in rows[newer]["trouble"]
    assert "damaged" in velib("models", "list").output
    assert velib("models", "list", "--json").data["moody"]["in_force"] == old


def test_a_damaged_registry_is_said_and_the_newest_model_forecasts_on(velib: Velib) -> None:
    trained(velib, 8)
    newest = trained(velib, 18)
    Registry(Path("models"), "moody").file.write_text("{")
    for command in (
        ("models", "list"),
        ("models", "rollback"),
        ("models", "promote", newest),
        ("retrain", "--promote"),
    ):
        refused(velib(*command), 1, "registry/moody.json", "is damaged", "--force")
    issued = velib("issue", *at(26), "--json")
    assert (issued.code, issued.data[0]["state"]) == (3, "degraded")
    assert issued.data[0]["model_version"] == newest.split("/")[1]
    assert "the registry of moody is damaged" in issued.data[0]["reason"]
