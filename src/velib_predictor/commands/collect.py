"""`velib collect` and `velib replay`: the live half of the data."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velib_predictor.commands.output import ConfigFile, Db, Json, emit, on_terminal, open_database, start
from velib_predictor.commands.signals import stopped_by_signals
from velib_predictor.utils.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import threading
    from datetime import timedelta

    from velib_predictor.config.config import Settings, SystemSettings
    from velib_predictor.data.checks import LedgerEntry
    from velib_predictor.data.collector import Collector, OnPoll
    from velib_predictor.data.database import Database
    from velib_predictor.data.raw import RawPoll


def collect(
    once: Annotated[bool, typer.Option("--once", help="Make one poll now, and end.")] = False,
    every: Annotated[
        str | None, typer.Option("--every", metavar="DURATION", help="Time between polls, such as 60s or 15m.")
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", metavar="ID", help="System to poll; repeatable (default: all in the settings)."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="DISCOVERY_URL", help="GBFS discovery address of a system not in the settings."),
    ] = None,
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Poll GBFS feeds: archive each answer, check it, store what changed. Beside it, hourly, the weather forecast.

    Stops after the tick in hand on Ctrl-C or SIGTERM. --json prints one line a poll. With --once, exit code 3 says that
    the answer was frozen or quarantined, 4 that there was none.
    """
    from velib_predictor.data.collector import collect as run
    from velib_predictor.jobs.scheduler import Scheduler
    from velib_predictor.jobs.weather import weather_jobs
    from velib_predictor.utils.temporal import parse_duration

    settings = start(config, db)
    systems = chosen_systems(settings, system or [], url)
    period = polling(parse_duration(every), systems) if every else None
    with closing(open_database(settings, create=True)) as database:
        if once:
            _collect_once(settings, database, systems, period, json)
            return
        jobs = weather_jobs(settings, database, list(systems))
        with stopped_by_signals() as (stop, interrupted), Scheduler(jobs, stop):
            run(settings, database, systems, stop, period, _emitter(stop) if json else _say_nothing)
    if interrupted.is_set():
        raise typer.Exit(ExitCode.INTERRUPTED)


