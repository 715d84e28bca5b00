"""Logging: one JSON object a line, quiet libraries, and no password anywhere."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from tests.conftest import REPOSITORY
from velib_predictor.utils.errors import SettingsError
from velib_predictor.utils.logger import DEFAULT, configure_logging, get_logger, redact_text
from velib_predictor.utils.temporal import parse_time

SHIPPED = REPOSITORY / "config" / "logging_config.yaml"


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == "", "stdout belongs to results"
    return [json.loads(line) for line in captured.err.splitlines()]


def test_the_built_in_settings_are_the_shipped_file() -> None:
    assert yaml.safe_load(SHIPPED.read_text(encoding="utf-8")) == DEFAULT


def test_a_json_line_has_time_level_logger_event_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    before = datetime.now(UTC)
    get_logger("velib.collector").info("polled", stations=1450, at=datetime(2024, 11, 5, 8, 10, tzinfo=UTC))
    (line,) = lines(capsys)
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert before <= parse_time(line.pop("timestamp")) <= datetime.now(UTC)
    assert line == {
        "level": "info",
        "logger": "velib.collector",
        "event": "polled",
        "stations": 1450,
        "at": "2024-11-05T08:10:00Z",
    }


def test_standard_loggers_and_bound_context_come_out_alike(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    with structlog.contextvars.bound_contextvars(system_id="velib"):
        logging.getLogger("some.library").warning("%d tries left", 2)
        get_logger("ours").bind(url="feed").info("asked %s", "twice")
    theirs, ours = lines(capsys)
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("2 tries left", "some.library", "warning")
    assert (ours["event"], ours["url"]) == ("asked twice", "feed")
    assert theirs["system_id"] == ours["system_id"] == "velib"


def test_auto_is_json_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    get_logger("x").info("hello")
    assert lines(capsys)[0]["event"] == "hello"


def test_auto_is_console_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure_logging()
    get_logger("x").info("hello", bikes=3)
    text = capsys.readouterr().err
    assert "hello" in text
    assert "\x1b[" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize("name", ["httpx", "httpcore.connection", "stamina", "alembic.runtime.migration"])
def test_talkative_libraries_are_quiet(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "json")
    logging.getLogger(name).info("much to say")
    logging.getLogger(name).warning("something is wrong")
    assert [line["event"] for line in lines(capsys)] == ["something is wrong"]


def test_the_level_decides_what_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING", "json")
    get_logger("x").info("no")
    get_logger("x").error("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://velib:hunter2@db:5432/velib", "postgresql://velib:***@db:5432/velib"),
        ("postgresql+psycopg://velib:hun/ter@2@db/velib", "postgresql+psycopg://velib:***@db/velib"),
        ("at https://user:hunter2@feed.example/gbfs.json now", "at https://user:***@feed.example/gbfs.json now"),
        ("host=db password=hunter2 dbname=velib", "host=db password=*** dbname=velib"),
        ("postgresql://db/velib?user=a&password=hunter2&x=1", "postgresql://db/velib?user=a&password=***&x=1"),
        ("DB_PASSWORD=hunter2", "DB_PASSWORD=***"),
        ("https://feed.example:8080/gbfs.json", "https://feed.example:8080/gbfs.json"),
        ("sqlite:///data/velib.db", "sqlite:///data/velib.db"),
        ("write to a@b.example at 08:10", "write to a@b.example at 08:10"),
    ],
)
def test_passwords_are_cut_out_and_nothing_else(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_way_of_logging_lets_a_password_out(fmt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", fmt)
    url = "postgresql://velib:hunter2@db/velib"
    log = get_logger("x")
    log.info(f"opening {url}")
    log.info(
        "opening", url=url, nested={"list": [url], "api_key": "hunter2"}, error=ValueError(url), DB_PASSWORD="hunter2"
    )
    logging.getLogger("library").warning("cannot reach %s", url)
    try:
        raise ConnectionError(f"no answer from {url}")
    except ConnectionError:
        log.exception("failed")
    captured = capsys.readouterr()
    assert "no answer from postgresql://velib:***@db/velib" in captured.err
    assert "hunter2" not in captured.err + captured.out


def test_a_file_handler_that_is_named_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "logging.yaml"
    settings.write_text(
        SHIPPED.read_text(encoding="utf-8").replace("handlers: [stderr]", "handlers: [stderr, file]"), encoding="utf-8"
    )
    configure_logging("INFO", "console", settings)
    get_logger("x").info("kept", station="Benjamin Godard - Victor Hugo, 8è")
    (line,) = (tmp_path / "logs" / "velib.log").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["station"] == "Benjamin Godard - Victor Hugo, 8è"
    assert "kept" in capsys.readouterr().err


def test_an_unused_file_handler_leaves_no_trace(tmp_path: Path) -> None:
    configure_logging("INFO", "json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("root: [", "not valid YAML"),
        ("just words", "expected `key: value` lines"),
        ("version: 1", "'root'"),
        ("version: 1\nhandlers: {a: {class: no.such.Handler}}\nroot: {handlers: [a]}", "no.such"),
        ("version: 1\nhandlers: {}\nroot: {handlers: [absent]}", "absent"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(content: str, expected: str, tmp_path: Path) -> None:
    settings = tmp_path / "logging.yaml"
    settings.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"logging\.yaml") as caught:
        configure_logging("INFO", "json", settings)
    assert expected in str(caught.value)


def test_a_missing_file_that_was_asked_for_is_an_error() -> None:
    with pytest.raises(SettingsError, match="do not exist"):
        configure_logging("INFO", "json", Path("absent.yaml"))


def test_importing_is_cheap_and_an_unconfigured_logger_keeps_off_stdout() -> None:
    program = (
        "import sys; from velib_predictor.utils.logger import get_logger; log = get_logger('x'); "
        "assert not {'structlog', 'yaml', 'rich', 'logging.config'} & set(sys.modules); log.warning('hello')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "hello" in done.stderr
