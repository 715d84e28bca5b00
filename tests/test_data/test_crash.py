"""Real processes, really killed: no acknowledged poll is lost, none is stored twice, on both engines."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.test_data import feeds
from tests.test_data.feedserver import FeedServer, reply
from tests.test_data.polls import stored_ledger, stored_rows
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.data.archive import Archive
from velib_predictor.data.database import Database
from velib_predictor.data.replay import replay
from velib_predictor.data.snapshot import Outcome

STATUS_PATH = "/station_status.json"

KILLER = """
import os, signal, sys
from velib_predictor.cli import main
from velib_predictor.data import {module} as module
holder = getattr(module, "{holder}", module)
real, calls = getattr(holder, "{name}"), 0
def killing(*args, **more):
    global calls
    calls += 1
    if calls == {nth} and "{when}" == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **more)
    if calls == {nth} and "{when}" == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(holder, "{name}", killing)
sys.argv = ["velib", *sys.argv[1:]]
main()
"""

# One document at the first poll is the status, then the information and the discovery; later polls write two files.
POINTS = [
    ("archive", "", "_write_durably", 6, "before"),  # before the body is written
    ("archive", "", "_write_durably", 6, "after"),  # the body is there, the poll is not
    ("archive", "", "_sync_folder", 5, "before"),  # the poll is there, not yet acknowledged
    ("archive", "Archive", "put", 3, "after"),  # acknowledged
    ("store", "", "insert_rows", 3, "after"),  # inside the transaction
    ("store", "", "insert_poll", 3, "after"),  # inside the transaction, all written
    ("store", "Store", "record", 3, "after"),  # committed
]


@pytest.fixture
def server() -> Iterator[FeedServer]:
    """A town of 50 stations of which some move between any two polls."""
    generator = random.Random(5)
    bikes = [generator.randrange(20) for _ in range(50)]
    answers = []
    for _ in range(400):
        for i in generator.sample(range(50), 10):
            bikes[i] = generator.randrange(20)
        stations = [feeds.station("2.3", str(i), n, 20 - n, last_reported=feeds.posix()) for i, n in enumerate(bikes)]
        answers.append(reply(feeds.status("2.3", stations)))
    with FeedServer() as server:
        server.serve("/gbfs.json", feeds.discovery("2.3", server.url, ["station_status", "station_information"]))
        server.serve(
            "/station_information.json", feeds.information("2.3", [feeds.described("2.3", str(i)) for i in range(50)])
        )
        server.script(STATUS_PATH, answers)
        yield server


@pytest.fixture
def town(server: FeedServer, database_url: str, tmp_path: Path) -> Iterator["Town"]:
    """The server's town, on each engine; no process of it outlives the test."""
    town = Town(server, database_url, tmp_path)
    yield town
    town.end()


@pytest.fixture
def sqlite_town(server: FeedServer, sqlite_url: str, tmp_path: Path) -> Iterator["Town"]:
    """The server's town, on SQLite."""
    town = Town(server, sqlite_url, tmp_path)
    yield town
    town.end()