def replay(
    raw: Annotated[list[Path], typer.Argument(help="Archive root, system folder, day folder or packed day.")],
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Store the archived polls that the database does not hold yet."""
    from velib_predictor.data.replay import replay as run

    settings = start(config, db)
    for path in raw:
        if not path.exists():
            raise UsageError(f"{path} does not exist")
    with closing(open_database(settings, create=True)) as database, _poll_counter() as on_poll:
        counts = run(database, raw, settings, on_poll)
    damaged = f"; {counts['damaged']} files are damaged and were skipped" if counts["damaged"] else ""
    emit(counts, json, f"{counts['recorded']} polls stored, {counts['known']} were stored already{damaged}")
    if counts["damaged"]:
        raise typer.Exit(ExitCode.DEGRADED)


def chosen_systems(settings: "Settings", names: list[str], url: str | None) -> dict[str, "SystemSettings"]:
    """The systems that the command line means.

    Raises:
        UsageError: an unknown or impossible name, or an address that is none.
    """
    from velib_predictor.config.config import SystemSettings, check_system_id

    if url is None:
        chosen = {name: settings.system(name) for name in names or settings.systems}
        if not chosen:
            raise UsageError("the settings name no system; add one under `systems:`, or give --system ID --url ADDRESS")
        return chosen
    if len(names) != 1:
        raise UsageError(
            "--url needs exactly one --system: the id under which this feed is stored, such as --system oslo"
        )
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url!r} is no web address; expected one such as https://example.org/gbfs.json")
    name = check_system_id(names[0])
    known = settings.systems.get(name)
    # Another host gets neither the keys that this system's operator asks for, nor its fallback.
    other: dict[str, object] = {"url": url, "fallback": None, "headers": {}}
    return {name: known.model_copy(update=other) if known else SystemSettings(url=url)}


def polling(every: "timedelta", systems: dict[str, "SystemSettings"]) -> "timedelta":
    """The time between polls, if it can be asked of these operators."""
    from datetime import timedelta
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    from velib_predictor.utils.temporal import format_duration

    def is_here(url: str) -> bool:
        host = urlsplit(url).hostname or ""
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False

    if every > timedelta(days=7):
        raise UsageError(f"--every {format_duration(every)}: at most 7d is allowed")
    if every < timedelta(seconds=10) and not all(is_here(system.url) for system in systems.values()):
        raise UsageError(f"--every {every.total_seconds():g}s: an operator's server is asked at most every 10s")
    return every


def _collect_once(
    settings: "Settings",
    database: "Database",
    systems: dict[str, "SystemSettings"],
    every: "timedelta | None",
    json: bool,
) -> None:
    from velib_predictor.data.collector import Collector
    from velib_predictor.data.lock import AlreadyRunningError, single_instance

    results: list[dict[str, object]] = []
    lines, worst = [], ExitCode.OK
    for system_id, system in systems.items():
        try:
            with single_instance(settings.raw_dir / system_id, system_id, database):
                collector = Collector(system_id, system, settings, database, every=every)
                entry = collector.run_once()
        except AlreadyRunningError as error:
            if len(systems) == 1:
                raise
            results.append({"system_id": system_id, "outcome": "not made", "detail": str(error)})
            lines.append(f"{system_id}: not made, {error}")
            worst = max(worst, ExitCode.FAILURE)
            continue
        results.append(_as_dict(system_id, entry, collector.last_detail))
        lines.append(
            f"{system_id}: {entry.outcome}, {entry.stations} stations, {entry.changed} changed, "
            f"{entry.rejected} rejected" + (f" ({collector.last_detail})" if collector.last_detail else "")
        )
        worst = max(worst, _exit_code(entry, collector))
    emit(results[0] if len(results) == 1 else results, json, "\n".join(lines))
    if worst is not ExitCode.OK:
        raise typer.Exit(worst)


def _exit_code(entry: "LedgerEntry", collector: "Collector") -> ExitCode:
    """What a poll means for whoever asked for it."""
    from velib_predictor.data.snapshot import Outcome

    if entry.outcome.accepted:
        return ExitCode.OK
    if entry.outcome is not Outcome.FAILED:
        return ExitCode.DEGRADED
    raw, detail = collector.last_raw, collector.last_detail or ""
    ours = (
        raw is None or raw.clock_step_s is not None or detail.startswith(("the raw archive", "it could not be stored"))
    )
    return ExitCode.FAILURE if ours or "lists no stations" in detail else ExitCode.UNREACHABLE


def _as_dict(system_id: str, entry: "LedgerEntry", detail: str | None) -> dict[str, object]:
    from velib_predictor.utils.temporal import format_time

    return {
        "system_id": system_id,
        "polled_at": format_time(entry.polled_at),
        "outcome": str(entry.outcome),
        "stations": entry.stations,
        "changed": entry.changed,
        "rejected": entry.rejected,
        "detail": detail,
    }


def _emitter(stop: "threading.Event") -> "OnPoll":
    """Prints a line a poll; ends the run when nobody reads them any more (`| head`)."""

    def emit_poll(system_id: str, entry: "LedgerEntry", detail: str | None) -> None:
        try:
            emit(_as_dict(system_id, entry, detail), True, "")
        except BrokenPipeError:
            stop.set()

    return emit_poll


def _say_nothing(_system_id: str, _entry: "LedgerEntry", _detail: str | None) -> None:
    """The log tells people of each poll."""


@contextmanager
def _poll_counter() -> "Iterator[Callable[[RawPoll, LedgerEntry], None]]":
    """Counts polls on stderr where that is a terminal."""
    if not on_terminal():
        yield lambda _poll, _entry: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} polls, at {task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("the beginning", total=None)
        yield lambda poll, _entry: bar.update(task, advance=1, description=f"{poll.polled_at:%Y-%m-%d %H:%M}")
