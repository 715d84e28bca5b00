"""`velib city`: a synthetic city with known rates, as history files or as live feeds over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from velib_predictor.commands.output import Json, emit, progress_bar

app = typer.Typer(help="A synthetic city with known rates: history files, and live feeds over HTTP.")

_STATE, _CONFIG = "city.npz", "city.json"
Stations = Annotated[int, typer.Option("--stations", help="How many stations.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed makes the same city and the same days.")]


@app.command("history")
def history(
    out: Annotated[Path, typer.Option("--out", help="Folder for stations, status, polls and weather (.parquet).")],
    weeks: Annotated[float, typer.Option("--weeks", min=0.01, help="How many weeks.")] = 6.0,
    stations: Stations = 400,
    seed: Seed = 1,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="Where it ends, with its offset; now if not given.")
    ] = None,
    every: Annotated[str, typer.Option("--every", help="Time between polls.")] = "5m",
    as_json: Json = False,
) -> None:
    """Write weeks of a city's past, as files that `velib import` reads, and its state, for `velib city serve`."""
    import json
    from dataclasses import asdict
    from datetime import UTC, datetime, timedelta

    from velib_predictor.simulation import checkpoint
    from velib_predictor.simulation.city import SYSTEM_ID, City, CityConfig
    from velib_predictor.simulation.history import write_history
    from velib_predictor.utils.temporal import EPOCH, format_time, parse_duration, parse_time

    step = parse_duration(every)
    end = parse_time(until) if until else datetime.now(UTC)
    end -= (end - EPOCH) % step
    start = end - timedelta(weeks=weeks) // step * step
    config = CityConfig(stations=stations, seed=seed)
    with progress_bar() as progress:
        simulation = write_history(City.make(config), start, end, step, out, progress)
    checkpoint.save(simulation, out / _STATE)
    (out / _CONFIG).write_text(json.dumps(asdict(config), indent=1), encoding="utf-8")
    words = ["import", "--system", SYSTEM_ID, "--timezone", config.timezone]
    for name in ("stations", "status", "polls", "weather"):
        words += [f"--{name}", str(out / f"{name}.parquet")]
    emit(
        {"folder": str(out), "from": format_time(start), "to": format_time(end), "import": ["velib", *words]},
        as_json,
        f"{format_time(start)} to {format_time(end)}; take it in with\nvelib {' '.join(words)}\n"
        f"and let it live on with\nvelib city serve --resume {out}",
    )


@app.command("serve")
def serve(
    flavour: Annotated[str, typer.Option("--flavour", help="velib (GBFS 1.0 as Vélib' has it), 2.3 or 3.0.")] = "velib",
    speed: Annotated[float, typer.Option("--speed", help="Simulated seconds a second.")] = 1.0,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8090,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    stations: Stations = 400,
    seed: Seed = 1,
    start: Annotated[
        str | None, typer.Option("--from", metavar="T", help="Simulated time of the start; now if not given.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Go on where this folder's history ends.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve a city's feed, its weather forecast, and switches for faults, until interrupted."""
    import json
    from datetime import UTC, datetime
    from typing import cast

    from velib_predictor.simulation import checkpoint
    from velib_predictor.simulation.city import City, CityConfig
    from velib_predictor.simulation.clock import Clock
    from velib_predictor.simulation.gbfs import Flavour
    from velib_predictor.simulation.server import CityServer
    from velib_predictor.simulation.simulation import Simulation
    from velib_predictor.utils.temporal import parse_time

    if resume:
        config = CityConfig(**json.loads((resume / _CONFIG).read_text(encoding="utf-8")))
        simulation = checkpoint.load(City.make(config), resume / _STATE)
        begins = parse_time(start) if start else simulation.now
    else:
        begins = parse_time(start) if start else datetime.now(UTC)
        simulation = Simulation(City.make(CityConfig(stations=stations, seed=seed)), begins)
    with CityServer(simulation, Clock(begins, speed), cast(Flavour, flavour), host, port) as server:
        emit(
            {"feed": server.url, "weather": server.weather_url, "control": server.control_url},
            as_json,
            f"feed     {server.url}\nweather  {server.weather_url}\ncontrol  {server.control_url}\n"
            f"collect it with: velib collect --system city --url {server.url}",
        )
        _until_interrupted()


def _until_interrupted() -> None:
    import threading

    threading.Event().wait()
