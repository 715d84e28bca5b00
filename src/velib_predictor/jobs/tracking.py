"""Whether and where MLflow is told of trainings, backtests and promotions. Everything works without it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from velib_predictor.config.config import Settings
from velib_predictor.inference.store import ModelStore
from velib_predictor.utils.mlflow_utils import tracker

if TYPE_CHECKING:
    from velib_predictor.utils.mlflow_utils import Tracker


def tracker_of(settings: Settings, wanted: bool | None = None) -> "Tracker | None":
    """Who tells MLflow; None where nobody is to, or nobody can.

    Args:
        wanted: what the command line says; None leaves it to the settings.

    Raises:
        UsageError: the command line wants it, and MLflow is not installed.
    """
    if wanted is False or (wanted is None and not settings.mlflow.wanted):
        return None
    return tracker(settings.mlflow.tracking_uri, settings.mlflow.experiment, insist=wanted is True)


def tell_trained(told: "Tracker | None", settings: Settings, system_id: str, folders: list[Path]) -> None:
    """New versions, and what is in force since then."""
    if told:
        for folder in folders:
            told.training(system_id, folder)
        tell_standing(told, settings, system_id)


def tell_standing(told: "Tracker | None", settings: Settings, system_id: str) -> None:
    """What is in force."""
    if told:
        store = ModelStore(settings.models_dir)
        standing = store.registry(system_id).read()
        aliases = {"champion": standing.champion, "challenger": standing.challenger}
        told.mirror(system_id, {name: ref and store.folder(system_id, ref) for name, ref in aliases.items()})


def tell_backtest(told: "Tracker | None", data: dict[str, Any]) -> None:
    """A backtest's tables, its page and each of its figures."""
    if told:
        from velib_predictor.evaluation.visualizer import write_report

        with TemporaryDirectory(prefix="velib-report-") as folder:
            write_report(data, Path(folder), figures_too=True)
            told.backtest(data, Path(folder))
