"""`velib train`, `predict` and `backtest` end to end on a small imported history."""

import csv
import io
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import Result, Velib, exit_code, runner
from tests.test_models.panels import small_city
from velib_predictor.data.panel import CHANNELS
from velib_predictor.utils.temporal import format_time

START = datetime(2024, 10, 23, tzinfo=UTC)
END = START + timedelta(days=4)
NOW = "2024-10-26T12:07:00Z"
"""Between two ticks; the one before is NOW's issue."""
TRAIN = ("--horizons", "15m,1h,2h", "--targets", "bikes,docks")
WINDOWS = (
    *("--train-from", "2024-10-23T00:00:00Z", "--train-until", "2024-10-25T12:00:00Z"),
    *("--test-from", "2024-10-26T00:00:00+02:00", "--test-until", "2024-10-26T06:00:00+02:00"),
)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `town.db`: four days of the small city, imported."""
    folder = tmp_path_factory.mktemp("history")
    panel = small_city(days=4)
    status: list[dict[str, Any]] = []
    for place, tick in enumerate(panel.ticks.tolist()):
        for station, name in enumerate(panel.stations.id):
            if not panel.observed[place, station].any():
                continue
            counts = zip(CHANNELS, panel.counts[place, station].tolist(), strict=True)
            row = {channel: count if count >= 0 else None for channel, count in counts}
            at = tick.replace(tzinfo=UTC)
            row["is_renting"] = bool(panel.open[place, station])
            status.append({"system_id": "town", "station_id": name, "observed_at": at, **row})
    pq.write_table(pa.Table.from_pylist(status), folder / "status.parquet")
    stations = [
        {"system_id": "town", "station_id": name, "code": f"c{name}", "name": f'Place "{name}", nord',
         "lat": panel.stations.lat[n], "lon": panel.stations.lon[n], "capacity": int(panel.capacity[0, n])}
        for n, name in enumerate(panel.stations.id)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(stations), folder / "stations.parquet")
    files = ("--stations", folder / "stations.parquet", "--status", folder / "status.parquet")
    arguments = ["velib", "import", "--system", "town", "--timezone", "Europe/Paris", *files]
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("VELIB_", "DB_")) or name in ("DATABASE_URL", "LOG_LEVEL"):
                patch.delenv(name)
        patch.chdir(folder)
        patch.setattr(sys, "argv", [*map(str, arguments), "--db", f"sqlite:///{folder}/town.db"])
        imported = exit_code()
    assert imported == 0
    return folder


@pytest.fixture
def velib(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], history: Path) -> Velib:
    """Runs `velib ...` on that history, in an empty folder of its own."""

    plain = runner(monkeypatch, capfd)

    def run(*arguments: object) -> Result:
        database = ("--db", f"sqlite:///{history}/town.db") if "--db" not in arguments else ()
        return plain(*arguments, *database)

    return run


@pytest.fixture
def trained(velib: Velib) -> Velib:
    """With a fitted model."""
    assert velib("train", "persistence_delta", "--system", "town", *TRAIN).code == 0
    return velib


def refused(result: Result, *words: str) -> None:
    """A usage error in one plain line on stderr that has all these words; nothing on stdout."""
    assert result.code == 2, result
    assert result.output == ""
    assert len(result.errors.strip().splitlines()) == 1
    for word in words:
        assert word in result.errors


# -- train ---------------------------------------------------------------------------------------------------


def test_train_says_what_was_fitted_and_keeps_it(velib: Velib) -> None:
    result = velib(
        "train", "persistence_delta", "--system", "town", *TRAIN, "--until", "2024-10-26T00:00:00Z", "--json"
    )
    assert result.code == 0
    assert result.data["until"] == "2024-10-26T00:00:00Z"
    assert result.data["spec"] == {"step": "15m", "horizons": ["15m", "1h", "2h"], "targets": ["bikes", "docks"]}
    folder = Path(result.data["folder"])
    assert (folder / "metadata.json").is_file()
    assert folder.parts[-5:-1] == ("models", "baseline", "town", "persistence_delta")
    human = velib("train", "persistence", "--system", "town", *TRAIN)
    assert human.output.startswith("persistence fitted on ")
    assert human.errors == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["oracle"], ["unknown model 'oracle'", "persistence, persistence_delta, climatology, linear"]),
        (["persistence", "--targets", "scooters"], ["'scooters'", "bikes, mechanical, ebikes, docks"]),
        (["persistence", "--targets", ""], ["no target given", "bikes, mechanical, ebikes, docks"]),
        (["persistence", "--horizons", "20m"], ["20m is no multiple of the step 15m"]),
        (["persistence", "--horizons", "soon"], ["'soon' is not a duration", "15m"]),
        (["persistence", "--horizons", ""], ["no horizon given", "15m,30m,1h"]),
        (["persistence", "--step", "0m"], ["'0m' is not a duration"]),
        (["persistence", "--until", "2024-10-26"], ["no offset from UTC", "2024-10-26Z"]),
        (["persistence", "--until", "yesterday"], ["'yesterday' is not a time"]),
    ],
)
def test_train_refuses_what_cannot_be_meant_and_says_what_can(
    velib: Velib, arguments: list[str], words: list[str]
) -> None:
    refused(velib("train", *arguments, "--system", "town"), *words)
    assert not Path("models").exists()


def test_train_of_an_unknown_system_names_those_there_are(velib: Velib) -> None:
    refused(velib("train", "persistence", "--system", "oslo"), "no system 'oslo'; there are: town")


def test_too_little_history_says_how_much_there_is_and_how_much_is_needed(velib: Velib) -> None:
    asked = ("train", "persistence_delta", "--system", "town", *TRAIN, "--until", "2024-10-23T01:00:00Z")
    result = velib(*asked, "--json")
    assert (result.code, result.output) == (1, "")
    assert "too little history to fit persistence_delta: 4 usable ticks of 15m" in result.errors
    assert "24 are needed" in result.errors
    assert not list(Path.cwd().rglob("metadata.json"))


# -- predict -------------------------------------------------------------------------------------------------


def test_predict_prints_the_same_numbers_in_all_formats(trained: Velib) -> None:
    asked = ("predict", "--now", NOW, "--horizon", "30m")
    rows = trained(*asked, "--json")
    assert (rows.code, rows.errors) == (0, "")
    assert {row["station_id"] for row in rows.data if row["target"] == "bikes"} > {"103", "104"}
    assert "104" not in {row["station_id"] for row in rows.data if row["target"] == "docks"}  # it tells of none
    assert {(row["issued_at"], row["target_at"]) for row in rows.data} == {
        ("2024-10-26T12:00:00Z", "2024-10-26T12:37:00Z")
    }
    lines = list(csv.DictReader(io.StringIO(trained(*asked, "--csv").output)))
    assert [line["name"] for line in lines] == [row["name"] for row in rows.data]
    assert [float(line["p_ge_1"]) for line in lines] == [row["p_ge_1"] for row in rows.data]
    shapes = json.loads(trained(*asked, "--geojson").output)
    assert [shape["properties"]["mean"] for shape in shapes["features"]] == [row["mean"] for row in rows.data]
    assert [shape["geometry"]["coordinates"] for shape in shapes["features"]] == [
        [row["lon"], row["lat"]] for row in rows.data
    ]
    table = trained(*asked).output.splitlines()
    assert table[0] == "town, persistence_delta, issued 2024-10-26 14:00 (Europe/Paris)"
    assert len(table) == 2 + len(rows.data)
    assert "Sat 14:37" in table[2]


def test_predict_a_station_by_id_or_code_at_a_time_or_at_all_horizons(trained: Velib) -> None:
    by_id = trained("predict", "103", "--now", NOW, "--at", "2024-10-26T15:00:00+02:00", "--json").data
    by_code = trained("predict", "c103", "--now", NOW, "--at", "2024-10-26T13:00:00Z", "--json").data
    assert by_id == by_code
    assert {row["target_at"] for row in by_id} == {"2024-10-26T13:00:00Z"}
    everywhere = trained("predict", "103", "--now", NOW, "--json").data
    assert [row["target_at"][11:16] for row in everywhere] == ["12:15", "12:15", "13:00", "13:00", "14:00", "14:00"]
    assert by_id[0] == everywhere[2]


def test_the_longest_horizon_may_be_asked_for_between_two_ticks(trained: Velib) -> None:
    """It counts from the issue, seven minutes ago."""
    result = trained("predict", "103", "--now", NOW, "--horizon", "2h", "--json")
    assert result.code == 0
    assert {row["target_at"] for row in result.data} == {"2024-10-26T14:00:00Z"}


def test_the_model_in_force_answers_unless_one_is_named(trained: Velib) -> None:
    """The one that was trained last; once one was chosen that one, whatever is trained after it."""

    def asked(*more: str) -> str:
        return str(trained("predict", "103", "--now", NOW, "--json", *more).data[0]["model"])

    def train(*arguments: str) -> str:
        return trained("train", *arguments, "--system", "town", *TRAIN).output.splitlines()[-1]

    assert train("climatology") == "it stands in where the model in force has no answer"
    assert (asked(), asked("--model", "climatology")) == ("persistence_delta", "climatology")
    assert train("queueing") == "it is in force"
    assert asked() == "queueing"
    assert train("persistence_delta", "--promote") == "it is in force"
    assert train("queueing").startswith("another model was chosen to be in force; `velib models promote` compares")
    assert (asked(), asked("--model", "queueing")) == ("persistence_delta", "queueing")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["999"], ["no station '999' (id or code)", "there are 7, such as 100, 101"]),
        (["--model", "oracle"], ["unknown model 'oracle'; there are: persistence"]),
        (["--model", "linear"], ["there are: persistence_delta", "`velib train linear --system town`"]),
        (["--horizon", "3h"], ["cannot be forecast", "reach to 2h after it"]),
        (["--at", "2024-10-26T11:00:00Z"], ["cannot be forecast", "issued at 2024-10-26T12:00:00Z"]),
        (["--at", "2024-10-26T13:00:00"], ["no offset from UTC"]),
        (["--now", "2024-10-26T13:00:00"], ["no offset from UTC"]),
        (["--now", "2024-10-01T13:00:00Z"], ["has no rows of 'town'"]),
        (["--at", "2024-10-26T13:00:00Z", "--horizon", "1h"], ["--at and --horizon"]),
        (["--csv", "--geojson"], ["one of --json, --csv and --geojson"]),
        (["--system", "oslo"], ["has no system 'oslo'"]),
    ],
)
def test_predict_refuses_what_cannot_be_meant_and_says_what_can(
    trained: Velib, arguments: list[str], words: list[str]
) -> None:
    now = () if "--now" in arguments else ("--now", NOW)
    refused(trained("predict", *arguments, *now), *words)


@pytest.mark.parametrize("asked", [(), ("--model", "coldstart")])
def test_predict_without_a_model_is_answered_by_the_cold_start_model(velib: Velib, asked: tuple[str, ...]) -> None:
    result = velib("predict", "--now", NOW, "--horizon", "1h", "--json", *asked)
    assert result.code == 3
    assert {row["model"] for row in result.data} == {"coldstart"}
    assert (
        result.errors == "velib: no model has been trained for town yet (`velib train`): the cold-start model answers\n"
    )
    refused(velib("predict", "--now", NOW, "--model", "linear"), "`velib train linear --system town`")


def test_predict_from_old_data_is_degraded_and_says_how_old_it_is(trained: Velib) -> None:
    for more in ((), ("--now", "2025-01-01T00:00:00Z")):
        result = trained("predict", "--json", *more)
        assert (result.code, result.output) == (3, "")
        assert "nothing of 'town' was observed in the 15m before" in result.errors
        assert f"the newest is of {format_time(END - timedelta(minutes=15))}" in result.errors
    assert "66d15m before that" in result.errors


# -- backtest ------------------------------------------------------------------------------------------------


def test_backtest_prints_one_json_document_and_writes_forecasts_and_report(velib: Velib) -> None:
    out = ("--forecasts-out", "out/forecasts.parquet", "--report-out", "out/report")
    asked = ("backtest", "--system", "town", "--models", "persistence_delta, climatology", *WINDOWS, *TRAIN)
    result = velib(*asked, *out, "--tolerance", "5m", "--json")
    assert (result.code, result.errors) == (0, "")
    data = result.data
    assert list(data["models"]) == ["persistence", "persistence_delta", "climatology"]
    assert data["protocol"]["tolerance"] == "5m"
    assert data["protocol"]["test_from"] == "2024-10-25T22:00:00Z"
    assert data["origins"] == 24
    rows = {name: [row["rows"] for row in model["scores"]] for name, model in data["models"].items()}
    assert rows["persistence"] == rows["persistence_delta"] == rows["climatology"]
    assert min(rows["persistence"]) > 50
    assert json.loads(Path("out/report/report.json").read_text()) == data
    assert "<html" in Path("out/report/report.html").read_text()
    table = pq.read_table("out/forecasts.parquet")
    assert set(table["model"].to_pylist()) == set(data["models"])
    assert len(set(table["issued_at"].to_pylist())) == 24
    assert sorted(path.name for path in Path("out").rglob("*")) == [
        "forecasts.parquet", "report", "report.html", "report.json"
    ]  # fmt: skip


def test_backtest_for_people_is_a_table_with_persistence_first(velib: Velib) -> None:
    result = velib("backtest", "--system", "town", "--models", "persistence_delta", *WINDOWS, *TRAIN)
    lines = result.output.splitlines()
    assert (result.code, lines[0][:34]) == (0, "town: 24 origins, 7 stations; no i")
    assert [line.split()[:3] for line in lines[2:4]] == [
        ["bikes", "15m", "persistence"],
        ["bikes", "15m", "persistence_delta"],
    ]
    assert len(lines) == 2 + 2 * 2 * 3 + 1
    assert lines[-1].startswith("RPS over all, persistence minus persistence_delta: +")
    against = velib("backtest", "--system", "town", "--models", "persistence_delta", *WINDOWS, *TRAIN, "--against",
                    "persistence")  # fmt: skip
    assert against.output.splitlines()[-1].startswith("RPS over all, persistence_delta minus persistence: -")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "linear,oracle"], ["unknown model 'oracle'; there are: persistence"]),
        (["--models", "climatology,climatology"], ["each model once"]),
        (["--against", "xgboost"], ["compared with 'xgboost'", "there are: persistence, persistence_delta"]),
        (["--test-from", "2024-10-25T00:00:00Z"], ["inside the training window, which ends at 2024-10-25T12:00:00Z"]),
        (["--test-until", "2024-10-25T22:00:00Z"], ["the test window is empty"]),
        (["--train-until", "2024-10-23T00:00:00Z"], ["the training window is empty"]),
        (["--test-from", "2024-10-26T00:00:00"], ["no offset from UTC", "+01:00"]),
        (["--test-from", "2024-12-01T00:00:00Z", "--test-until", "2024-12-02T00:00:00Z"], ["no observation between"]),
        (["--targets", "cars"], ["'cars'", "bikes, mechanical, ebikes, docks"]),
        (["--horizons", "7m"], ["7m is no multiple of the step 15m"]),
        (["--tolerance", "long"], ["'long' is not a duration"]),
        (["--forecasts-out", "f.csv"], [".parquet", "'f.csv'"]),
        (["--system", "oslo"], ["no system 'oslo'; there are: town"]),
    ],
)
def test_backtest_refuses_what_cannot_be_meant_and_says_what_can(
    velib: Velib, arguments: list[str], words: list[str]
) -> None:
    asked = ("--system", "town", "--models", "persistence_delta", *WINDOWS, *TRAIN)
    refused(velib("backtest", *asked, *arguments, "--json"), *words)
    assert list(Path.cwd().rglob("*.parquet")) == []


def test_a_file_name_is_refused_before_the_database_is_asked(velib: Velib) -> None:
    asked = ("--system", "town", "--models", "persistence", *WINDOWS, "--db", "sqlite:///nowhere.db")
    refused(velib("backtest", *asked, "--forecasts-out", "f.csv"), ".parquet")
    Path("taken").write_text("a file")
    result = velib("backtest", *asked, "--report-out", "taken")
    assert (result.code, "taken" in result.errors, "database" in result.errors) == (1, True, False)


def test_backtest_with_too_little_history_says_how_much_is_needed(velib: Velib) -> None:
    asked = ("--system", "town", "--models", "climatology", *WINDOWS, *TRAIN, "--train-from", "2024-10-25T11:00:00Z")
    result = velib("backtest", *asked, "--json", "--forecasts-out", "f.parquet")
    assert (result.code, result.output) == (1, "")
    assert "4 usable ticks" in result.errors
    assert "9 are needed" in result.errors  # of persistence, for its longest horizon
    assert not Path("f.parquet").exists()
