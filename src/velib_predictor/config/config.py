"""The one validated `Settings`: defaults, then `config/config.yaml`, then `.env`, then the environment.

Nothing else in the package reads a settings file or an environment variable. Secrets (DATABASE_URL with a
password, DB_PASSWORD) are taken from the environment or `.env` only.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from velib_predictor.utils.errors import SettingsError, UsageError
from velib_predictor.utils.temporal import parse_duration

DEFAULT_FILE = Path("config/config.yaml")
ENV_PREFIX = "VELIB_"


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{name!r} is not an IANA time zone such as Europe/Paris") from None
    return name


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a duration must be positive, such as 60s or 15m")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive)]
TimeZone = Annotated[str, AfterValidator(_zone)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class CollectorSettings(_Section):
    """How feeds are polled and what is believed of their answers."""

    every: Duration = timedelta(minutes=15)
    """Time between polls of a system, on UTC-aligned ticks. 60s is recommended where disk allows."""
    lead: Duration = timedelta(seconds=15)
    """How long before the aligned tick a poll starts, so that its answer is known at the tick (at most every/4)."""
    information_every: Duration = timedelta(hours=1)
    """Time between fetches of station information, system information and vehicle types."""
    connect_timeout: Duration = timedelta(seconds=5)
    """Longest wait for a connection."""
    read_timeout: Duration = timedelta(seconds=15)
    """Longest wait for the next bytes of an answer."""
    total_timeout: Duration = timedelta(seconds=30)
    """Longest time for one document, retries excluded."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Tries a document gets within one tick (connection errors, time-outs, 429, 5xx)."""
    max_body_mb: Annotated[int, Field(ge=1, le=1024)] = 32
    """A longer body is cut off and the poll fails."""
    user_agent: str = "velib-predictor/0.1 (+https://github.com/velib-predictor; open bike-share forecasts)"
    """Who is asking, for the operator's log: name/version (+address; contact)."""
    max_rejected: Fraction = 0.10
    """A snapshot with a larger share of unreadable stations is quarantined."""
    max_lost: Fraction = 0.20
    """A snapshot whose station count fell by more, against the median of the last day, is quarantined."""
    missing_after: Duration = timedelta(hours=3)
    """A station absent from station information for longer has vanished: its last version is closed."""


class ArchiveSettings(_Section):
    """The raw answers, kept as they came."""

    retention: Duration | None = None
    """Days older than this are deleted; empty keeps everything."""
    pack_after: Duration = timedelta(hours=2)
    """A day's files are packed into one this long after the day has ended (UTC)."""
    min_free_mb: Annotated[int, Field(ge=0)] = 512
    """With less free disk nothing is packed or deleted any more; raw answers are still written."""


class StorageSettings(_Section):
    """The database's own housekeeping."""

    retention: Duration | None = None
    """Station rows older than this are deleted by `velib prune`; empty keeps everything."""
    chunk: Duration = timedelta(days=7)
    """TimescaleDB: time span of one chunk."""
    columnstore_after: Duration = timedelta(days=7)
    """TimescaleDB: age at which chunks are turned into the columnstore."""


class FallbackSettings(_Section):
    """Where to ask when the feed itself does not answer."""

    kind: Literal["opendata_paris"]
    """The shape of its answer."""
    url: str
    """Address of the whole data set in one document."""


class SystemSettings(_Section):
    """One bike-share system."""

    url: str
    """GBFS discovery address (gbfs.json or a GBFS 3 manifest.json), or the portal's export."""
    kind: Literal["gbfs", "opendata_paris"] = "gbfs"
    """The shape of the answer at `url`."""
    name: str | None = None
    """Name for people; the feed's own if empty."""
    timezone: TimeZone | None = None
    """IANA zone; the feed's own if empty."""
    licence: str | None = None
    """Licence of the data, shown with every answer."""
    attribution: str | None = None
    """Whom to name, shown with every answer."""
    every: Duration | None = None
    """Overrides collector.every."""
    ttl: Duration | None = None
    """Overrides the feed's own ttl where that misleads (Vélib' says 3600 s, counts move every minute)."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Extra request headers that the operator asks for."""
    fallback: FallbackSettings | None = None
    """A second source, asked in the same tick when the first does not answer."""


VELIB = SystemSettings(
    url="https://velib-metropole-opendata.smovengo.cloud/opendata/Velib_Metropole/gbfs.json",
    name="Vélib' Métropole",
    timezone="Europe/Paris",
    licence="Licence Ouverte / Open Licence 2.0 (Etalab)",
    attribution="Vélib' Métropole / Smovengo, Syndicat Autolib' et Vélib' Métropole",
    ttl=timedelta(seconds=60),
    fallback=FallbackSettings(
        kind="opendata_paris",
        url="https://opendata.paris.fr/api/explore/v2.1/catalog/datasets/velib-disponibilite-en-temps-reel/exports/json",
    ),
)


