"""`velib train`, `velib predict` and `velib backtest`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velib_predictor.commands.options import Horizons, Step, Targets, Tolerance, Track, specification
from velib_predictor.commands.output import ConfigFile, Db, Json, emit, open_database, progress_bar, start

if TYPE_CHECKING:
    from velib_predictor.models.base import Forecaster

SystemId = Annotated[str, typer.Option("--system", help="Name of the system, such as velib.")]


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="One of persistence, persistence_delta, climatology, linear, xgboost, queueing, stid, lstm, gnn, "
            "coldstart, blend, champion"
        ),
    ],
    system: SystemId,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="Learn from what came before (default: all).")
    ] = None,
    step: Step = "15m",
    horizons: Horizons = None,
    targets: Targets = None,
    tolerance: Tolerance = None,
    promote: Annotated[bool, typer.Option("--promote", help="Put it in force at once, without comparing.")] = False,
    track: Track = None,
    db: Db = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Fit a model on the stored history and keep it under models/.

    It is in force at once, until one was chosen for a system (`velib models promote`, or the nightly comparison of
    `velib run`). From then on it is the challenger of that one, and --promote puts it in force all the same.
    Climatology and persistence only stand in.
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from velib_predictor.config.models import load_model_settings
    from velib_predictor.data.panel import Panel
    from velib_predictor.data.special_days import SpecialDays
    from velib_predictor.inference.card import beside
    from velib_predictor.jobs.promote import promote as put_in_force
    from velib_predictor.jobs.retrain import fit, keep, whose
    from velib_predictor.jobs.tracking import tell_trained, tracker_of
    from velib_predictor.models.base import forecaster
    from velib_predictor.utils.temporal import from_micros, parse_duration, parse_time

    settings = start(config, db)
    spec = specification(step, horizons, targets)
    recipe = load_model_settings(settings.models_file)
    forecaster(model)  # an unknown one is refused before anything is read
    told = tracker_of(settings, track)
    end = parse_time(until) if until else None
    age = parse_duration(tolerance) if tolerance else None
    database = open_database(settings)
    try:
        with progress_bar() as tell:
            if tell:
                tell(f"read {system}", 0, 2)
            days = SpecialDays.of(settings, system)
            panel = Panel.load(database, system, None, end, step=spec.step, tolerance=age, special_days=days)
            if tell:
                tell(f"fit {model}", 1, 2)
            last = int(panel.ticks[-1].astype("int64")) * 1_000_000 + 1
            made, made_from = fit(
                forecaster(model)(spec, recipe), panel, end or from_micros(last), whose(database, system),
                f"velib train {model}",
            )  # fmt: skip
        folder, report, alias = keep(settings, system, made, beside(made, made_from))
        if promote:
            put_in_force(settings, database, system, folder, datetime.now(UTC), force=True)
            alias = "champion"
    finally:
        database.close()
    tell_trained(told, settings, system, [folder])
    emit(
        {"folder": str(folder), "alias": alias, **asdict(report), "spec": spec.as_dict()},
        as_json,
        f"{model} fitted on {report.rows} rows ({report.details.get('rows', 'rows')}) of {report.days} days, "
        f"{report.first} to {report.until}\nkept in {folder}\n{_STANDS[alias]}",
    )


_STANDS = {
    "champion": "it is in force",
    "challenger": "another model was chosen to be in force; `velib models promote` compares the two",
    None: "it stands in where the model in force has no answer",
}


def predict(
    station: Annotated[str | None, typer.Argument(help="Id or code of one station (default: all).")] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Name of the system (default: the only one stored).")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="T", help="Forecast for this time, with its offset.")
    ] = None,
    horizon: Annotated[str | None, typer.Option("--horizon", help="Forecast so far ahead, such as 30m.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The newest of this name (default: the model in force).")
    ] = None,
    now: Annotated[
        str | None, typer.Option("--now", metavar="T", help="Forecast from what was known then (default: now).")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_geojson: Annotated[bool, typer.Option("--geojson", help="Print GeoJSON.")] = False,
    db: Db = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Forecast the stations of a system with a fitted model: a table, or JSON, CSV, GeoJSON.

    Where none was fitted yet the cold-start model answers; exit code 3 says so.
    """
    import json
    from datetime import UTC, datetime

    from velib_predictor.commands.serve import say
    from velib_predictor.data.special_days import SpecialDays
    from velib_predictor.forecast.forecast import ForecastSpec
    from velib_predictor.inference import postprocessor as post
    from velib_predictor.inference.predictor import forecast_at, only_system
    from velib_predictor.inference.store import ModelStore
    from velib_predictor.models.coldstart.trainer import ColdStart
    from velib_predictor.utils.errors import ExitCode, UsageError
    from velib_predictor.utils.temporal import parse_duration, parse_time

    if at and horizon:
        raise UsageError("--at and --horizon say the same thing in two ways; give one of them")
    if as_csv + as_geojson + as_json > 1:
        raise UsageError("choose one of --json, --csv and --geojson")
    wanted = parse_time(at) if at else None
    ahead = parse_duration(horizon) if horizon else None
    instant = parse_time(now) if now else datetime.now(UTC)
    settings = start(config, db)
    database = open_database(settings)
    try:
        name = only_system(database, system)
        store = ModelStore(settings.models_dir)
        special, every = SpecialDays.of(settings, name), settings.forecast.issue_every
        cold = model in (None, ColdStart.name) and not any(model in (None, f.parent.name) for f in store.folders(name))
        if cold:
            asked: Forecaster = ColdStart.ready(ForecastSpec.default(every), name, settings.forecast.tolerance)
        else:
            asked = store.newest(name, model) if model else store.serving(name)
        forecast, panel = forecast_at(asked, database, name, instant, special)
    finally:
        database.close()
    if ahead and ahead <= forecast.spec.horizons[-1]:
        # The longest horizon counts from the issue, which is up to a step ago; asked for by name it is not refused.
        wanted = min(instant + ahead, post.issued_at(forecast) + forecast.spec.horizons[-1])
    elif ahead:
        wanted = instant + ahead
    times = [wanted] if wanted else None
    places = [panel.stations.index(station)] if station is not None else None
    rows = post.records(forecast, panel, stations=places, times=times)
    if station is not None and not rows:
        raise UsageError(f"nothing recent is known of the station {station!r}, and {forecast.model} needs that")
    if as_csv:
        sys.stdout.write(post.as_csv(rows) + "\n")
    elif as_geojson:
        sys.stdout.write(json.dumps(post.as_geojson(rows), ensure_ascii=False) + "\n")
    else:
        emit(rows, as_json, "" if as_json else post.as_table(rows, panel.timezone))
    if cold:
        say(f"no model has been trained for {name} yet (`velib train`): the cold-start model answers")
        raise typer.Exit(ExitCode.DEGRADED)


