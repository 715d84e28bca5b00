"""Settings: the shipped file is the defaults, and whatever is wrong is named with where, what and what is allowed."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sqlalchemy import make_url

from tests.conftest import REPOSITORY
from velib_predictor.config.config import (
    VELIB,
    ArchiveSettings,
    CollectorSettings,
    FallbackSettings,
    Settings,
    StorageSettings,
    SystemSettings,
    load_settings,
)
from velib_predictor.utils.errors import ExitCode, SettingsError, UsageError

SHIPPED = REPOSITORY / "config" / "config.yaml"
SECTIONS: dict[str, Any] = {
    "": Settings,
    "collector": CollectorSettings,
    "archive": ArchiveSettings,
    "storage": StorageSettings,
    "systems.velib": SystemSettings,
    "systems.velib.fallback": FallbackSettings,
}


def write(content: Any, file: str = "config/config.yaml") -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def nested(path: str, key: str, value: Any) -> dict[str, Any]:
    """A settings file with one key, and beside it what is required there."""
    content: dict[str, Any] = {key: value}
    if path.startswith("systems.velib"):
        model = FallbackSettings if path.endswith("fallback") else SystemSettings
        required = {"kind": "opendata_paris"} if model is FallbackSettings else {}
        content = {"url": "https://feed.example/gbfs.json", **required, **content}
    for part in reversed(path.split(".") if path else []):
        content = {part: content}
        if part == "fallback":
            content["url"] = "https://feed.example/gbfs.json"
    return content


def refusal(file: Path | None = None, **arguments: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(file, **arguments)
    assert caught.value.exit_code is ExitCode.USAGE
    return str(caught.value)


# -- defaults and the shipped file -------------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.collector.every == timedelta(minutes=15)
    assert settings.systems == {"velib": VELIB}
    assert settings.raw_dir == Path("data/raw")


def test_the_shipped_file_is_the_defaults() -> None:
    assert load_settings(SHIPPED) == Settings()


def test_the_shipped_example_of_env_is_accepted_and_changes_nothing() -> None:
    example = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    write(example, ".env")
    assert load_settings() == Settings()
    write(re.sub(r"^DB_PASSWORD=$", "DB_PASSWORD=hunter2", example, flags=re.MULTILINE), ".env")
    assert load_settings().database_url == "postgresql://velib_user:hunter2@localhost:5432/velib"


def test_every_setting_says_what_it_means() -> None:
    for path, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            if name not in ("collector", "archive", "storage"):
                assert field.description, f"{path}.{name} has no description"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.log_level = "DEBUG"
    with pytest.raises(ValidationError, match="frozen"):
        settings.collector.attempts = 1


def test_an_empty_file_is_the_defaults() -> None:
    write("# nothing yet\n")
    assert load_settings() == Settings()


# -- precedence --------------------------------------------------------------------------------------------------


def test_environment_over_env_file_over_settings_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().collector.every == timedelta(minutes=15)
    write({"collector": {"every": "10m", "attempts": 5}})
    assert load_settings().collector.every == timedelta(minutes=10)
    write("VELIB_COLLECTOR__EVERY=5m\n", ".env")
    assert load_settings().collector.every == timedelta(minutes=5)
    monkeypatch.setenv("VELIB_COLLECTOR__EVERY", "60s")
    settings = load_settings()
    assert settings.collector.every == timedelta(minutes=1)
    assert settings.collector.attempts == 5, "the other keys of the section stay"


def test_a_given_file_replaces_the_usual_one() -> None:
    write({"log_level": "ERROR"})
    assert load_settings(write({"log_format": "json"}, "other.yaml")).log_level == "INFO"


def test_one_key_of_a_system_can_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELIB_SYSTEMS__VELIB__EVERY", "60s")
    system = load_settings(SHIPPED).system("velib")
    assert system == VELIB.model_copy(update={"every": timedelta(seconds=60)})


@pytest.mark.parametrize(("text", "level"), [("debug", "DEBUG"), ("WARNING", "WARNING")])
def test_log_level_is_read_from_its_plain_name(text: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"log_level": "ERROR"})
    monkeypatch.setenv("LOG_LEVEL", text)
    assert load_settings().log_level == level


def test_the_database_is_chosen_in_the_documented_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().database_url == "sqlite:///data/velib.db"
    write({"database_url": "sqlite:///file.db"})
    monkeypatch.setenv("DB_HOST", "db.example")  # without DB_PASSWORD, DB_* say nothing
    assert load_settings().database_url == "sqlite:///file.db"
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    assert load_settings().database_url == "postgresql://velib_user:hunter2@db.example:5432/velib"
    monkeypatch.setenv("DATABASE_URL", "postgresql://a:b@host/name")
    assert load_settings().database_url == "postgresql://a:b@host/name"
    assert load_settings(db="sqlite:///given.db").database_url == "sqlite:///given.db"


def test_a_password_may_hold_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "p@ss:w/rd#?%é"
    monkeypatch.setenv("DB_PASSWORD", given)
    monkeypatch.setenv("DB_NAME", "bikes")
    monkeypatch.setenv("DB_USER", "me")
    monkeypatch.setenv("DB_PORT", "6543")
    url = make_url(load_settings().database_url)
    assert (url.username, url.password, url.port, url.database) == ("me", given, 6543, "bikes")


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SECTIONS)
def test_an_unknown_key_is_named_with_what_is_allowed(path: str) -> None:
    write(nested(path, "qqqqqqqq", 1))
    message = refusal()
    assert message.startswith("config/config.yaml: ")
    assert "qqqqqqqq" in message
    assert "unknown" in message
    assert "allowed: " in message
    for name in SECTIONS[path].model_fields:
        assert name in message


@pytest.mark.parametrize(
    ("path", "key", "meant"),
    [
        ("", "colector", "collector"),
        ("collector", "evry", "every"),
        ("archive", "retension", "retention"),
        ("storage", "chunks", "chunk"),
        ("systems.velib", "time_zone", "timezone"),
        ("systems.velib.fallback", "urls", "url"),
    ],
)
def test_a_typing_error_is_answered_with_a_guess(path: str, key: str, meant: str) -> None:
    write(nested(path, key, 1))
    assert f"did you mean {meant!r}?" in refusal()


@pytest.mark.parametrize(
    ("path", "key"), [(path, key) for path, model in SECTIONS.items() for key in model.model_fields]
)
def test_a_wrong_value_of_any_key_is_named_with_what_was_found(path: str, key: str) -> None:
    write(nested(path, key, [["wrong"]]))
    message = refusal()
    where = f"{path}.{key}" if path else key
    assert f"config/config.yaml: {where}: found [['wrong']]; " in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"log_level": "LOUD"}, ["log_level", "'LOUD'", "'DEBUG'", "'ERROR'"]),
        ({"log_format": "xml"}, ["log_format", "'xml'", "'auto'", "'json'"]),
        ({"collector": {"every": "15 minutes"}}, ["collector.every", "'15 minutes'", "15m"]),
        ({"collector": {"every": "0s"}}, ["collector.every", "'0s'", "positive"]),
        ({"collector": {"every": -5}}, ["collector.every", "-5", "positive"]),
        ({"collector": {"attempts": 0}}, ["collector.attempts", "found 0", "1"]),
        ({"collector": {"attempts": 11}}, ["collector.attempts", "found 11", "10"]),
        ({"collector": {"max_rejected": 1.5}}, ["collector.max_rejected", "1.5", "1"]),
        ({"collector": {"max_lost": 0}}, ["collector.max_lost", "found 0", "greater than 0"]),
        ({"archive": {"min_free_mb": -1}}, ["archive.min_free_mb", "-1", "0"]),
        ({"systems": {"x": {"url": "u", "timezone": "Paris"}}}, ["systems.x.timezone", "'Paris'", "Europe/Paris"]),
        ({"systems": {"x": {"url": "u", "kind": "rss"}}}, ["systems.x.kind", "'rss'", "'gbfs'"]),
        ({"systems": {"x": {"name": "X"}}}, ["systems.x.url is missing"]),
        ({"systems": {"x": {"url": "u", "fallback": {"url": "v"}}}}, ["systems.x.fallback.kind is missing"]),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(content: dict[str, Any], expected: list[str]) -> None:
    write(content)
    message = refusal()
    assert message.startswith("config/config.yaml: ")
    for part in expected:
        assert part in message


def test_all_problems_are_told_at_once() -> None:
    write({"log_level": "LOUD", "collector": {"evry": "1m", "attempts": 0}, "storage": {"chunk": "x"}})
    lines = refusal().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("config/config.yaml: ") for line in lines)


@pytest.mark.parametrize("source", ["environment", ".env"])
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("VELIB_COLECTOR__EVERY", "1m", ["unknown", "did you mean 'collector'?"]),
        ("VELIB_COLLECTOR__EVRY", "1m", ["unknown", "did you mean 'every'?"]),
        ("VELIB_COLLECTOR__EVERY", "often", ["'often'", "15m"]),
        ("VELIB_LOG_FORMAT", "xml", ["'xml'", "'json'"]),
        ("VELIB_QQQQ", "1", ["unknown", "allowed: ", "log_level"]),
    ],
)
def test_a_wrong_variable_is_named(
    source: str, variable: str, value: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == ".env":
        write(f"{variable}={value}\n", ".env")
    else:
        monkeypatch.setenv(variable, value)
    message = refusal()
    for part in ["environment: ", variable, *expected]:
        assert part in message


def test_a_port_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    monkeypatch.setenv("DB_PORT", "five")
    message = refusal()
    assert "DB_PORT is 'five'" in message
    assert "5432" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/velib", "nonsense hunter2", "", "velib.db"])
def test_only_the_two_engines_are_accepted_and_no_password_is_shown(url: str) -> None:
    write({"database_url": url})
    message = refusal()
    assert "sqlite:///data/velib.db" in message
    assert "postgresql://" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("collector: [", "not valid YAML"),
        ("- a\n- b\n", "found list"),
        ("just words\n", "found str"),
    ],
)
def test_a_file_that_is_no_settings_file_is_named(content: str, expected: str) -> None:
    message = refusal(write(content, "mine.yaml"))
    assert message.startswith("mine.yaml")
    assert expected in message


def test_a_file_that_was_asked_for_must_exist() -> None:
    assert refusal(Path("absent.yaml")) == "the settings file absent.yaml does not exist"


def test_an_unknown_system_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no system 'lyon'.*velib.*--url"):
        load_settings().system("lyon")


def test_the_tests_themselves_see_no_outside_setting() -> None:
    assert not [name for name in os.environ if name.startswith(("VELIB_", "DB_"))]
    assert not Path("config").exists()