class Settings(BaseSettings):
    """All settings. Each can be set in the file, or as VELIB_<SECTION>__<KEY> in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",  # `.env` also holds DB_PASSWORD and the like; unknown keys of ours are refused below
        frozen=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path = Path("data")
    """Where the embedded database and the raw archive live."""
    database_url: str = "sqlite:///data/velib.db"
    """SQLAlchemy address without a password; DATABASE_URL or DB_* in the environment come first."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe message that is logged."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """How messages are written to stderr; auto is console on a terminal, else json."""
    collector: CollectorSettings = CollectorSettings()
    archive: ArchiveSettings = ArchiveSettings()
    storage: StorageSettings = StorageSettings()
    systems: dict[str, SystemSettings] = Field(default_factory=lambda: {"velib": VELIB})
    """The systems that are collected, by system_id."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, dotenv_settings, init_settings

    @property
    def raw_dir(self) -> Path:
        """The raw archive's folder."""
        return self.data_dir / "raw"

    def system(self, system_id: str) -> SystemSettings:
        """The settings of one system.

        Raises:
            UsageError: no system of that name is configured.
        """
        if system_id not in self.systems:
            raise UsageError(
                f"no system {system_id!r} in the settings; there are: {', '.join(sorted(self.systems)) or 'none'}. "
                "Add it under `systems:`, or give its address with --url"
            )
        return self.systems[system_id]


def load_settings(file: Path | None = None, *, db: str | None = None) -> Settings:
    """Read the settings: the environment over `.env` over the file over the defaults.

    `file` None means `config/config.yaml` where it exists. `db` is the command line's --db and wins over all.

    Raises:
        SettingsError: a key is unknown or a value not allowed; the message names file, key, value and what is.
    """
    path = file or DEFAULT_FILE
    if file and not file.exists():
        raise SettingsError(f"the settings file {file} does not exist")
    in_file = _read_yaml(path) if path.exists() else {}
    environ = {**{key: value for key, value in dotenv_values(".env").items() if value}, **os.environ}
    _refuse_unknown_keys(in_file, environ, path)
    if level := environ.get("LOG_LEVEL"):
        in_file["log_level"] = level.upper()
    try:
        settings = Settings(**in_file)
    except ValidationError as error:
        raise SettingsError(_explain(error, path, environ)) from None
    if url := db or _database_url(environ):
        settings = settings.model_copy(update={"database_url": url})
    _check_database_url(settings.database_url)
    return settings


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return content


def _refuse_unknown_keys(in_file: Mapping[str, Any], environ: Mapping[str, str], path: Path) -> None:
    known = Settings.model_fields
    problems = [f"{path}: unknown key {key!r}{_did_you_mean(key, known)}" for key in in_file if key not in known]
    for variable in environ:
        if variable.startswith(ENV_PREFIX):
            key = variable.removeprefix(ENV_PREFIX).split("__")[0].lower()
            if key not in known:
                problems.append(f"environment: unknown variable {variable}{_did_you_mean(key, known)}")
    if problems:
        raise SettingsError("\n".join(problems))


def _database_url(environ: Mapping[str, str]) -> str | None:
    if url := environ.get("DATABASE_URL"):
        return url
    if not (password := environ.get("DB_PASSWORD")):
        return None
    port = environ.get("DB_PORT", "5432")
    if not port.isdigit():
        raise SettingsError(f"environment: DB_PORT is {port!r}; expected a number such as 5432")
    return URL.create(
        "postgresql",
        username=environ.get("DB_USER", "velib_user"),
        password=password,
        host=environ.get("DB_HOST", "localhost"),
        port=int(port),
        database=environ.get("DB_NAME", "velib"),
    ).render_as_string(hide_password=False)


def _check_database_url(url: str) -> None:
    expected = "expected sqlite:///data/velib.db or postgresql://user:password@host:5432/name"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError(f"the database address cannot be read; {expected}") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise SettingsError(f"the database address starts with {parsed.drivername!r}; {expected}")


def _explain(error: ValidationError, path: Path, environ: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        loc = [str(part) for part in problem["loc"]]
        variable = ENV_PREFIX + "__".join(loc).upper()
        where = f"environment: {variable}" if variable in environ else f"{path}: {'.'.join(loc)}"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where} is unknown{_did_you_mean(loc[-1], _siblings(loc))}")
        elif problem["type"] == "missing":
            lines.append(f"{where} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: found {problem['input']!r}; {message[0].lower()}{message[1:]}")
    return "\n".join(lines)


def _siblings(loc: Sequence[str]) -> Sequence[str]:
    """The keys that are allowed where `loc` stands."""
    model: type[BaseModel] = Settings
    for part in loc[:-1]:
        field = model.model_fields.get(part)
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
        elif part == "fallback":
            model = FallbackSettings
        else:
            model = SystemSettings
    return list(model.model_fields)


def _did_you_mean(key: str, allowed: Mapping[str, Any] | Sequence[str]) -> str:
    names = list(allowed)
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(names)}"
