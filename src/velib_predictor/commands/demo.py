"""`velib demo`: a synthetic city end to end, without any network: history, training, live feed, forecasts, API."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velib_predictor.commands.output import ConfigFile, Json
from velib_predictor.commands.serve import Host, Port, Watch, ready, say
from velib_predictor.commands.signals import stopped_by_signals
from velib_predictor.utils.errors import ExitCode

if TYPE_CHECKING:
    import socket
    import threading

    from velib_predictor.commands.demo_city import DemoCity


def demo(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    speed: Annotated[
        float, typer.Option("--speed", min=1, max=600, help="How many seconds of the city pass in one.")
    ] = 30.0,
    stations: Annotated[int, typer.Option("--stations", min=20, max=3_000, help="Stations of the city.")] = 400,
    weeks: Annotated[float, typer.Option("--weeks", min=1, max=52, help="Weeks of history.")] = 3.0,
    model: Annotated[str, typer.Option("--model", help="Model that is trained on it.")] = "queueing",
    folder: Annotated[Path, typer.Option("--folder", help="Where the city's data is kept.")] = Path("data/demo"),
    anew: Annotated[bool, typer.Option("--anew", help="Forget the city of the last time.")] = False,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End by itself so long after it is ready.")
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """A synthetic city end to end, without a network: weeks of history, a model, a live feed, forecasts, the API.

    The city's feed is polled over HTTP like any other; its time runs faster than yours. The second time takes up
    where the preparation of the first has ended.
    """
    from velib_predictor.api.server import bind
    from velib_predictor.config.config import load_settings
    from velib_predictor.models.base import forecaster
    from velib_predictor.utils.logger import configure_logging
    from velib_predictor.utils.temporal import parse_duration

    forecaster(model)  # an unknown one is refused before anything is begun
    lasts = parse_duration(duration).total_seconds() if duration else None
    settings = load_settings(config)
    configure_logging("ERROR", settings.log_format)  # people are told in words (see `Watch`)
    with closing(bind(host, port)) as listening:
        from velib_predictor.commands.demo_city import DemoCity

        city = DemoCity(folder, settings, stations=stations, weeks=weeks, model=model)
        if anew or not city.is_prepared():
            try:
                city.prepare(say)
            except KeyboardInterrupt:
                say("interrupted while preparing; the next `velib demo` begins that anew")
                raise typer.Exit(ExitCode.INTERRUPTED) from None
        with stopped_by_signals() as (stop, interrupted):
            _live(city, speed, listening, stop, lasts, json)
    if interrupted.is_set():
        say("stopped")
        raise typer.Exit(ExitCode.INTERRUPTED)


def _live(
    city: "DemoCity",
    speed: float,
    listening: "socket.socket",
    stop: "threading.Event",
    lasts: float | None,
    json: bool,
) -> None:
    """Let the city live, and everything else with it, until `stop` is set."""
    import threading
    from datetime import timedelta

    from velib_predictor.commands.live import LiveSystem
    from velib_predictor.data.database import Database
    from velib_predictor.simulation.server import CityServer

    simulation, clock, settings = city.awake(speed)
    with ExitStack() as stack:
        feed = stack.enter_context(CityServer(simulation, clock.city))
        settings = city.polling(settings, feed.url, feed.weather_url)
        database = stack.enter_context(closing(Database(settings.database_url)))
        live = LiveSystem(settings, database, settings.systems, timedelta(seconds=60), clock)
        address = stack.enter_context(live.serving(listening, stop))
        say(f"the city's feed: {feed.url} (its time runs {speed:g} times as fast as yours)")
        ready(address, json)
        if lasts is not None:
            end = threading.Timer(lasts, stop.set)
            end.daemon = True
            end.start()
            stack.callback(end.cancel)
        live.collect(stop, Watch())
