"""Fit the model that is to forecast, and what stands in for it, on the newest history."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from velib_predictor.config.config import Settings
from velib_predictor.config.models import load_model_settings
from velib_predictor.data.database import Database
from velib_predictor.data.lock import exclusive
from velib_predictor.data.panel import Panel
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.card import about, beside
from velib_predictor.inference.current import SystemAbout, systems
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import STAND_IN
from velib_predictor.models.base import FitReport, Forecaster, forecaster
from velib_predictor.utils.logger import get_logger

_log = get_logger(__name__)
Progress = Callable[[str, int, int], None]


class Trained(NamedTuple):
    """One training: where it is kept, on what it was fitted, and what it counts as (None: it stands in)."""

    folder: Path
    report: FitReport
    alias: str | None


def retrain(
    settings: Settings, database: Database, system_id: str, now: datetime, progress: Progress | None = None
) -> list[Trained]:
    """Fit the stand-in and `forecast.train_model` on the last `forecast.train_days`.

    The stand-in is in force at once, and so is the model as long as nobody has chosen another one (`jobs.promote`);
    then it is the challenger of that. The model is the last of what is returned.

    Raises:
        AlreadyRunningError: another process trains this system.
        HistoryError: there is too little history for one of them; those before it are kept.
        UsageError: an unknown system or model, or no history at all.
    """
    names = list(dict.fromkeys((STAND_IN, settings.forecast.train_model)))
    recipe = load_model_settings(settings.models_file)
    # An unknown one is refused before anything is read.
    models = [forecaster(name)(serving_spec(settings), recipe) for name in names]
    with alone(settings, system_id):
        if progress:
            progress(f"read {system_id}", 0, len(names) + 1)
        panel = newest_panel(settings, database, system_id, now)
        done = []
        for number, new in enumerate(models):
            if progress:
                progress(f"fit {new.name}", number + 1, len(names) + 1)
            model, made_from = fit(new, panel, now, whose(database, system_id), "velib retrain")
            done.append(keep(settings, system_id, model, beside(model, made_from)))
            log_trained(done[-1])
    return done


@contextmanager
def alone(settings: Settings, system_id: str) -> Iterator[None]:
    """One training of a system at a time: a second one would only take the first one's processor.

    Raises:
        AlreadyRunningError: another process trains it.
    """
    folder = ModelStore(settings.models_dir).registry(system_id).file.parent
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(
        folder / f".{system_id}.training.lock", f"another process{{}} already trains {system_id!r}; let it end"
    ):
        yield


def serving_spec(settings: Settings) -> ForecastSpec:
    """What is forecast at every issue."""
    return ForecastSpec.default(settings.forecast.issue_every)


def newest_panel(settings: Settings, database: Database, system_id: str, now: datetime) -> Panel:
    """The last `forecast.train_days` of a system."""
    chosen = settings.forecast
    first = now - timedelta(days=chosen.train_days)
    return Panel.load(
        database, system_id, first, now, step=chosen.issue_every, tolerance=chosen.tolerance,
        special_days=SpecialDays.of(settings, system_id),
    )  # fmt: skip


def whose(database: Database, system_id: str) -> SystemAbout | None:
    """Of whom the data is."""
    return next((system for system in systems(database) if system.system_id == system_id), None)


def fit(
    model: Forecaster, panel: Panel, until: datetime, system: SystemAbout | None, command: str
) -> tuple[Forecaster, dict[str, Any]]:
    """A model fitted on what lies before `until`, and what it was made from.

    Raises:
        HistoryError: that is too little.
    """
    begun = perf_counter()
    model.fit(panel, until)
    return model, about(panel, until, system, perf_counter() - begun, command)


def keep(settings: Settings, system_id: str, model: Forecaster, files: dict[str, str]) -> Trained:
    """Save a fitted model with its files: in force at once, or as challenger of the one that was chosen."""
    folder, alias = ModelStore(settings.models_dir).register(model, system_id, files)
    report = model.report
    assert report is not None  # noqa: S101 - it was saved
    return Trained(folder, report, alias)


def log_trained(one: Trained) -> None:
    """For whoever reads the log of a scheduled run."""
    report = one.report
    _log.info(
        "trained", system=report.system_id, model=report.model, rows=report.rows, days=report.days,
        kept=str(one.folder), alias=one.alias,
    )  # fmt: skip
