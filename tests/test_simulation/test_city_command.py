"""`velib city history` writes what `velib import` takes."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from velib_predictor.commands import city as command
from velib_predictor.commands.city import app
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.simulation import checkpoint
from velib_predictor.simulation.city import City, CityConfig
from velib_predictor.utils.errors import UsageError


def test_history(tmp_path: Path, sqlite_url: str) -> None:
    words = ["history", "--out", str(tmp_path / "city"), "--weeks", "0.02", "--stations", "12", "--json"]
    done = CliRunner().invoke(app, [*words, "--until", "2026-10-06T05:03:00Z", "--every", "15m"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["from"], told["to"]) == ("2026-10-06T01:45:00Z", "2026-10-06T05:00:00Z")
    command = told["import"]
    files = [Path(command[command.index(f"--{name}") + 1]) for name in ("stations", "status", "polls")]
    database = Database(sqlite_url)
    report = import_history(database, "city", files[0], [files[1]], files[2], timezone="Europe/Paris")
    database.close()
    assert (report.stations_new, report.polls_stored) == (12, 13)


def test_it_serves_on_from_where_its_history_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["history", "--out", str(tmp_path), "--weeks", "0.02", "--stations", "12", "--seed", "4"]
    assert CliRunner().invoke(app, [*words, "--until", "2026-10-06T05:17:00Z", "--every", "1m"]).exit_code == 0
    told: list[dict[str, str]] = []
    answers: list[Any] = []

    def visit() -> None:
        answers.append(httpx.get(told[0]["feed"].replace("gbfs.json", "station_status.json")).json())

    monkeypatch.setattr(command, "emit", lambda data, *_: told.append(data))
    monkeypatch.setattr(command, "_until_interrupted", visit)
    done = CliRunner().invoke(app, ["serve", "--resume", str(tmp_path), "--port", "0", "--speed", "0"])
    assert done.exit_code == 0, done.exception
    simulation = checkpoint.load(City.make(CityConfig(stations=12, seed=4)), tmp_path / "city.npz")
    assert simulation.now == datetime(2026, 10, 6, 5, 17, tzinfo=UTC)
    shown = [station["numBikesAvailable"] for station in answers[0]["data"]["stations"]]
    assert shown == simulation.counts().bikes.tolist()


@pytest.mark.parametrize("wrong", [["--stations", "1"], ["--every", "30s"], ["--until", "yesterday"]])
def test_what_cannot_be_meant(tmp_path: Path, wrong: list[str]) -> None:
    done = CliRunner().invoke(app, ["history", "--out", str(tmp_path), "--weeks", "0.02", *wrong])
    assert isinstance(done.exception, UsageError)
