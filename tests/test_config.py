"""Settings: the shipped file is the defaults, and whatever is wrong is named with where, what and what is allowed."""

import os
import re
from datetime import date, timedelta
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
    BackupSettings,
    CollectorSettings,
    FallbackSettings,
    ForecastSettings,
    Settings,
    StorageSettings,
    SystemSettings,
    check_system_id,
    load_settings,
)
from velib_predictor.config.daily import JobSettings, MlflowSettings
from velib_predictor.config.explain import NO_SETTINGS
from velib_predictor.config.outside import CalendarSettings, WeatherSettings
from velib_predictor.utils.errors import ExitCode, SettingsError, UsageError

SHIPPED = REPOSITORY / "config" / "config.yaml"
SECTIONS: dict[str, Any] = {
    "": Settings,
    "collector": CollectorSettings,
    "archive": ArchiveSettings,
    "storage": StorageSettings,
    "forecast": ForecastSettings,
    "backup": BackupSettings,
    "jobs": JobSettings,
    "mlflow": MlflowSettings,
    "systems.velib": SystemSettings,
    "systems.velib.fallback": FallbackSettings,
    "systems.velib.calendar": CalendarSettings,
    "weather": WeatherSettings,
}


@pytest.fixture(autouse=True)
def real_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked here: the weather's address may be what it is by default."""
    monkeypatch.delenv("VELIB_WEATHER__URL")


def write(content: Any, file: str = "config/config.yaml") -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def nested(path: str, key: str, value: Any) -> dict[str, Any]:
    """A settings file with one key, and beside it what is required there."""
    content: dict[str, Any] = {key: value}
    if path.startswith("systems.velib"):
        required = {"kind": "opendata_paris"} if path.endswith("fallback") else {}
        required |= {} if path.endswith("calendar") else {"url": "https://feed.example/gbfs.json"}
        content = {**required, **content}
    for part in reversed(path.split(".") if path else []):
        content = {part: content}
        if part in ("fallback", "calendar"):
            content["url"] = "https://feed.example/gbfs.json"
    return content


def with_event(**event: str) -> dict[str, Any]:
    return {"systems": {"x": {"url": "u", "calendar": {"events": [event]}}}}


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
            if name not in SECTIONS:
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


@pytest.mark.parametrize("key", Settings.model_fields)
def test_a_key_left_empty_is_its_default(key: str) -> None:
    write(f"{key}:\n  # nothing yet\n")
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


