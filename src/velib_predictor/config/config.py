"""The one validated `Settings`: defaults, then `config/config.yaml`, then `.env`, then the environment.

Nothing else in the package reads a settings file or an environment variable. Secrets (DATABASE_URL with a
password, DB_PASSWORD, or the file that DB_PASSWORD_FILE names) are taken from the environment or `.env` only. An empty
variable counts as unset: Compose passes on those that nobody has set.
"""

import os
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from velib_predictor.config.address import check_database_url, database_url
from velib_predictor.config.daily import JobSettings, MlflowSettings
from velib_predictor.config.explain import ENV_PREFIX, Variable, explain, explain_unknown, place
from velib_predictor.config.outside import CalendarSettings, WeatherSettings
from velib_predictor.config.values import Duration, Section
from velib_predictor.config.yaml_file import read_yaml
from velib_predictor.utils.errors import SettingsError, UsageError

DEFAULT_FILE = Path("config/config.yaml")
ENV_FILE = Path(".env")


def is_time_zone(name: str) -> bool:
    """Whether there is an IANA time zone of that name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: "Europe" is a folder
        return False
    return True


def _zone(name: str) -> str:
    if not is_time_zone(name):
        raise ValueError("this is no IANA time zone such as Europe/Paris")
    return name


def check_system_id(name: str) -> str:
    """The name of a system, which becomes a folder of the raw archive, beside folders that are named by the day.

    Raises:
        UsageError: it is no such name; the message says what is allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or _is_date(name.partition(".")[0]):
        raise UsageError(
            f"{name!r} is no name for a system; allowed are up to 64 letters (a-z, A-Z), digits and '.', '_', '-', "
            "beginning with a letter or digit; not a date such as 2026-11-23"
        )
    return name


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _system_id(name: str) -> str:
    try:
        return check_system_id(name)
    except UsageError as error:
        raise ValueError(str(error)) from None


