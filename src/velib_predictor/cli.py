"""The `velib` command: one subcommand a job. Thin: parse, call, print."""

import os
import sys

import typer

from velib_predictor import __version__
from velib_predictor.commands import city, collect, database, demo, doctor, forecast, jobs, serve, transfer
from velib_predictor.utils.errors import ExitCode, VelibError

app = typer.Typer(
    name="velib",
    help="Collect, keep and forecast bike-share availability: Vélib' and any GBFS system.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("run")(serve.run)
app.command("serve")(serve.serve)
app.command("collect")(collect.collect)
app.command("replay")(collect.replay)
app.command("import")(transfer.import_)
app.command("export")(transfer.export)
app.command("train")(forecast.train)
app.command("backtest")(forecast.backtest)
app.command("predict")(forecast.predict)
app.command("issue")(jobs.issue)
app.command("weather")(jobs.weather)
app.command("score")(jobs.score)
app.command("retrain")(jobs.retrain)
app.command("prune")(jobs.prune)
app.command("doctor")(doctor.doctor)
app.add_typer(database.app, name="db")
app.add_typer(city.app, name="city")


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"velib {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; every expected failure is one plain message on stderr and an exit code."""
    try:
        app()
    except VelibError as error:
        sys.stderr.write(f"velib: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("velib: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `velib db status | head`; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"velib: {where}{error.strerror or error}\n")
        sys.exit(ExitCode.FAILURE)


if __name__ == "__main__":
    main()
