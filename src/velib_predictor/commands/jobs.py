"""`velib issue`, `score`, `retrain`, `prune`: one run of a scheduled job; safe in cron, safe to repeat."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from velib_predictor.commands.output import ConfigFile, Db, Json, emit, open_database, progress_bar, start
from velib_predictor.commands.signals import stopped_by_signals

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from velib_predictor.data.database import Database
    from velib_predictor.jobs.issue import IssueJob

System = Annotated[
    list[str] | None, typer.Option("--system", metavar="ID", help="System; repeatable (default: all that are stored).")
]
Now = Annotated[str | None, typer.Option("--now", metavar="T", help="As if it were then (default: now).")]


def issue(
    system: System = None,
    now: Now = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on: one issue every forecast.issue_every, until Ctrl-C.")
    ] = False,
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Forecast all stations now and store it, for `velib serve` on the same database.

    Exit code 3 says that it was stored, but is stale or degraded; the reason is printed.
    """
    from velib_predictor.jobs.issue import IssueJob
    from velib_predictor.utils.errors import ExitCode, UsageError

    if follow and (now or json):
        raise UsageError("--follow forecasts from now on: it goes neither with --now nor with --json")
    settings = start(config, db)
    with closing(open_database(settings)) as database:
        jobs = {name: IssueJob(settings, database, name) for name in _systems(database, system)}
        if not jobs:
            raise UsageError("no system is stored yet; collect or import one first")
        if follow:
            _follow(jobs, settings.forecast.issue_every)
            return
        instant = _instant(now)
        issues = [job.run(instant) for job in jobs.values()]
    done = [
        {
            "system_id": made.system_id,
            "issued_at": made.issued_at.isoformat(),
            "observed_at": made.observed_at.isoformat() if made.observed_at else None,
            "model": made.model,
            "model_version": made.version,
            "weather": str(made.weather),
            "state": str(made.state),
            "reason": made.reason,
            "stations": len(made.stations),
        }
        for made in issues
    ]
    lines = [
        f"{row['system_id']}: {row['stations']} stations, issued {row['issued_at']} by {row['model']}, {row['state']}"
        + (f" ({row['reason']})" if row["reason"] else "")
        for row in done
    ]
    emit(done, json, "\n".join(lines))
    if any(row["state"] != "fresh" for row in done):
        raise typer.Exit(ExitCode.DEGRADED)


def _follow(jobs: "Mapping[str, IssueJob]", every: "timedelta") -> None:
    from velib_predictor.jobs.issue import LAG
    from velib_predictor.jobs.scheduler import Job, Scheduler
    from velib_predictor.utils.errors import ExitCode

    made = [Job(f"issue-{name}", job.run, every, LAG, at_once=True) for name, job in jobs.items()]
    with stopped_by_signals() as (stop, interrupted), Scheduler(made, stop):
        while not stop.wait(60):
            pass
    if interrupted.is_set():
        raise typer.Exit(ExitCode.INTERRUPTED)


def weather(
    system: System = None, now: Now = None, db: Db = None, config: ConfigFile = None, json: Json = False
) -> None:
    """Fetch the weather forecast and store it as it was issued; the server is asked at most once an hour.

    Exit code 3 says that there is none that is less than a day old; the log says why.
    """
    from velib_predictor.jobs.weather import WeatherJob
    from velib_predictor.utils.errors import ExitCode, UsageError

    settings = start(config, db)
    if not settings.weather.url:
        raise UsageError("the settings name no weather forecast: set weather.url, such as that in config/config.yaml")
    instant = _instant(now)
    with closing(open_database(settings)) as database:
        found = {name: WeatherJob(settings, database, name).run(instant) for name in _systems(database, system)}
    done = [
        {"system_id": name, "issued_at": f"{forecast.issued[0]}Z" if forecast else None}
        for name, forecast in found.items()
    ]
    lines = [f"{row['system_id']}: " + (f"as of {row['issued_at']}" if row["issued_at"] else "none") for row in done]
    emit(done, json, "\n".join(lines) or "no system is stored")
    if not all(found.values()):
        raise typer.Exit(ExitCode.DEGRADED)


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
    lines = [f"{'system':<12}{'model':<19}{'target':<12}{'ahead':>7}{'rows':>9}{'RPS':>8}{'same':>8}{'skill':>8}"]
    for name, found in done.items():
        for row in found["scores"]:
            skill = "-" if row["skill_rps"] is None else f"{row['skill_rps']:.3f}"
            rps, same = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("rps", "rps_persistence"))
            ahead = f"{row['horizon_s'] // 60}m"
            lines.append(
                f"{name:<12}{row['model']:<19}{row['target']:<12}{ahead:>7}{row['rows']:>9}{rps:>8}{same:>8}{skill:>8}"
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
