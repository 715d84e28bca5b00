"""`velib serve`, `run` and `demo` as real processes: they start, answer, say what is wrong, and end when told to."""

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Velib, eventually
from tests.test_data import feeds
from tests.test_data.feedserver import FeedServer
from tests.test_inference.made import some_issue
from tests.test_jobs.moods import store_moods
from velib_predictor.commands.live import LiveSystem
from velib_predictor.config.config import Settings, SystemSettings, load_settings
from velib_predictor.config.daily import JobSettings
from velib_predictor.data.database import Database
from velib_predictor.data.stations import ensure_system
from velib_predictor.inference.issues import Issues
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import IssueJob
from velib_predictor.utils.errors import VelibError

MINUTE = timedelta(minutes=1)
NAMES = ["station_status", "station_information", "system_information"]


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """Where a process in `tmp_path` finds it; with a system and one issue."""
    (tmp_path / "data").mkdir()
    shutil.copy(sqlite_template, tmp_path / "data" / "velib.db")
    database = Database(f"sqlite:///{tmp_path}/data/velib.db")
    with database.write() as connection:
        ensure_system(connection, "town", name="Town Bikes", timezone="Europe/Paris")
    Issues(database, "town").add(some_issue(issued_at=datetime.now(UTC).replace(second=0, microsecond=0)))
    yield database
    database.close()


@pytest.fixture
def feed() -> Iterator[FeedServer]:
    with FeedServer() as server:
        yield server


def publish(server: FeedServer) -> None:
    """Three stations."""
    server.serve("/gbfs.json", feeds.discovery("2.3", server.url, NAMES))
    server.serve("/system_information.json", feeds.system("2.3"))
    server.serve("/station_information.json", feeds.information("2.3", [feeds.described("2.3", n) for n in "abc"]))
    server.serve("/station_status.json", feeds.status("2.3", [feeds.station("2.3", n, 4, 16) for n in "abc"]))


def answer(client: httpx.Client, url: str) -> Any:
    """Its JSON where it is a success, else None."""
    response = client.get(url)
    return response.json() if response.is_success else None


# -- serve ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_answers_follows_the_database_and_ends(
    database: Database, client: httpx.Client, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with Velib("serve", "--port", 0, folder=tmp_path) as velib:
        station = f"{velib.address}/v1/systems/town/stations/101/forecast"
        first = eventually(lambda: answer(client, station))
        assert first["model"] == "any"
        newer = some_issue(issued_at=datetime.now(UTC).replace(microsecond=0), model="newer")
        Issues(database, "town").add(newer)
        eventually(lambda: answer(client, station)["model"] == "newer")
        assert velib.end(number) == code
        assert velib.said[1:] == (["velib: stopped"] if code else [])


