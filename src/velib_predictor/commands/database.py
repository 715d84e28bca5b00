"""`velib db`: create, migrate, inspect, back up and restore the database."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from velib_predictor.commands.output import ConfigFile, Db, Json, emit, migrate, progress_bar, start

app = typer.Typer(help="Create, migrate, inspect, back up and restore the database.", no_args_is_help=True)


@app.command()
def init(db: Db = None, config: ConfigFile = None, json: Json = False) -> None:
    """Create the schema (and TimescaleDB's features, where they are to be had). Safe to repeat."""
    _bring_up_to_date(db, config, json)


@app.command()
def upgrade(db: Db = None, config: ConfigFile = None, json: Json = False) -> None:
    """Migrate the schema to this program's version. Safe to repeat."""
    _bring_up_to_date(db, config, json)


@app.command()
def status(db: Db = None, config: ConfigFile = None, json: Json = False) -> None:
    """Show the schema version, TimescaleDB's features, and what is stored of each system."""
    from velib_predictor.data.database import Database, head_revision
    from velib_predictor.data.inventory import inventory
    from velib_predictor.data.timescale import state
    from velib_predictor.utils.errors import ExitCode

    settings = start(config, db)
    head = head_revision()
    with closing(Database(settings.database_url)) as database:
        revision = database.revision() if database.exists() else None
        current = revision == head
        data: dict[str, Any] = {"database": str(database), "revision": revision, "head": head, "current": current}
        if current:
            found = state(database)
            data["timescaledb"] = {"level": str(found.level), "version": found.version, "features": found.features}
            data["systems"] = inventory(database)
    lines = [f"{data['database']}: schema {revision or 'not initialised'}" + ("" if current else f", needed is {head}")]
    lines += _described(data) if current else ["run `velib db upgrade`" if revision else "run `velib db init`"]
    emit(data, json, "\n".join(lines))
    if not current:
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
def backup(
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where to (default: backup.folder).")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="PostgreSQL: SQL as text (.sql) instead of a .dump.")] = False,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Backups to keep, the newest (default: backup.keep).")
    ] = None,
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Copy the database into a file, while it is in use; read the copy back; delete old ones.

    The file is named by the time, in UTC, and has its checksum beside it. PostgreSQL needs pg_dump of its version.
    """
    from datetime import UTC, datetime

    from velib_predictor.data.backup import make_backup
    from velib_predictor.data.database import Database

    settings = start(config, db)
    chosen = settings.backup.model_copy(update={"keep": keep} if keep else {})
    with closing(Database(settings.database_url)) as database, progress_bar() as tell:
        made = make_backup(database, chosen, datetime.now(UTC), folder=to, plain=plain or None, tell=tell)
    gone = f"; {len(made.deleted)} old ones deleted" if made.deleted else ""
    rows = sum((made.rows or {}).values())
    emit(made.as_dict(), json, f"{made.file}: {rows} rows, {made.file.stat().st_size / 1e6:.1f} MB, read back{gone}")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup: .dump or .sql of PostgreSQL, .db of SQLite.")],
    yes: Annotated[bool, typer.Option("--yes", help="Replace what the database holds.")] = False,
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Put a backup into the database: all of it, or nothing. Stop collectors first.

    A database that holds rows is replaced only with --yes, or after a question on a terminal. Checksum, wholeness and
    schema version are checked before.
    """
    import sys
    from datetime import UTC, datetime

    from velib_predictor.data.database import Database, head_revision
    from velib_predictor.data.restore import restore_backup

    def agreed(question: str) -> bool:
        return yes or (sys.stdin.isatty() and typer.confirm(question, err=True))

    settings = start(config, db)
    with closing(Database(settings.database_url)) as database, ExitStack() as stack:
        tell = stack.enter_context(progress_bar()) if yes else None  # no bar where a question may come
        done = restore_backup(database, settings.backup, file, datetime.now(UTC), may_replace=agreed, tell=tell)
    lines = [f"{database}: {sum((done.rows or {}).values())} rows restored from {file}"]
    if not done.sha256:
        lines.append("no checksum lies beside it, so none was checked")
    if done.revision != head_revision():
        lines.append(f"its schema version is {done.revision}; run `velib db upgrade`")
    emit(done.as_dict(), json, "\n".join(lines))


def _bring_up_to_date(db: str | None, config: Any, json: bool) -> None:
    from velib_predictor.data.database import Database, head_revision
    from velib_predictor.data.timescale import state

    settings = start(config, db)
    with closing(Database(settings.database_url)) as database:
        migrate(settings, database)
        found = state(database)
    data = {
        "database": str(database),
        "revision": head_revision(),
        "timescaledb": {"level": str(found.level), "version": found.version, "features": found.features},
    }
    features = ", ".join(name for name, value in found.features.items() if value == "on")
    extra = f" with TimescaleDB {found.version} ({features})" if found.version else ""
    emit(data, json, f"{database} is at schema version {data['revision']}{extra}")


def _described(data: dict[str, Any]) -> list[str]:
    """TimescaleDB's features and each system, for people."""
    found = data["timescaledb"]
    lines = [f"TimescaleDB: {found['level']}" + (f" {found['version']}" if found["version"] else "")]
    lines += [f"  {name}: {value}" for name, value in found["features"].items()]
    for system in data["systems"]:
        span = f", {system['first']} to {system['last']}" if system["rows"] else ""
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in system["outcomes"].items())
        lines.append(
            f"{system['system_id']}: {system['stations']} stations, {system['rows']} rows{span}, "
            f"{system['polls']} polls" + (f" ({outcomes})" if outcomes else "")
        )
    return lines
