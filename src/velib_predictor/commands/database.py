"""`velib db`: create, migrate and inspect the database."""

from contextlib import closing
from typing import Any

import typer

from velib_predictor.commands.output import ConfigFile, Db, Json, emit, migrate, start

app = typer.Typer(help="Create, migrate and inspect the database.", no_args_is_help=True)


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