def backtest(
    system: SystemId,
    models: Annotated[str, typer.Option("--models", help="Comma-separated; persistence is always judged.")],
    train_from: Annotated[str, typer.Option("--train-from", metavar="T", help="First moment of training.")],
    train_until: Annotated[str, typer.Option("--train-until", metavar="T", help="First moment after training.")],
    test_from: Annotated[str, typer.Option("--test-from", metavar="T", help="First origin that is judged.")],
    test_until: Annotated[str, typer.Option("--test-until", metavar="T", help="First moment without origins.")],
    step: Step = "15m",
    tolerance: Tolerance = None,
    horizons: Horizons = None,
    targets: Targets = None,
    forecasts_out: Annotated[
        Path | None, typer.Option("--forecasts-out", help="Parquet file for all forecasts, pmf included.")
    ] = None,
    report_out: Annotated[
        Path | None, typer.Option("--report-out", help="Folder for report.json and report.html.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="MODEL", help="Whom the others are compared with (default: best baseline)."),
    ] = None,
    track: Track = None,
    truth: Annotated[
        int | None,
        typer.Option("--truth", metavar="SEED", help="Synthetic city: also the forecast that knows its true rates."),
    ] = None,
    db: Db = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Fit models on one period and judge them, tick by tick, on a later one, all on the same rows."""
    from velib_predictor.config.models import load_model_settings
    from velib_predictor.data.special_days import SpecialDays
    from velib_predictor.evaluation.comparison import check_reference
    from velib_predictor.evaluation.evaluator import BASELINE, Protocol, load
    from velib_predictor.evaluation.evaluator import backtest as judge
    from velib_predictor.evaluation.report import as_table, report
    from velib_predictor.evaluation.writer import check_name
    from velib_predictor.jobs.tracking import tell_backtest, tracker_of
    from velib_predictor.models.base import forecaster
    from velib_predictor.utils.temporal import parse_duration, parse_time

    settings = start(config, db)
    spec = specification(step, horizons, targets)
    names = [name.strip() for name in models.split(",") if name.strip()]
    recipe = load_model_settings(settings.models_file)
    chosen: list[Forecaster] = [forecaster(name)(spec, recipe) for name in names]  # an unknown one is refused now
    check_reference(against, [BASELINE, *names])
    if forecasts_out:
        check_name(forecasts_out)
    protocol = Protocol(
        spec=spec,
        train_from=parse_time(train_from),
        train_until=parse_time(train_until),
        test_from=parse_time(test_from),
        test_until=parse_time(test_until),
        tolerance=parse_duration(tolerance) if tolerance else spec.step,
    )
    told = tracker_of(settings, track)
    if report_out:
        report_out.mkdir(parents=True, exist_ok=True)  # what cannot be written is said now, not after hours
    database = open_database(settings)
    try:
        panel = load(database, system, protocol, SpecialDays.of(settings, system))
    finally:
        database.close()
    if truth is not None:
        from velib_predictor.commands.truth import Truth

        chosen.append(Truth(spec, truth))
    with progress_bar() as tell:
        data = report(judge(panel, chosen, protocol, forecasts_out=forecasts_out, progress=tell), against)
    if report_out:
        from velib_predictor.evaluation.visualizer import write_report

        write_report(data, report_out)
    tell_backtest(told, data)
    emit(data, as_json, "" if as_json else as_table(data))