class Town:
    """Runs `velib collect` for the server's town, and looks at what is left."""

    def __init__(self, server: FeedServer, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.arguments = ["collect", "--system", "town", "--url", f"{server.url}/gbfs.json", "--db", url]
        self.environment = {"VELIB_DATA_DIR": str(folder), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
        self.archive = Archive(folder / "raw", "town")
        self.children: list[subprocess.Popen[str]] = []

    def start(self, *more: str, code: str | None = None) -> subprocess.Popen[str]:
        program = ["-c", code] if code else ["-m", "velib_predictor.cli"]
        child = subprocess.Popen(
            [sys.executable, *program, *self.arguments, *more],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def run(self, *more: str, code: str | None = None) -> tuple[int, str]:
        process = self.start(*more, code=code)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output + errors

    def end(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.communicate()

    def assert_nothing_lost_nothing_doubled(self) -> None:
        """The ledger is the archive's polls, once each; the rows are those of an undisturbed run over the archive."""
        archived = [raw.polled_at for raw, _ in self.archive.read()]
        database = Database(self.url)
        rows, ledger = stored_rows(database), stored_ledger(database)
        database.close()
        assert [at for at, *_ in ledger] == archived
        undisturbed = Database(f"sqlite:///{self.folder / 'undisturbed.db'}")
        undisturbed.upgrade()
        system = SystemSettings(url="http://127.0.0.1/")
        replay(undisturbed, [self.archive.folder], Settings(data_dir=self.folder, systems={"town": system}))
        assert stored_rows(undisturbed) == rows
        assert stored_ledger(undisturbed) == ledger
        undisturbed.close()


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point[4]}-{point[2]}")
def test_killed_at_each_step(town: Town, point: tuple[str, str, str, int, str]) -> None:
    module, holder, name, nth, when = point
    code = KILLER.format(module=module, holder=holder, name=name, nth=nth, when=when)
    status, output = town.run("--every", "0.1s", code=code)
    assert status == -signal.SIGKILL, output
    acknowledged = {raw.polled_at for raw, _ in town.archive.read()}
    assert acknowledged
    status, output = town.run("--once")
    assert status == 0, output
    assert acknowledged < {raw.polled_at for raw, _ in town.archive.read()}
    town.assert_nothing_lost_nothing_doubled()


def test_killed_at_any_moment(server: FeedServer, town: Town) -> None:
    generator = random.Random(11)
    for _ in range(4):
        process = town.start("--every", "0.1s")
        wanted = len(server.asked(STATUS_PATH)) + generator.randrange(1, 20)
        wait_for(lambda wanted=wanted: len(server.asked(STATUS_PATH)) >= wanted, process)  # type: ignore[misc]
        process.kill()
        process.communicate()
    status, output = town.run("--once")
    assert status == 0, output
    assert len(list(town.archive.read())) > 4
    town.assert_nothing_lost_nothing_doubled()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_tick_in_hand(server: FeedServer, sqlite_town: Town, number: int, code: int) -> None:
    town = sqlite_town
    stations = [feeds.station("2.3", str(i)) for i in range(50)]
    server.script(
        STATUS_PATH, [reply(feeds.status("2.3", stations)), reply(feeds.status("2.3", stations), delay_s=0.5)]
    )
    process = town.start("--every", "0.1s", "--json")
    wait_for(lambda: len(server.asked(STATUS_PATH)) == 2, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code, output + errors
    assert len(server.asked(STATUS_PATH)) == 2
    database = Database(town.url)
    told = [json.loads(line)["outcome"] for line in output.splitlines()]
    assert told == [outcome for _, outcome, *_ in stored_ledger(database)]
    outcomes = [outcome for _, outcome, *_ in stored_ledger(database)]
    assert outcomes.count(Outcome.OK) == 2
    assert set(outcomes) <= {Outcome.OK, Outcome.MISSED}
    database.close()


def test_a_second_collector_is_refused(server: FeedServer, town: Town) -> None:
    """In the same folder, and in another one on the same database."""
    with running(town, server):
        for folder in (town.folder, town.folder / "elsewhere"):
            folder.mkdir(exist_ok=True)
            status, output = Town(server, town.url, folder).run("--once")
            assert status == 1, output
            assert "already" in output
            assert "Traceback" not in output
    assert town.run("--once")[0] == 0  # a dead collector's lock is free


def test_several_systems_in_one_process(server: FeedServer, town: Town, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(
        f"systems:\n  town: {{url: '{server.url}/gbfs.json'}}\n  dead: {{url: '{server.url}/dead/gbfs.json'}}\n",
        "utf-8",
    )
    town.arguments = ["collect", "--db", town.url, "--every", "0.1s"]
    dead = Archive(tmp_path / "raw", "dead")
    with running(town, server) as process:
        wait_for(lambda: bool(dead.days()), process)
    database = Database(town.url)
    outcomes = {outcome for _, outcome, *_ in stored_ledger(database)}
    assert outcomes >= {Outcome.OK, Outcome.FAILED}
    database.close()


@contextmanager
def running(town: Town, server: FeedServer) -> Iterator[subprocess.Popen[str]]:
    """A collector that has made three polls; stopped at the end."""
    asked = len(server.asked(STATUS_PATH))
    process = town.start(*([] if "--every" in town.arguments else ["--every", "0.1s"]))
    try:
        wait_for(lambda: len(server.asked(STATUS_PATH)) >= asked + 3, process)
        yield process
    finally:
        process.terminate()
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 0, output + errors


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], patience_s: float = 30) -> None:
    """Until something is so; fails if the process ends first, or it takes too long."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert process.poll() is None, "".join(process.communicate())
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.001)
