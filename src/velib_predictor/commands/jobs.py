"""`velib score`, `velib retrain`, `velib prune`: one run of a scheduled job; safe in cron, safe to repeat."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from velib_predictor.commands.output import ConfigFile, Db, Json, emit, open_database, progress_bar, start

if TYPE_CHECKING:
    from velib_predictor.data.database import Database

System = Annotated[
    list[str] | None, typer.Option("--system", metavar="ID", help="System; repeatable (default: all that are stored).")
]
Now = Annotated[str | None, typer.Option("--now", metavar="T", help="As if it were then (default: now).")]


def score(system: System = None, now: Now = None, db: Db = None, config: ConfigFile = None, json: Json = False) -> None:
    """Score the stored forecasts whose time has come, and show how good they were."""
    from velib_predictor.jobs.score import score as run
    from velib_predictor.jobs.score import summary

    settings = start(config, db)
    instant = _instant(now)
    done: dict[str, Any] = {}
    with closing(open_database(settings)) as database:
        for name in _systems(database, system):
            written = run(settings, database, name, instant)
            done[name] = {"scored": written, "scores": summary(database, name)}
    lines = [f"{'system':<12}{'model':<14}{'target':<12}{'ahead':>7}{'rows':>9}{'RPS':>8}{'same':>8}{'skill':>8}"]
    for name, found in done.items():
        for row in found["scores"]:
            skill = "-" if row["skill_rps"] is None else f"{row['skill_rps']:.3f}"
            rps, same = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("rps", "rps_persistence"))
            ahead = f"{row['horizon_s'] // 60}m"
            lines.append(
                f"{name:<12}{row['model']:<14}{row['target']:<12}{ahead:>7}{row['rows']:>9}{rps:>8}{same:>8}{skill:>8}"
            )
    scored = ", ".join(f"{name}: {found['scored']} new scores" for name, found in done.items())
    emit(done, json, "\n".join([scored or "no system is stored", *(lines if len(lines) > 1 else [])]))


def retrain(
    system: System = None, now: Now = None, db: Db = None, config: ConfigFile = None, json: Json = False
) -> None:
    """Fit the configured model (forecast.train_model) anew on the newest history; issues use it from then on."""
    from dataclasses import asdict

    from velib_predictor.jobs.retrain import retrain as run

    settings = start(config, db)
    instant = _instant(now)
    done: dict[str, list[dict[str, Any]]] = {}
    with closing(open_database(settings)) as database, progress_bar() as tell:
        for name in _systems(database, system):
            trained = run(settings, database, name, instant, tell)
            done[name] = [{"folder": str(folder), **asdict(report)} for folder, report in trained]
    lines = [
        f"{name}: {report['model']} fitted on {report['rows']} rows of {report['days']} days, in {report['folder']}"
        for name, reports in done.items()
        for report in reports
    ]
    emit(done, json, "\n".join(lines) or "no system is stored")


def prune(db: Db = None, config: ConfigFile = None, json: Json = False) -> None:
    """Pack closed days of the raw archive, and delete what is past its retention."""
    from datetime import UTC, datetime

    from velib_predictor.data.database import Database
    from velib_predictor.jobs.prune import prune_archive, prune_database, prune_models

    settings = start(config, db)
    now = datetime.now(UTC)
    done = prune_archive(settings, now) | {"rows": 0, "issues": 0} | prune_models(settings)
    with closing(Database(settings.database_url)) as database:
        if database.exists():
            database.require_current()
            done |= prune_database(settings, database, now)
    emit(
        done,
        json,
        f"{done['packed']} days packed, {done['deleted']} days, {done['rows']} rows, {done['issues']} issues and "
        f"{done['models']} old models deleted",
    )


def _instant(text: str | None) -> Any:
    from datetime import UTC, datetime

    from velib_predictor.utils.temporal import parse_time

    return parse_time(text) if text else datetime.now(UTC)


def _systems(database: "Database", names: list[str] | None) -> list[str]:
    """The stored systems that are meant.

    Raises:
        UsageError: one is not stored.
    """
    from velib_predictor.inference.current import systems
    from velib_predictor.utils.errors import UsageError

    there = [about.system_id for about in systems(database)]
    for name in names or []:
        if name not in there:
            raise UsageError(f"the database has no system {name!r}; there are: {', '.join(there) or 'none yet'}")
    return names or there
