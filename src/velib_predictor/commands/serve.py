"""`velib run` and `velib serve`: forecasts for people, from one process or from several on one database."""

import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated

import typer

from velib_predictor.commands.collect import chosen_systems, polling
from velib_predictor.commands.output import ConfigFile, Db, Json, emit, open_database, start
from velib_predictor.commands.signals import stopped_by_signals
from velib_predictor.utils.errors import ExitCode, VelibError

if TYPE_CHECKING:
    from velib_predictor.data.checks import LedgerEntry

Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets others in.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 takes a free one.")]


def run(
    every: Annotated[str, typer.Option("--every", metavar="DURATION", help="Time between polls.")] = "60s",
    system: Annotated[
        list[str] | None,
        typer.Option("--system", metavar="ID", help="System to run; repeatable (default: all in the settings)."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="DISCOVERY_URL", help="GBFS discovery address of a system not in the settings."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Collect, forecast and serve in one process: the live system (Vélib' by default), until Ctrl-C."""
    from velib_predictor.api.server import bind
    from velib_predictor.utils.temporal import format_duration, parse_duration

    settings = start(config, db)
    systems = chosen_systems(settings, system or [], url)
    period = polling(parse_duration(every), systems)
    with ExitStack() as stack:
        stop, interrupted = stack.enter_context(stopped_by_signals())
        listening = stack.enter_context(closing(bind(host, port)))
        database = stack.enter_context(closing(open_database(settings, create=True)))
        from velib_predictor.commands.live import LiveSystem

        options = [*(["--db", db] if db else []), *(["--config", str(config)] if config else [])]
        live = LiveSystem(settings, database, systems, period, options=options)
        with live.serving(listening, stop) as address:
            ready(address, json)
            every = format_duration(settings.forecast.issue_every)
            say(f"one is made every {every}, on the clock; the first one as soon as the feed is heard")
            live.collect(stop, Watch(". `velib demo` shows everything without a network"))
    if interrupted.is_set():
        say("stopped; all that was collected is stored")
        raise typer.Exit(ExitCode.INTERRUPTED)


def serve(
    host: Host = "127.0.0.1", port: Port = 8000, db: Db = None, config: ConfigFile = None, json: Json = False
) -> None:
    """Serve what is stored: the API alone, beside a collector and an issue job that run elsewhere."""
    import threading

    from velib_predictor.api.app import create_app
    from velib_predictor.api.server import Server, bind
    from velib_predictor.api.service import Service

    settings = start(config, db)
    with ExitStack() as stack:
        stop, interrupted = stack.enter_context(stopped_by_signals())
        listening = stack.enter_context(closing(bind(host, port)))
        database = stack.enter_context(closing(open_database(settings)))
        service = Service(settings, database)
        follower = threading.Thread(target=service.follow, args=(stop,), name="follow")
        server = stack.enter_context(Server(create_app(service), listening))
        follower.start()
        ready(server.address, json)
        while (alive := server.alive) and not stop.wait(0.5):
            pass
        stop.set()
        follower.join()
        if not alive:
            raise VelibError("the API has ended although nobody asked it to; its messages above say why")
    if interrupted.is_set():
        say("stopped")
        raise typer.Exit(ExitCode.INTERRUPTED)


def ready(address: str, as_json: bool) -> None:
    """Say where it is served; with --json, to programs too."""
    say(f"forecasts at {address}/  (API: {address}/docs; Ctrl-C ends)")
    if as_json:
        emit({"address": address}, True, "")


def say(text: str) -> None:
    """A line for whoever watches; stdout stays for results."""
    sys.stderr.write(f"velib: {text}\n")
    sys.stderr.flush()


class Watch:
    """Tells people in plain words when the feed answers, and when it does not.

    Args:
        advice: what else they can do then.
    """

    def __init__(self, advice: str = "") -> None:
        self._advice = advice
        self._good: dict[str, bool] = {}

    def __call__(self, system_id: str, entry: "LedgerEntry", detail: str | None) -> None:
        """See `OnPoll`."""
        from velib_predictor.data.snapshot import Outcome

        if entry.outcome is Outcome.MISSED:  # it was not asked: that says nothing of the feed
            return
        good = entry.outcome.accepted
        before = self._good.get(system_id)
        self._good[system_id] = good
        if good and not before:
            say(f"{system_id}: the feed answers, {entry.stations} stations")
        elif not good and before in (None, True):
            say(
                f"{system_id}: no usable answer from the feed ({detail or entry.outcome}); it is asked again, "
                f"and what is stored is served meanwhile{self._advice}"
            )
