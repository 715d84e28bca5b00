"""The command line: exit codes, JSON on stdout, plain sentences on stderr. Feeds are real HTTP on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import Velib, runner
from tests.test_data import feeds
from tests.test_data.feedserver import FeedServer


@pytest.fixture
def velib(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Velib:
    """Runs `velib ...` in this process, in an empty folder."""
    return runner(monkeypatch, capfd)


@pytest.fixture
def server() -> Iterator[FeedServer]:
    names = ["station_status", "station_information", "system_information"]
    with FeedServer() as server:
        server.serve("/gbfs.json", feeds.discovery("2.3", server.url, names))
        server.serve("/system_information.json", feeds.system("2.3"))
        server.serve("/station_information.json", feeds.information("2.3", [feeds.described("2.3", n) for n in "abc"]))
        server.serve("/station_status.json", feeds.status("2.3", [feeds.station("2.3", n, 4, 16) for n in "abc"]))
        yield server


def test_no_command_and_unknown_command_and_option_are_usage_errors(velib: Velib) -> None:
    assert velib("--help").code == 0
    assert velib("--version").output.startswith("velib 0.")
    assert velib("fly").code == 2
    assert velib("collect", "--evry", "60s").code == 2


def test_a_wrong_setting_is_a_usage_error_that_names_it(velib: Velib, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("collector: {evry: 60s}\n")
    result = velib("db", "status", "--config", file)
    assert result.code == 2
    assert "mine.yaml" in result.errors
    assert "'every'" in result.errors


def test_database_lifecycle(velib: Velib, database_url: str, tmp_path: Path) -> None:
    fresh = f"sqlite:///{tmp_path}/sub/new.db"
    before = velib("db", "status", "--db", fresh, "--json")
    assert before.code == 1
    assert velib("db", "init", "--db", fresh).code == 0
    assert velib("db", "upgrade", "--db", fresh).code == 0
    for url in (fresh, database_url):
        status = velib("db", "status", "--db", url, "--json")
        assert status.code == 0
        assert status.data["current"]
        assert status.data["systems"] == []
    assert velib("db", "status", "--db", database_url).code == 0


def test_an_uninitialised_or_newer_database_is_refused_with_the_command_that_helps(
    velib: Velib, tmp_path: Path
) -> None:
    import sqlite3

    url = f"sqlite:///{tmp_path}/velib.db"
    refused = velib("export", "status", "--system", "velib", "--out", "x.csv", "--db", url)
    assert (refused.code, "velib db init" in refused.errors) == (1, True)
    velib("db", "init", "--db", url)
    with sqlite3.connect(tmp_path / "velib.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = velib("export", "status", "--system", "velib", "--out", "x.csv", "--db", url)
    assert (refused.code, "9999" in refused.errors) == (1, True)


def test_collect_once_stores_what_the_feed_says(velib: Velib, server: FeedServer, database_url: str) -> None:
    asked = ("collect", "--once", "--system", "town", "--url", f"{server.url}/gbfs.json", "--db", database_url)
    result = velib(*asked, "--json")
    assert result.code == 0
    assert {k: result.data[k] for k in ("outcome", "stations", "changed", "rejected")} == {
        "outcome": "ok",
        "stations": 3,
        "changed": 3,
        "rejected": 0,
    }
    assert velib(*asked).output.startswith("town: ok, 3 stations, 0 changed")
    status = velib("db", "status", "--db", database_url, "--json").data["systems"][0]
    assert (status["name"], status["stations"], status["rows"], status["polls"]) == ("Town Bikes", 3, 3, 2)
    replayed = velib("replay", "data/raw", "--db", "sqlite:///again.db", "--json")
    assert replayed.data == {"recorded": 2, "known": 0, "damaged": 0}
    nothing = {"packed": 0, "deleted": 0, "rows": 0, "issues": 0, "models": 0}
    assert velib("prune", "--db", database_url, "--json").data == nothing


def test_collect_once_says_degraded_and_unreachable_by_its_exit_code(velib: Velib, server: FeedServer) -> None:
    asked = ("collect", "--once", "--system", "town", "--url", f"{server.url}/gbfs.json", "--json")
    server.serve("/station_status.json", feeds.status("2.3", []))
    result = velib(*asked)
    assert (result.code, result.data["outcome"], result.data["detail"]) == (
        3,
        "quarantined",
        "the station list is empty",
    )
    server.serve("/station_status.json", b"<html>challenge</html>")
    assert velib(*asked).code == 4
    server.remove("/station_status.json")
    assert velib(*asked).code == 4


def test_collect_refuses_what_cannot_be_meant(velib: Velib) -> None:
    assert "there are: velib" in velib("collect", "--once", "--system", "oslo").errors
    assert "--system" in velib("collect", "--once", "--url", "http://127.0.0.1/gbfs.json").errors
    assert "no web address" in velib("collect", "--once", "--system", "x", "--url", "gbfs.json").errors
    assert velib("collect", "--every", "15 minutes").code == 2


def test_doctor_measures_how_late_last_reported_runs(velib: Velib, server: FeedServer) -> None:
    asked = ("doctor", "--system", "town", "--url", f"{server.url}/gbfs.json", "--json")
    findings = {finding["check"]: finding for finding in velib(*asked).data}
    assert findings["town: feed"]["stations"] == 3
    assert findings["town: last_reported"]["newest_s"] > 0
    assert findings["database"]["severity"] == "note"
    server.remove("/gbfs.json")
    server.remove("/station_status.json")
    assert velib(*asked).code == 4


def test_doctor_measures_it_from_the_stored_rows_too(velib: Velib, server: FeedServer, database_url: str) -> None:
    source = ("--system", "town", "--url", f"{server.url}/gbfs.json", "--db", database_url)
    for bikes in (4, 5, 6):  # counts move, last_reported does not
        stations = [feeds.station("2.3", name, bikes, 20 - bikes) for name in "abc"]
        server.serve("/station_status.json", feeds.status("2.3", stations))
        assert velib("collect", "--once", *source).code == 0
    result = velib("doctor", "--offline", *source, "--json")
    assert result.code == 0
    findings = {finding["check"]: finding for finding in result.data}
    assert findings["town: last_reported"]["changes"] == 6
    assert findings["town: last_reported"]["silent_share"] == 1.0
    assert findings["town: ledger"]["severity"] == "ok"


def test_doctor_says_that_a_database_cannot_be_reached(velib: Velib) -> None:
    result = velib("doctor", "--offline", "--db", "postgresql://nobody:secret@127.0.0.1:1/none")
    assert result.code == 1
    assert "is PostgreSQL running there" in result.output
    assert "secret" not in result.output + result.errors


def test_a_replay_of_no_archive_is_refused(velib: Velib, tmp_path: Path) -> None:
    assert velib("replay", "nowhere").code == 2
    (tmp_path / "empty").mkdir()
    assert "is no raw archive" in velib("replay", "empty").errors


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["collect", "--every", "9000000d"], 2, "at most 7d"),
        (["collect", "--every", "1s"], 2, "at most every 10s"),
        (["collect", "--once", "--system", "../evil", "--url", "http://127.0.0.1:1/"], 2, "no name for a system"),
        (["collect", "--once", "--system", "2026-11-23", "--url", "http://127.0.0.1:1/"], 2, "not a date"),
        (["collect", "--once", "--db", "sqlite:///junk.db"], 1, "something else"),
        (["db", "init", "--db", "sqlite:///junk.db/velib.db"], 1, "junk.db"),
    ],
)
def test_what_cannot_be_is_one_plain_sentence(
    velib: Velib, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "junk.db").write_text("this is no database")
    result = velib(*arguments)
    assert result.code == code
    assert said in result.errors
    assert len(result.errors.strip().splitlines()) == 1


def test_only_an_upstream_that_cannot_be_reached_is_called_so(
    velib: Velib, server: FeedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("collect", "--once", "--system", "town", "--url", f"{server.url}/gbfs.json")
    with monkeypatch.context() as patched:
        patched.setattr(
            "velib_predictor.data.archive.Archive.put", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        result = velib(*asked)
        assert (result.code, "the raw archive cannot be written" in result.output) == (1, True)
    server.serve("/gbfs.json", feeds.discovery("2.3", server.url, ["system_information"]))
    server.remove("/station_status.json")
    scooters = velib("collect", "--once", "--system", "scooters", "--url", f"{server.url}/gbfs.json")
    assert (scooters.code, "lists no stations" in scooters.output) == (1, True)


def test_keys_and_passwords_in_an_address_are_told_nobody(velib: Velib) -> None:
    url = "http://user:SECRET1@127.0.0.1:1/gbfs.json?api_key=SECRET2"
    result = velib("collect", "--once", "--system", "town", "--url", url)
    velib("export", "polls", "--system", "town", "--out", "polls.csv")
    assert "SECRET" not in result.output + result.errors + Path("polls.csv").read_text()
    assert result.code == 4


def test_prune_counts_age_from_the_newest_row(
    velib: Velib, server: FeedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies still does not get old: years after the last poll, nothing is deleted."""
    from datetime import UTC, datetime, timedelta

    from velib_predictor.data.database import Database
    from velib_predictor.data.inventory import delete_expired_rows

    velib("collect", "--once", "--system", "town", "--url", f"{server.url}/gbfs.json")
    database = Database("sqlite:///data/velib.db")
    day, far = timedelta(days=1), datetime.now(UTC) + timedelta(days=4000)
    assert delete_expired_rows(database, 30 * day, far) == 0
    database.close()
    monkeypatch.setenv("VELIB_STORAGE__RETENTION", "30d")
    assert velib("prune", "--json").data["rows"] == 0
    server.serve("/station_status.json", feeds.status("2.3", [feeds.station("2.3", name, 9, 11) for name in "abc"]))
    velib("collect", "--once", "--system", "town", "--url", f"{server.url}/gbfs.json")
    monkeypatch.setenv("VELIB_STORAGE__RETENTION", "0.000001s")
    assert velib("prune", "--json").data["rows"] == 4  # three stations, one poll
