"""What commands share: their common options, how they print, and how they open the database."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from velib_predictor.config.config import Settings
    from velib_predictor.data.database import Database

Db = Annotated[
    str | None,
    typer.Option("--db", metavar="URL", help="Database: sqlite:///FILE or postgresql://...", show_default=False),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file (default: config/config.yaml).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def start(config: Path | None, db: str | None) -> "Settings":
    """Read the settings and switch logging on.

    Raises:
        SettingsError: a setting is wrong.
    """
    from velib_predictor.config.config import load_settings
    from velib_predictor.utils.logger import configure_logging

    settings = load_settings(config, db=db)
    configure_logging(settings.log_level, settings.log_format)
    return settings


def open_database(settings: "Settings", *, create: bool = False) -> "Database":
    """The database, at this program's schema version.

    `create`: initialise or migrate it first, if it needs that.

    Raises:
        DatabaseError: it cannot be reached, or is not at this version and `create` is False.
    """
    from velib_predictor.data.database import Database, head_revision

    database = Database(settings.database_url)
    if create and not (database.exists() and database.revision() == head_revision()):
        migrate(settings, database)
    database.require_current()
    return database


def migrate(settings: "Settings", database: "Database") -> None:
    """Bring the schema to this program's version, and TimescaleDB's features to what the settings say."""
    from velib_predictor.data.timescale import apply

    database.upgrade()
    apply(database, settings.storage)


def emit(data: Any, as_json: bool, human: str) -> None:
    """Print the result: one JSON document, or text for people."""
    text = json.dumps(data, ensure_ascii=False, default=str) if as_json else human
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def on_terminal() -> bool:
    """Whether progress can be shown."""
    return sys.stderr.isatty()


Progress = Callable[[str, int, int], None]
"""Told of (phase, done, total)."""


@contextmanager
def progress_bar() -> "Iterator[Progress | None]":
    """A bar on stderr where that is a terminal."""
    if not on_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total)
