"""All that talks to MLflow: runs of trainings and backtests, and a registry that mirrors what is in force.

MLflow is optional, and nothing waits for it: without it, or where it does not answer, the work goes on and one message
says so. It is given folders and plain JSON values, and knows no model.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.logger import get_logger, redact_text

DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
INSTALL = "pip install 'velib-predictor[mlflow]'"
SCORES = ("rps", "skill_rps", "mae_median", "rmse_mean", "brier", "ece", "log_score", "coverage_80", "coverage_90")
"""Scores of a backtest that are logged, by target and horizon."""
_BATCH = 500  # MLflow takes a thousand metrics, a hundred parameters, at a time
_log = get_logger(__name__)


class TrackingError(VelibError):
    """MLflow does not answer, or refuses."""


def installed() -> bool:
    """Whether MLflow can be imported; it is not imported to find out."""
    return find_spec("mlflow") is not None


def tracker(uri: str | None, experiment: str, *, insist: bool = False) -> "Tracker | None":
    """Who tells MLflow; None, and a message, where it is not installed.

    Args:
        uri: of a server or a database; the local store if not given.
        insist: whether it was asked for by name, so that going on without would be no answer.

    Raises:
        UsageError: it is not installed, and `insist`.
    """
    if installed():
        return Tracker(uri or DEFAULT_URI, experiment)
    if insist:
        raise UsageError(f"tracking needs MLflow, which is not installed; {INSTALL}, or leave out --track")
    _log.warning(f"runs are not tracked: MLflow is not installed; {INSTALL}, or set mlflow.enabled to false")
    return None


class Tracker:
    """Logs to one MLflow store. Every method logs a warning, and returns, where MLflow fails.

    Args:
        uri: http(s)://host:port of a server, or sqlite:///file, whose artifacts then lie beside it.
        experiment: first part of the names of experiments and registered models.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self._experiment = experiment
        self._made: Any = None
        self._failed = False

    # -- what is told ----------------------------------------------------------------------------------------

    def training(self, system_id: str, folder: Path) -> None:
        """A run for one saved model: what it was fitted on, the folder itself, and its place in the registry."""
        self._try(lambda: self._training(system_id, folder))

    def backtest(self, data: Mapping[str, Any], folder: Path) -> None:
        """A run for a backtest, and below it one a model.

        Args:
            data: what `evaluation.report.report` returns.
            folder: files to keep with it: report, figures.
        """
        self._try(lambda: self._backtest(data, folder))

    def mirror(self, system_id: str, aliases: Mapping[str, Path | None]) -> None:
        """Let the registry say what is in force.

        Args:
            aliases: `champion` and `challenger`, and the folders of their versions; None takes the alias away.
        """
        self._try(lambda: self._mirror(system_id, aliases))

    # -- how ---------------------------------------------------------------------------------------------------

    def _try(self, tell: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            tell()
        except Exception as error:  # whatever it is: the work that is told of is done, and must not be lost for it
            self._failed = True  # one message, and one time-out, are enough
            reason = redact_text(str(error).splitlines()[0][:300] if str(error) else repr(error))
            uri = redact_text(self.uri)
            _log.warning("MLflow was not told; the work itself is done", uri=uri, error=reason)

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = _connect(self.uri)
        return self._made

    def _run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Any:
        """A new run in an experiment, which is made if it is not there."""
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            number = self._client.create_experiment(experiment, artifact_location=_artifacts(self.uri))
        elif found.lifecycle_stage == "deleted":
            raise TrackingError(f"the experiment {experiment!r} was deleted; restore it, or set mlflow.experiment")
        else:
            number = found.experiment_id
        return self._client.create_run(number, run_name=name, tags=dict(tags))

    def _training(self, system_id: str, folder: Path) -> Any:
        about, metadata = _read(folder / "about.json"), _read(folder / "metadata.json")
        fit = metadata.get("fit", {})
        model, version = folder.parent.name, folder.name
        run = self._run(f"{self._experiment}/{system_id}/training", f"{model} {version}", _tags(about, folder))
        data = about.get("data", {})
        params = {
            "model": model, "version": version, "system_id": system_id, "program": metadata.get("program"),
            **{name: fit.get(name) for name in ("first", "until", "step", "tolerance")},
            **{f"data_{name}": data.get(name) for name in ("sha256", "first_tick", "last_tick", "stations", "ticks")},
            "licence": about.get("licence"),
            **{name: ",".join(metadata.get("spec", {}).get(name, [])) for name in ("horizons", "targets")},
            **{f"details.{name}": value for name, value in fit.get("details", {}).items()
               if isinstance(value, str | int | float | bool)},
        }  # fmt: skip
        metrics = {"days": fit.get("days"), "rows": fit.get("rows"), "fit_s": about.get("fit_s")}
        with _Ended(self._client, run):
            self._write(run, params, metrics | _compared(folder))
            self._client.log_artifacts(run.info.run_id, str(folder), "model")
            return self._version(system_id, folder, run)

    def _version(self, system_id: str, folder: Path, run: Any) -> Any:
        """The run's model in the registry, found again by its tags."""
        from mlflow.exceptions import MlflowException

        name = self._registered(system_id)
        try:
            self._client.create_registered_model(name, description=f"Forecasts for {system_id}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"model": folder.parent.name, "version": folder.name}
        source = f"{run.info.artifact_uri}/model"
        return self._client.create_model_version(name, source, run.info.run_id, tags=tags, await_creation_for=60)

    def _registered(self, system_id: str) -> str:
        return f"{self._experiment}-{system_id}"

    def _mirror(self, system_id: str, aliases: Mapping[str, Path | None]) -> None:
        name = self._registered(system_id)
        there = {(v.tags.get("model"), v.tags.get("version")): v for v in self._versions(name)}
        for alias, folder in aliases.items():
            if folder is None:
                if there:
                    self._client.delete_registered_model_alias(name, alias)
                continue
            # One that was trained before anybody tracked is told of now.
            version = there.get((folder.parent.name, folder.name)) or self._training(system_id, folder)
            there[folder.parent.name, folder.name] = version
            self._client.set_registered_model_alias(name, alias, version.version)
            if compared := _compared(folder):
                run = self._client.get_run(version.run_id)
                self._write(run, {}, compared)
                self._client.log_artifact(version.run_id, str(folder / "comparison.json"), "model")

    def _versions(self, name: str) -> list[Any]:
        found, token = [], None
        while True:
            page = self._client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
            found += page
            if not (token := page.token):
                return found

    def _backtest(self, data: Mapping[str, Any], folder: Path) -> None:
        experiment = f"{self._experiment}/{data['system_id']}/backtest"
        protocol, tags = data["protocol"], {"created_at": str(data["created_at"]), **_program(data)}
        window = f"{protocol['test_from'][:10]} to {protocol['test_until'][:10]}"
        parent = self._run(experiment, f"{', '.join(data['models'])}: {window}"[:200], tags)
        shared = {name: ",".join(value) if isinstance(value, list) else value for name, value in protocol.items()}
        shared |= {"data_sha256": data.get("data_sha256"), "models": ",".join(data["models"])}
        with _Ended(self._client, parent):
            self._write(parent, shared, {name: data[name] for name in ("origins", "stations")})
            self._client.log_artifacts(parent.info.run_id, str(folder))
            for name, entry in data["models"].items():
                below = {"mlflow.parentRunId": parent.info.run_id, **tags}
                run = self._run(experiment, f"{name}: {window}", below)
                with _Ended(self._client, run):
                    fit = {key: entry["fit"].get(key) for key in ("first", "until", "days", "rows")}
                    self._write(run, shared | {"model": name, **fit}, _scores(name, entry, data["differences"]))

    def _write(self, run: Any, params: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        now = run.info.start_time
        values = [Metric(name, float(value), now, 0) for name, value in metrics.items() if value is not None]
        for first in range(0, len(values), _BATCH):
            self._client.log_batch(run.info.run_id, metrics=values[first : first + _BATCH])
        given = [Param(name, str(value)[:500]) for name, value in params.items() if value not in (None, "")]
        for first in range(0, len(given), 100):
            self._client.log_batch(run.info.run_id, params=given[first : first + 100])


class _Ended:
    """A run that is ended, as finished or as failed, when the block is left."""

    def __init__(self, client: Any, run: Any) -> None:
        self._client, self._run = client, run

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._client.set_terminated(self._run.info.run_id, "FAILED" if kind else "FINISHED")


def _connect(uri: str) -> Any:
    """MLflow's client; the database and its folder are made where they are not there."""
    # Read by MLflow when it is imported. It waits minutes for a server that is away, and asks home, unless it is told.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # where a command's result belongs
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # its messages go where ours do
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    if file := _file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _file(uri: str) -> Path | None:
    """The file of a local store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _artifacts(uri: str) -> str | None:
    """Where a local store's artifacts go: beside it. A server says that itself."""
    file = _file(uri)
    return (file.parent / "artifacts").absolute().as_uri() if file else None


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _tags(about: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Who made it and, for MLflow's page, the model card."""
    tags = _program(about) | {"command": str(about.get("command", ""))}
    card = folder / "MODEL_CARD.md"
    return tags | ({"mlflow.note.content": card.read_text(encoding="utf-8")} if card.is_file() else {})


def _program(told: Mapping[str, Any]) -> dict[str, str]:
    """Version and commit of the program, from a report or from what is kept beside a model."""
    program = told.get("program")
    if not isinstance(program, Mapping):
        return {"program": str(program)}
    commit = {"mlflow.source.git.commit": str(program["commit"])} if program.get("commit") else {}
    return {"program": str(program.get("version")), "python": str(program.get("python")), **commit}


def _compared(folder: Path) -> dict[str, Any]:
    """How a version did against the champion of its time."""
    found = _read(folder / "comparison.json")
    names = ("rps", "rps_champion", "rps_persistence", "difference", "low", "high", "days", "promoted")
    return {f"comparison.{name}": found.get(name) for name in names if found.get(name) is not None}


def _scores(name: str, entry: Mapping[str, Any], differences: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of one model, each under SCORE.TARGET.HORIZON, and those over everything."""
    metrics: dict[str, Any] = {"fit_s": entry["fit_s"], "predict_s": entry["predict_s"]}
    rows = total = 0.0
    for row in entry["scores"]:
        metrics |= {f"{score}.{row['target']}.{row['horizon']}": row[score] for score in SCORES}
        rows, total = rows + row["rows"], total + row["rows"] * (row["rps"] or 0.0)
    if rows:
        metrics["rps"] = total / rows
    for row in differences:
        if row["model"] == name:
            where = f"{row['target']}.{row['horizon']}"
            metrics |= {f"difference.{where}{end}": row[key] for key, end in
                        (("difference", ""), ("low", ".low"), ("high", ".high"))}  # fmt: skip
    return metrics
