"""Fit the model that is to forecast, and what stands in for it, on the newest history."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from velib_predictor.config.config import Settings
from velib_predictor.config.models import load_model_settings
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.forecast.forecast import DEFAULT_HORIZONS, ForecastSpec
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import STAND_IN
from velib_predictor.models.base import FitReport, forecaster
from velib_predictor.utils.logger import get_logger

_log = get_logger(__name__)
Progress = Callable[[str, int, int], None]


def retrain(
    settings: Settings, database: Database, system_id: str, now: datetime, progress: Progress | None = None
) -> list[tuple[Path, FitReport]]:
    """Fit `forecast.train_model` and the stand-in on the last `forecast.train_days`; they are in force at once.

    Returns the folder and the report of each, the model last.

    Raises:
        HistoryError: there is too little history for one of them; those before it are kept.
        UsageError: an unknown system or model, or no history at all.
    """
    chosen = settings.forecast
    names = list(dict.fromkeys((STAND_IN, chosen.train_model)))
    recipe = load_model_settings(settings.models_file)
    classes = [forecaster(name) for name in names]
    spec = ForecastSpec(chosen.issue_every, tuple(h for h in DEFAULT_HORIZONS if not h % chosen.issue_every))
    if progress:
        progress(f"read {system_id}", 0, len(names) + 1)
    first = now - timedelta(days=chosen.train_days)
    days = SpecialDays.of(settings, system_id)
    panel = Panel.load(database, system_id, first, now, step=spec.step, tolerance=chosen.tolerance, special_days=days)
    store, done = ModelStore(settings.models_dir), []
    for number, made in enumerate(classes):
        if progress:
            progress(f"fit {names[number]}", number + 1, len(names) + 1)
        model = made(spec, recipe)
        report = model.fit(panel, now)
        folder = store.add(model, system_id)
        _log.info("trained", system=system_id, model=model.name, rows=report.rows, days=report.days, kept=str(folder))
        done.append((folder, report))
    return done
