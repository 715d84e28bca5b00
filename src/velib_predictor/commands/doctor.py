"""`velib doctor`: is everything in order, and what is the feed worth?"""

from typing import Annotated

import typer

from velib_predictor.commands.output import ConfigFile, Db, Json, emit, start


def doctor(
    system: Annotated[
        list[str] | None, typer.Option("--system", metavar="ID", help="System to look at; repeatable (default: all).")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="DISCOVERY_URL", help="Discovery address, over the settings'.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no feed.")] = False,
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Check environment, database, disk, clock and feeds; measure how late a feed's last_reported runs.

    Exit code 0: in order; 1: something is broken; 3: degraded; 4: a feed does not answer.
    """
    from velib_predictor.commands.collect import chosen_systems
    from velib_predictor.data.health import Severity, examine
    from velib_predictor.utils.errors import ExitCode

    settings = start(config, db)
    findings = list(examine(settings, chosen_systems(settings, system or [], url), feeds=not offline))
    lines = [f"{finding.severity.name.lower():<11} {finding.check}: {finding.message}" for finding in findings]
    data = [
        {
            "check": finding.check,
            "severity": finding.severity.name.lower(),
            "message": finding.message,
            **finding.numbers,
        }
        for finding in findings
    ]
    emit(data, json, "\n".join(lines))
    worst = max(finding.severity for finding in findings)
    codes = {
        Severity.DEGRADED: ExitCode.DEGRADED,
        Severity.FAILED: ExitCode.FAILURE,
        Severity.UNREACHABLE: ExitCode.UNREACHABLE,
    }
    if worst in codes:
        raise typer.Exit(codes[worst])