def test_serve_on_a_port_that_is_taken_says_so(database: Database, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("serve", "run"):
            with Velib(command, "--port", port, folder=tmp_path) as velib:
                assert velib.end() == 1
                assert velib.said == [
                    f"velib: port {port} on 127.0.0.1 is taken by another program; choose one with --port"
                ]
    assert Issues(database, "town").mark() is not None


def test_serve_ends_with_its_api(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that listens to nobody must not look alive to whoever watches over it."""
    from velib_predictor.api.server import Server
    from velib_predictor.commands.serve import serve

    monkeypatch.setattr(Server, "alive", property(lambda _self: False))
    with pytest.raises(VelibError, match="the API has ended although nobody asked it to"):
        serve(port=0, db=str(database.url))
    assert not [thread for thread in threading.enumerate() if thread.name in ("follow", "api")]
    assert tmp_path.is_dir()


# -- run -----------------------------------------------------------------------------------------------------


def test_run_polls_issues_and_serves(feed: FeedServer, client: httpx.Client, tmp_path: Path) -> None:
    publish(feed)
    asked = ("run", "--system", "town", "--url", f"{feed.url}/gbfs.json", "--every", "1s", "--port", 0)
    often = {"VELIB_FORECAST__ISSUE_EVERY": "2s", "VELIB_LOG_LEVEL": "ERROR"}
    with Velib(*asked, folder=tmp_path, variables=often) as velib:
        velib.wait_for("town: the feed answers, 3 stations")
        system = f"{velib.address}/v1/systems/town"
        forecast = eventually(lambda: answer(client, f"{system}/stations/b/forecast"))
        assert forecast["now"]["bikes"] == 4
        assert forecast["state"] == "degraded", forecast["reason"]
        assert "no model has been trained for town yet" in forecast["reason"]
        again = eventually(
            lambda: (
                (new := answer(client, f"{system}/stations/b/forecast"))["issued_at"] > forecast["issued_at"] and new
            )
        )
        assert again["model"] == "coldstart"
        with Velib(*asked[:-1], 0, folder=tmp_path, variables=often) as second:
            assert second.end() == 1
            assert "already" in second.said[-1]
        feed.remove("/station_status.json")
        velib.wait_for("town: no usable answer from the feed .*; it is asked again, and what is stored is served")
        publish(feed)
        eventually(lambda: len([line for line in velib.said if "the feed answers" in line]) == 2)
        assert velib.runs
        assert velib.end(signal.SIGTERM) == 0
    assert len(velib.said) == 5
    assert "one is made every 2s, on the clock" in velib.said[1]


def test_run_from_nothing_forecasts_from_the_first_poll(feed: FeedServer, client: httpx.Client, tmp_path: Path) -> None:
    """Nobody waits for the next quarter of an hour: what the first poll shows is forecast, and by whom is said."""
    publish(feed)
    asked = ("run", "--system", "town", "--url", f"{feed.url}/gbfs.json", "--every", "1s", "--port", 0)
    with Velib(*asked, folder=tmp_path) as velib:
        velib.wait_for("one is made every 15m, on the clock; the first one as soon as the feed is heard")
        station = f"{velib.address}/v1/systems/town/stations/b/forecast"
        found = eventually(lambda: answer(client, station))
        assert (found["model"], found["state"], found["now"]["bikes"]) == ("coldstart", "degraded", 4)
        assert found["reason"] == (
            "no model has been trained for town yet (`velib retrain`); "
            "the cold-start model, which was trained on other systems, stands in for the model"
        )
        assert datetime.fromisoformat(found["observed_at"]) <= datetime.fromisoformat(found["issued_at"])
        bikes = [point["bikes"] for point in found["forecasts"]]
        assert len(bikes) == 12
        assert 0.5 < bikes[0]["p_ge_1"] < 1
        assert bikes[0]["q90"] - bikes[0]["q10"] < bikes[-1]["q90"] - bikes[-1]["q10"]
        assert velib.end(signal.SIGTERM) == 0
    database = Database(f"sqlite:///{tmp_path}/data/velib.db")
    assert len(Issues(database, "town").times()) <= 2, "later polls wait for the clock"
    database.close()


def test_run_without_a_feed_says_so_once_and_serves_on(
    database: Database, client: httpx.Client, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    asked = ("run", "--system", "town", "--url", f"http://127.0.0.1:{port}/gbfs.json", "--every", "1s", "--port", 0)
    with Velib(*asked, folder=tmp_path, variables={"VELIB_LOG_LEVEL": "WARNING"}) as velib:
        velib.wait_for(r"velib: town: no usable answer from the feed \(.*no connection.*`velib demo` shows everything")
        known = eventually(lambda: answer(client, f"{velib.address}/v1/systems/town/stations/101/forecast"))
        assert known["model"] == "any"
        eventually(lambda: len([line for line in velib.lines if '"outcome": "failed"' in line]) > 2)
        assert velib.runs
        assert velib.end(signal.SIGINT) == 130
        assert len([line for line in velib.said if "no usable answer" in line]) == 1
    assert Issues(database, "town").mark() is not None


def make_read_only(file: Path) -> None:
    """In a format that is only read, byte 18 of the file: SQLite keeps to it even where root runs the tests."""
    with file.open("r+b") as content:
        content.seek(18)
        content.write(b"\x03")


def test_run_on_a_new_database_that_is_read_only_says_what_to_check(
    sqlite_template: Path, feed: FeedServer, tmp_path: Path
) -> None:
    publish(feed)
    shutil.copy(sqlite_template, tmp_path / "velib.db")
    make_read_only(tmp_path / "velib.db")
    asked = ("run", "--system", "town", "--url", f"{feed.url}/gbfs.json", "--port", 0, "--db", "sqlite:///velib.db")
    with Velib(*asked, folder=tmp_path) as velib:
        assert velib.end() == 1
        assert "attempt to write a readonly database" in velib.said[-1]
        assert "check its permissions, and those of its folder" in velib.said[-1]


def test_run_on_a_database_that_has_become_read_only_keeps_polls_in_the_archive_and_serves_on(
    database: Database, feed: FeedServer, client: httpx.Client, tmp_path: Path
) -> None:
    publish(feed)
    database.close()
    make_read_only(tmp_path / "data" / "velib.db")
    asked = ("run", "--system", "town", "--url", f"{feed.url}/gbfs.json", "--every", "1s", "--port", 0)
    with Velib(*asked, folder=tmp_path) as velib:
        velib.wait_for("poll archived but not stored; the next tries again.*check its permissions")
        found = eventually(lambda: answer(client, f"{velib.address}/v1/systems/town/stations/101/forecast"))
        assert found["model"] == "any"
        assert velib.end(signal.SIGTERM) == 0
    assert [file for file in (tmp_path / "data" / "raw" / "town").rglob("*") if file.is_file()]


def live_system(database: Database, tmp_path: Path, system_id: str) -> LiveSystem:
    settings = Settings(data_dir=tmp_path / "data", database_url=str(database.url))
    systems = {system_id: SystemSettings(url="http://127.0.0.1:1/gbfs.json")}
    return LiveSystem(settings, database, systems, MINUTE, options=["--db", str(database.url)])


def test_training_that_fails_in_its_own_process_is_told(database: Database, tmp_path: Path) -> None:
    with pytest.raises(VelibError, match="training has ended with exit code 2"):
        live_system(database, tmp_path, "oslo")._retrain(threading.Event())


def test_issues_are_made_while_a_model_is_trained_which_gives_way(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real `velib retrain --promote`, in its own process, beside issues from this one: on one SQLite file."""
    shutil.copy(sqlite_template, tmp_path / "velib.db")
    with closing(Database(f"sqlite:///{tmp_path}/velib.db")) as database:
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        store_moods(database, lambda _day: 1.0, 13, midnight - timedelta(days=12))
        began: list[subprocess.Popen[bytes]] = []

        class Watched(subprocess.Popen[bytes]):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                began.append(self)

        monkeypatch.setattr(subprocess, "Popen", Watched)
        for name, value in (("ISSUE_EVERY", "3h"), ("TOLERANCE", "3h"), ("TRAIN_MODEL", "persistence_delta")):
            monkeypatch.setenv(f"VELIB_FORECAST__{name}", value)
        settings = load_settings(db=str(database.url))
        systems = {"moody": SystemSettings(url="http://127.0.0.1:1/gbfs.json")}
        live = LiveSystem(settings, database, systems, MINUTE, options=["--db", str(database.url)])
        training = threading.Thread(target=live._retrain, args=(threading.Event(),))
        training.start()
        eventually(lambda: began)
        eventually(lambda: os.getpriority(os.PRIO_PROCESS, began[0].pid) == 10 or began[0].returncode is not None)
        job, made, now = IssueJob(settings, database, "moody"), 0, datetime.now(UTC) - timedelta(days=9)
        while began[0].poll() is None:
            now += timedelta(hours=3)
            assert job.run(now).issued_at <= now
            made += began[0].poll() is None
            with suppress(subprocess.TimeoutExpired):
                began[0].wait(0.2)
        training.join()
        assert began[0].returncode == 0
        assert made > 3, "serving does not wait for training"
        champion = ModelStore(settings.models_dir).registry("moody").read().champion
        assert champion
        assert job.run(now + timedelta(hours=3)).version == champion.version


def test_what_is_done_daily_is_as_the_settings_say(database: Database, tmp_path: Path) -> None:
    def due(jobs: JobSettings, zone: str | None) -> dict[str, str]:
        settings = Settings(data_dir=tmp_path / "data", database_url=str(database.url), jobs=jobs)
        systems = {"town": SystemSettings(url="http://127.0.0.1:1/gbfs.json", timezone=zone)}
        made = LiveSystem(settings, database, systems, MINUTE)._jobs(threading.Event())
        noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
        return {job.name: f"{job.after(noon):%d %H:%M}" for job in made if job.due}

    assert due(JobSettings(), None) == {"retrain": "02 03:20", "prune": "02 04:20"}
    assert due(JobSettings(), "Europe/Paris") == {"retrain": "02 01:20", "prune": "02 02:20"}
    assert due(JobSettings(retrain_at=None), None) == {"prune": "02 04:20"}
    assert due(JobSettings(retrain_at=None, prune_at=None), None) == {}


def test_training_ends_when_the_system_does(database: Database, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    live_system(database, tmp_path, "town")._retrain(stop)
    assert not list(tmp_path.rglob("metadata.json"))


# -- demo ----------------------------------------------------------------------------------------------------

SMALL = ("--stations", 20, "--weeks", 1, "--model", "persistence_delta", "--port", 0)


def test_the_demonstration_from_nothing_and_once_more(client: httpx.Client, tmp_path: Path) -> None:
    prepared = "1 weeks of a city with 20 stations are simulated"
    with Velib("demo", *SMALL, "--speed", 600, folder=tmp_path) as first:
        first.wait_for("the model persistence_delta is trained on them")
        first.wait_for("city: the feed answers, 20 stations")
        found = eventually(lambda: answer(client, f"{first.address}/v1/systems/city/forecast"))
        assert len(found["features"]) == 20
        assert found["model"] == "persistence_delta"
        later = eventually(
            lambda: (
                (new := answer(client, f"{first.address}/v1/systems/city/forecast"))["issued_at"] > found["issued_at"]
                and new
            )
        )
        assert later["state"] == "fresh"
        assert first.end(signal.SIGINT) == 130
    assert prepared in "\n".join(first.said)
    before = (tmp_path / "data" / "demo" / "prepared.json").read_bytes()
    with Velib("demo", *SMALL, "--for", "2s", folder=tmp_path) as second:
        assert second.end() == 0
    assert [line.split(":")[1] for line in second.said] == [" the city's feed", " forecasts at http", " city"]
    assert (tmp_path / "data" / "demo" / "prepared.json").read_bytes() == before


def test_a_demonstration_that_was_interrupted_while_it_was_prepared_is_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "demo"
    with Velib("demo", *SMALL[:2], "--weeks", 30, *SMALL[4:], folder=tmp_path) as broken:
        eventually(folder.is_dir)  # it simulates; of thirty weeks that takes a while
        assert broken.end(signal.SIGINT) == 130
        assert broken.said == ["velib: interrupted while preparing; the next `velib demo` begins that anew"]
    assert not (folder / "prepared.json").exists()
    (folder / "models").mkdir(exist_ok=True)
    (folder / "history.db").write_text("half of something")
    with Velib("demo", *SMALL, "--for", "0.1s", folder=tmp_path) as whole:
        assert whole.end() == 0
    assert [line for line in whole.said if "trained on them" in line]
    assert (folder / "prepared.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "oracle"], "unknown model 'oracle'"),
        (["--for", "soon"], "'soon' is not a duration"),
    ],
)
def test_the_demonstration_refuses_what_cannot_be_meant_before_it_begins(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    with Velib("demo", "--port", 0, *arguments, folder=tmp_path) as velib:
        assert velib.end() == 2
    assert len(velib.said) == 1
    assert said in velib.said[0]
    assert not (tmp_path / "data").exists()