TimeZone = Annotated[str, AfterValidator(_zone)]
SystemId = Annotated[str, AfterValidator(_system_id)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class CollectorSettings(Section):
    """How feeds are polled and what is believed of their answers."""

    every: Duration = timedelta(minutes=15)
    """Time between polls of a system, on UTC-aligned ticks. 60s is recommended: counts move every minute."""
    lead: Duration = timedelta(seconds=15)
    """How long before the aligned tick a poll starts, so that its answer is known at the tick; at most a quarter
    of `every` is used."""
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
    user_agent: str = "velib-predictor/0.1 (bike-share forecasts; collector)"
    """Who is asking, for the operator's log. Name yourself and an address: operators block nameless agents."""
    max_rejected: Fraction = 0.10
    """A snapshot with a larger share of unreadable stations is quarantined."""
    max_lost: Fraction = 0.20
    """A snapshot whose station count fell by more, against the median of the last day, is quarantined."""
    frozen_after: Duration = timedelta(minutes=15)
    """A feed must be silent for at least this long to count as frozen (and the silence must be improbable)."""
    missing_after: Duration = timedelta(hours=3)
    """A station absent from station information for longer has vanished: its last version is closed."""


class ArchiveSettings(Section):
    """The raw answers, kept as they came."""

    retention: Duration | None = None
    """Days older than this are deleted; empty keeps everything."""
    pack_after: Duration = timedelta(hours=2)
    """A day's files are packed into one this long after the day has ended (UTC)."""
    min_free_mb: Annotated[int, Field(ge=0)] = 512
    """With less free disk nothing is packed; raw answers are still written, and expired days deleted."""


class StorageSettings(Section):
    """The database's own housekeeping."""

    retention: Duration | None = None
    """Station rows older than this are deleted by `velib prune`; empty keeps everything."""
    chunk: Duration = timedelta(days=7)
    """TimescaleDB: time span of one chunk."""
    columnstore_after: Duration = timedelta(days=7)
    """TimescaleDB: age at which chunks are turned into the columnstore."""


class ForecastSettings(Section):
    """How forecasts are made, kept and judged."""

    model: str | None = None
    """Name of the model that is asked; empty asks the one in force (`velib models list`), whatever its name."""
    issue_every: Duration = timedelta(minutes=15)
    """Time between issues, and the grid on which models are trained for them."""
    tolerance: Duration = timedelta(minutes=20)
    """Oldest observation that counts as known; more than `issue_every`, so that one late poll costs nothing."""
    retention: Duration | None = timedelta(days=14)
    """Stored issues older than this are deleted by `velib prune`; empty keeps them. Scores stay."""
    train_model: str = "blend"
    """What `velib retrain` fits, beside the climatology that stands in for it."""
    train_days: Annotated[int, Field(ge=1, le=3660)] = 56
    """Days of history that it learns from."""


class BackupSettings(Section):
    """Copies of the database, to restore it from."""

    every: Duration | None = timedelta(days=1)
    """Time between backups of a running system; empty makes none (`velib db backup` always does)."""
    folder: Path = Path("backups")
    """Where they are kept. Another disk is better than the database's own."""
    keep: Annotated[int, Field(ge=1, le=10_000)] = 7
    """How many are kept, the newest ones."""
    retention: Duration | None = None
    """Backups older than this are deleted, too, but never the newest one; empty looks at `keep` alone."""
    format: Literal["custom", "plain"] = "custom"
    """PostgreSQL: custom is compressed and checked by pg_restore (.dump), plain is SQL that people can read (.sql)."""
    client: Path | None = None
    """PostgreSQL: folder of pg_dump, pg_restore and psql; empty looks in PATH and /usr/lib/postgresql."""


class FallbackSettings(Section):
    """Where to ask when the feed itself does not answer."""

    kind: Literal["opendata_paris"]
    """The shape of its answer."""
    url: str
    """Address of the whole data set in one document."""


class SystemSettings(Section):
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
    calendar: CalendarSettings = CalendarSettings()
    """Its school holidays and events."""
    fallback: FallbackSettings | None = None
    """A second source, asked in the same tick when the first does not answer."""


VELIB = SystemSettings(
    url="https://velib-metropole-opendata.smovengo.cloud/opendata/Velib_Metropole/gbfs.json",
    name="Vélib' Métropole",
    timezone="Europe/Paris",
    licence="Licence Ouverte / Open Licence 2.0 (Etalab)",
    attribution="Vélib' Métropole / Smovengo, Syndicat Autolib' et Vélib' Métropole",
    ttl=timedelta(seconds=60),
    calendar=CalendarSettings(school_zone="C"),
    fallback=FallbackSettings(
        kind="opendata_paris",
        url="https://opendata.paris.fr/api/explore/v2.1/catalog/datasets/velib-disponibilite-en-temps-reel/exports/json",
    ),
)


def _embedded_database(settings: dict[str, Any]) -> str:
    return f"sqlite:///{(settings['data_dir'] / 'velib.db').as_posix()}"


class Settings(BaseSettings):
    """All settings. Each can be set in the file, or as VELIB_<SECTION>__<KEY> in the environment.

    Names of variables say nothing about case, so a system whose id has capitals can be set in the file only.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_file=ENV_FILE,
        env_ignore_empty=True,
        enable_decoding=False,  # no JSON in variables: VELIB_COLLECTOR=abc is a wrong value like any other
        extra="ignore",  # `.env` also holds DB_PASSWORD and the like; unknown keys of ours are refused below
        frozen=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path = Path("data")
    """Where the embedded database and the raw archive live."""
    models_dir: Path = Path("models")
    """Where fitted models live."""
    models_file: Path | None = None
    """How models are made; empty is config/model_config.yaml where it exists, else the defaults."""
    database_url: str = Field(default_factory=_embedded_database)
    """SQLAlchemy address, without a password in the file; DATABASE_URL or DB_* in the environment come first. Empty
    is velib.db in `data_dir`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe message that is logged."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """How messages are written to stderr; auto is console on a terminal, else json."""
    collector: CollectorSettings = CollectorSettings()
    archive: ArchiveSettings = ArchiveSettings()
    storage: StorageSettings = StorageSettings()
    forecast: ForecastSettings = ForecastSettings()
    backup: BackupSettings = BackupSettings()
    weather: WeatherSettings = WeatherSettings()
    """The weather forecast."""
    jobs: JobSettings = JobSettings()
    mlflow: MlflowSettings = MlflowSettings()
    systems: dict[SystemId, SystemSettings] = Field(default_factory=lambda: {"velib": VELIB})
    """The systems that are collected, by system_id."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings calls it with all of them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
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
    in_file = read_yaml(path, required=file is not None)
    variables = _read_variables()
    if unknown := explain_unknown(in_file, Settings, path, variables):
        raise SettingsError(unknown)
    if isinstance(url := in_file.get("database_url"), str):
        check_database_url(url, f"{path}: database_url", password_allowed=False)
    if level := variables.get("LOG_LEVEL"):
        in_file["log_level"] = level.value.upper()
    if uri := variables.get("MLFLOW_TRACKING_URI"):
        section = in_file.setdefault("mlflow", {})
        if isinstance(section, dict):
            in_file["mlflow"] = section | {"tracking_uri": uri.value}
    # Not left to the default: variables are merged into what is given here.
    in_file.setdefault("systems", {"velib": VELIB.model_dump(exclude_unset=True)})
    try:
        settings = Settings(**in_file)
    except ValidationError as error:
        raise SettingsError(explain(error, Settings, path, variables)) from None
    check_database_url(settings.database_url, place(["database_url"], path, variables))
    if url := db or database_url(variables):
        check_database_url(url, "--db" if db else str(variables.get("DATABASE_URL", "DB_*")))
        settings = settings.model_copy(update={"database_url": url})
    return settings


def _read_variables() -> dict[str, Variable]:
    """What is set outside, by name; ours in upper case, because pydantic-settings takes them in any."""
    try:
        in_env_file = dotenv_values(ENV_FILE)
    except OSError as error:
        raise SettingsError(f"{ENV_FILE} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{ENV_FILE} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    found = {}
    for source, values in ((str(ENV_FILE), in_env_file), ("environment", os.environ)):
        for name, value in values.items():
            if value:
                ours = name.upper().startswith(ENV_PREFIX)
                found[name.upper() if ours else name] = Variable(source, name, value)
    return found