@pytest.mark.parametrize("content", [None, "log_level: ERROR\n", "systems:\n"])
def test_variables_are_merged_into_the_built_in_system(content: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if content:
        write(content)
    monkeypatch.setenv("VELIB_SYSTEMS__VELIB__EVERY", "60s")
    monkeypatch.setenv("VELIB_SYSTEMS__VELIB__HEADERS__X_KEY", "1234")
    expected = VELIB.model_copy(update={"every": timedelta(seconds=60), "headers": {"x_key": "1234"}})
    assert load_settings().systems == {"velib": expected}


def test_a_file_that_names_systems_has_no_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    write({"systems": {"lyon": {"url": "https://feed.example/gbfs.json"}}})
    assert list(load_settings().systems) == ["lyon"]
    monkeypatch.setenv("VELIB_SYSTEMS__VELIB__EVERY", "60s")
    assert refusal() == (
        "config/config.yaml: systems.velib.url is missing (environment: VELIB_SYSTEMS__VELIB__EVERY belongs to it)"
    )


def test_names_of_variables_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("velib_collector__every", "60s")
    assert load_settings().collector.every == timedelta(seconds=60)
    monkeypatch.setenv("velib_collector__every", "often")
    assert "environment: velib_collector__every: found 'often'; " in refusal()
    monkeypatch.setenv("velib_colector__every", "60s")
    assert refusal() == "environment: unknown variable velib_colector__every; did you mean 'collector'?"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    write({"log_level": "ERROR", "collector": {"attempts": 5}})
    write("VELIB_COLLECTOR__EVERY=60s\nDB_HOST=db.example\n", ".env")
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    for name in ("VELIB_COLLECTOR", "VELIB_COLLECTOR__EVERY", "VELIB_COLLECTOR__ATTEMPTS", "VELIB_ARCHIVE__RETENTION"):
        monkeypatch.setenv(name, "")
    for name in ("LOG_LEVEL", "VELIB_LOG_LEVEL", "DATABASE_URL", "DB_HOST", "DB_PORT", "DB_USER", "DB_NAME"):
        monkeypatch.setenv(name, "")
    settings = load_settings()
    assert (settings.log_level, settings.collector.attempts) == ("ERROR", 5)
    assert settings.collector.every == timedelta(seconds=60), "an empty variable does not hide that of .env"
    assert settings.database_url == "postgresql://velib_user:hunter2@db.example:5432/velib"


def test_variables_of_the_test_suite_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NO_SETTINGS:
        monkeypatch.setenv(name, "postgresql://postgres@localhost/postgres")
    assert "VELIB_TEST_POSTGRES" in NO_SETTINGS
    assert load_settings() == Settings()


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


def test_the_embedded_database_lies_in_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(write({"data_dir": "elsewhere"})).database_url == "sqlite:///elsewhere/velib.db"
    monkeypatch.setenv("VELIB_DATA_DIR", "/x")
    settings = load_settings(SHIPPED)
    assert settings.raw_dir == Path("/x/raw")
    assert make_url(settings.database_url).database == "/x/velib.db"
    monkeypatch.setenv("VELIB_DATABASE_URL", "sqlite:///y.db")
    assert load_settings(SHIPPED).database_url == "sqlite:///y.db"


def test_a_password_may_hold_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "p@ss:w/rd#?%é"
    monkeypatch.setenv("DB_PASSWORD", given)
    monkeypatch.setenv("DB_NAME", "bikes")
    monkeypatch.setenv("DB_USER", "me")
    monkeypatch.setenv("DB_PORT", "6543")
    url = make_url(load_settings().database_url)
    assert (url.username, url.password, url.port, url.database) == ("me", given, 6543, "bikes")


def test_a_password_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Compose hands a secret over: the whole content but for the end of its line."""
    content = "p@ss: word "
    file = write(f"{content}\n", "secrets/db_password")
    monkeypatch.setenv("DB_PASSWORD_FILE", str(file))
    assert make_url(load_settings().database_url).password == content
    nearer = "in the variable itself"
    monkeypatch.setenv("DB_PASSWORD", nearer)
    assert make_url(load_settings().database_url).password == nearer


@pytest.mark.parametrize(("content", "why"), [(None, "cannot be read"), ("", "is empty"), ("\n", "is empty")])
def test_a_secret_that_is_not_there_is_no_reason_to_go_on_without(
    monkeypatch: pytest.MonkeyPatch, content: str | None, why: str
) -> None:
    if content is not None:
        write(content, "secret")
    monkeypatch.setenv("DB_PASSWORD_FILE", "secret")
    message = refusal()
    assert message.startswith("environment: DB_PASSWORD_FILE: ")
    assert why in message


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
    where = (f"{path}.{key}" if path else key) + (".0" if key == "events" else "")  # of a list, the first wrong one
    assert message.startswith(f"config/config.yaml: {where}: found list; ")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"log_level": "LOUD"}, ["log_level", "'LOUD'", "'DEBUG'", "'ERROR'"]),
        ({"log_format": "xml"}, ["log_format", "'xml'", "'auto'", "'json'"]),
        ({"collector": {"every": "15 minutes"}}, ["collector.every", "'15 minutes'", "15m"]),
        ({"collector": {"every": "0s"}}, ["collector.every", "'0s'", "positive"]),
        ({"collector": {"every": -5}}, ["collector.every", "-5", "positive"]),
        ({"collector": {"every": 60}}, ["collector.every", "found 60", "write a positive one such as 60s"]),
        ({"collector": {"lead": 0.5}}, ["collector.lead", "found 0.5", "60s"]),
        ({"archive": {"retention": True}}, ["archive.retention", "found True", "60s"]),
        ({"systems": {"x": {"url": "u", "ttl": False}}}, ["systems.x.ttl", "found False", "60s"]),
        ({"collector": {"every": "99999999999d"}}, ["collector.every", "too long", "60s"]),
        ({"collector": {"attempts": 0}}, ["collector.attempts", "found 0", "1"]),
        ({"collector": {"attempts": 11}}, ["collector.attempts", "found 11", "10"]),
        ({"collector": {"max_rejected": 1.5}}, ["collector.max_rejected", "1.5", "1"]),
        ({"collector": {"max_lost": 0}}, ["collector.max_lost", "found 0", "greater than 0"]),
        ({"archive": {"min_free_mb": -1}}, ["archive.min_free_mb", "-1", "0"]),
        ({"systems": {"x": {"url": "u", "timezone": "Paris"}}}, ["systems.x.timezone", "'Paris'", "Europe/Paris"]),
        ({"systems": {"x": {"url": "u", "timezone": "Europe"}}}, ["systems.x.timezone", "'Europe'", "Europe/Paris"]),
        ({"systems": {"x": {"url": "u", "kind": "rss"}}}, ["systems.x.kind", "'rss'", "'gbfs'"]),
        ({"systems": {"x": {"name": "X"}}}, ["systems.x.url is missing"]),
        ({"systems": {"x": {"url": "u", "calendar": {"school_zone": "D"}}}}, ["calendar.school_zone", "'D'", "'none'"]),
        (with_event(date="2026-06-21"), ["systems.x.calendar.events.0.name is missing"]),
        (with_event(name="A"), ["systems.x.calendar.events.0.date is missing"]),
        (with_event(name="A", date="21 June"), ["systems.x.calendar.events.0.date", "'21 June'"]),
        (with_event(name="A", **{"from": "2026-06-21", "to": "2026-06-20"}), ["events.0", "must not end before"]),
        (with_event(name="A", date="2026-06-21", until="2026-06-22"), ["events.0.until is unknown", "date, from, to"]),
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
        ("VELIB_LOG_FORMAT__QQQQ", "1", ["unknown"]),
        ("VELIB_COLLECTOR", "abc", ["'abc'", "section"]),
        ("VELIB_SYSTEMS", "abc", ["'abc'", "section"]),
        ("VELIB_SYSTEMS__VELIB", "abc", ["'abc'", "section"]),
        ("VELIB_SYSTEMS__VELIB__HEADERS", "abc", ["section"]),
        ("VELIB_COLLECTOR__EVERY__QQQQ", "1m", ["60s"]),
        ("LOG_LEVEL", "loud", ["'LOUD'", "'DEBUG'"]),
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
    assert message.startswith(f"{source}: ")
    for part in [variable, *expected]:
        assert part in message


@pytest.mark.parametrize("port", ["five", "²", "-1", "0", "65536", "99999999", "5432 ", "9" * 5000])
def test_a_port_must_be_one(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write("DB_PASSWORD=hunter2\n", ".env")
    monkeypatch.setenv("DB_PORT", port)
    message = refusal()
    assert f"environment: DB_PORT is {port!r}" in message
    assert "65535" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("password", ["postgresql://me:hunter2@db/velib", "postgresql://db/velib?password=hunter2"])
def test_a_password_is_taken_from_outside_only(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(db=password).database_url == password
    monkeypatch.setenv("VELIB_DATABASE_URL", password)
    assert load_settings().database_url == password
    write({"database_url": password})
    message = refusal(db="sqlite:///given.db")  # also where another address is used: the file gets committed
    assert message.startswith("config/config.yaml: database_url holds a password; ")
    for part in ("DATABASE_URL", "DB_PASSWORD", "environment", ".env"):
        assert part in message
    assert "hunter2" not in message


@pytest.mark.parametrize("source", ["environment", ".env"])
@pytest.mark.parametrize("variable", ["DATABASE_URL", "VELIB_DATABASE_URL"])
@pytest.mark.parametrize("url", ["mysql://me:hunter2@db/velib", "postgresql://me:hunter2@db:hunter2/velib"])
def test_a_wrong_address_is_named(url: str, variable: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if source == ".env":
        write(f"{variable}={url}\n", ".env")
    else:
        monkeypatch.setenv(variable, url)
    message = refusal()
    assert message.startswith(f"{source}: {variable}: ")
    assert "hunter2" not in message
    assert refusal(db="mysql://db/velib").startswith(("--db: ", f"{source}: {variable}: "))


@pytest.mark.parametrize(
    "systems",
    [
        {"x": {"url": "u", "headers": {"Authorization": ["hunter2"]}}},
        {"x": {"url": "u", "headers": {"Authorization": 4711}}},
        {"x": {"url": "u", "headers": "Authorization: hunter2"}},
        {"x": {"url": "u", "headers": ["Authorization: hunter2"]}},
        {"x": [{"url": "u", "headers": {"Authorization": "hunter2"}}]},
        [{"id": "x", "headers": {"Authorization": "hunter2"}}],
    ],
)
def test_no_header_is_repeated(systems: Any) -> None:
    message = refusal(write({"systems": systems}))
    assert "config/config.yaml: systems" in message
    assert "hunter2" not in message
    assert "4711" not in message


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
        ("log_level: INFO\n'Authorization: hunter2", "line 2 is not valid YAML"),
        ("since: 2024-13-01\n", "not valid YAML"),
        ("1: x\n", "unknown key 1"),
        ("true: x\n", "unknown key True"),
        ("collector:\n  1: x\n", "collector.1"),
        ("systems:\n  1:\n    url: u\n", "systems.1"),
    ],
)
def test_a_file_that_is_no_settings_file_is_named(content: str, expected: str) -> None:
    message = refusal(write(content, "mine.yaml"))
    assert message.startswith("mine.yaml")
    assert expected in message
    assert "hunter2" not in message


def test_a_file_that_cannot_be_read_is_named() -> None:
    latin = Path("latin.yaml")
    latin.write_bytes("name: Vélib'".encode("latin-1"))
    assert refusal(latin).startswith("latin.yaml is not UTF-8 text")
    Path("folder").mkdir()
    assert refusal(Path("folder")) == "folder cannot be read: Is a directory"
    latin.rename(".env")
    assert refusal().startswith(".env is not UTF-8 text")


def test_a_file_that_was_asked_for_must_exist() -> None:
    assert refusal(Path("absent.yaml")) == "the settings file absent.yaml does not exist"


@pytest.mark.parametrize("name", ["velib", "Citi_Bike-NYC.2", "7", "a" * 64, "2026", "2026-11", "x2026-11-23"])
def test_the_name_of_a_system_is_letters_digits_and_three_signs(name: str) -> None:
    assert check_system_id(name) == name
    write({"systems": {name: {"url": "https://feed.example/gbfs.json"}}})
    assert list(load_settings().systems) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "../../evil",
            "/etc",
            "a/b",
            "a\\b",
            ".hidden",
            "-x",
            "_x",
            "a b",
            "velib\n",
            "vélib",
            "٣",
            "a" * 65,
        ),
        *("2026-11-23", "20261123", "2026-W47-1", "2026-11-23.tar.zst"),
    ],
)
def test_a_name_that_would_leave_the_archive_or_pass_for_one_of_its_days_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a system; allowed are up to 64 letters") as caught:
        check_system_id(name)
    assert repr(name) in str(caught.value)
    message = refusal(write({"systems": {name: {"url": "https://feed.example/gbfs.json"}}}))
    assert message.startswith(f"config/config.yaml: systems.{name}: found {name!r}; ")
    assert "allowed are up to 64 letters" in message


def test_an_address_in_the_wrong_place_is_not_repeated() -> None:
    address = "https://me:hunter2@feed.example/gbfs.json?api_key=hunter2"
    for system in (address, {"url": "u", "fallback": address}, {"url": "u", "timezone": address}):
        message = refusal(write({"systems": {"x": system}}))
        assert message.startswith("config/config.yaml: systems.x")
        assert "hunter2" not in message


def test_an_unknown_system_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no system 'lyon'.*velib.*--url"):
        load_settings().system("lyon")


def test_the_tests_themselves_see_no_outside_setting() -> None:
    assert not [name for name in os.environ if name.startswith(("VELIB_", "DB_"))]
    assert not Path("config").exists()


# -- the weather and the calendar --------------------------------------------------------------------------------


def test_the_weather_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(load_settings().weather.url).startswith("https://api.open-meteo.com/")
    write({"weather": {"url": "http://127.0.0.1:9/v1/forecast"}})
    assert load_settings().weather.url == "http://127.0.0.1:9/v1/forecast"
    write({"weather": {"url": None}})
    assert load_settings().weather.url is None
    monkeypatch.setenv("VELIB_WEATHER__URL", "none")
    assert load_settings().weather.url is None


def test_events_are_days_or_spans_of_days() -> None:
    write(
        "systems:\n  x:\n    url: u\n    calendar:\n      school_zone: B\n      events:\n"
        "        - {date: 2026-06-21, name: Music}\n        - {from: 2026-07-04, to: 2026-07-26, name: Tour}\n"
    )
    said = load_settings().systems["x"].calendar
    assert said.school_zone == "B"
    assert [(event.name, event.first, event.last) for event in said.events] == [
        ("Music", date(2026, 6, 21), None),
        ("Tour", date(2026, 7, 4), date(2026, 7, 26)),
    ]
