"""What MLflow is told, read back from a real local store, and that nothing waits for it."""

import json
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.command_line import Velib, runner
from tests.test_evaluation.test_visualizer import judged
from tests.test_models.panels import small_city
from velib_predictor.config.config import Settings, load_settings
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.card import about, beside
from velib_predictor.inference.registry import Ref
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.tracking import tell_backtest, tell_standing, tell_trained, tracker_of
from velib_predictor.models.base import forecaster, load_model
from velib_predictor.utils import mlflow_utils
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.mlflow_utils import Tracker, installed, tracker

needs_mlflow = pytest.mark.skipif(not installed(), reason="MLflow is not installed (the extra `mlflow`)")
# MLflow 3.17 on SQLAlchemy 2.1: its own use of `noload`.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=1)), targets=("bikes", "docks"))
COMPARISON = {"rps": 1.0, "rps_champion": 1.5, "rps_persistence": 2.0, "difference": -0.5, "low": None, "high": None,
              "days": 4, "promoted": True, "reason": "it is better", "champion": "queueing/20240101T000000Z",
              "test_from": "2024-10-26T00:00:00Z", "test_until": "2024-10-30T00:00:00Z"}  # fmt: skip


@pytest.fixture(scope="module")
def store_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all tests: MLflow takes seconds to make it. Each test has a system of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlruns')}/mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, store_of_its_own: str) -> Settings:
    settings = Settings(models_dir=tmp_path / "models")
    return settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update={"tracking_uri": store_of_its_own})})


@pytest.fixture
def client(store_of_its_own: str) -> Any:
    return mlflow_utils._connect(store_of_its_own)


def keep(settings: Settings, system_id: str, name: str, comparison: dict[str, Any] | None = None) -> Path:
    panel = small_city(days=3)
    model, until = forecaster(name)(SPEC), datetime(2024, 10, 25, tzinfo=UTC)
    model.fit(panel, until)
    files = beside(model, about(panel, until, None, 0.5, "velib train"), comparison)
    return ModelStore(settings.models_dir).register(model, system_id, files)[0]


# -- what is told --------------------------------------------------------------------------------------------


@needs_mlflow
def test_a_training_is_a_run_with_its_data_its_program_its_card_and_the_model_itself(
    settings: Settings, client: Any, tmp_path: Path
) -> None:
    folder = keep(settings, "one", "persistence_delta", COMPARISON)
    tell_trained(tracker_of(settings), settings, "one", [folder])
    experiment = client.get_experiment_by_name("velib/one/training")
    (run,) = client.search_runs([experiment.experiment_id])
    made_from = json.loads((folder / "about.json").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.params["data_sha256"] == made_from["data"]["sha256"]
    assert run.data.params["until"] == "2024-10-25T00:00:00Z"
    assert run.data.params["horizons"] == "15m,1h"
    assert run.data.metrics["comparison.difference"] == -0.5
    assert run.data.tags["mlflow.note.content"] == (folder / "MODEL_CARD.md").read_text()
    assert run.data.tags["mlflow.source.git.commit"] == made_from["program"]["commit"]
    # The model comes back from the registry, by its alias, and is the same.
    version = client.get_model_version_by_alias("velib-one", "champion")
    assert version.tags == {"model": "persistence_delta", "version": folder.name}
    back = Path(client.download_artifacts(version.run_id, "model", str(tmp_path)))
    assert load_model(back).report == load_model(folder).report
    assert sorted(path.name for path in back.iterdir()) == sorted(path.name for path in folder.iterdir())


@needs_mlflow
def test_the_registry_says_what_is_in_force_as_the_local_one_does(settings: Settings, client: Any) -> None:
    told, store = tracker_of(settings), ModelStore(settings.models_dir)

    def aliases() -> dict[str, str]:
        model = client.get_registered_model("velib-two")
        return {alias: client.get_model_version("velib-two", n).tags["version"] for alias, n in model.aliases.items()}

    first = keep(settings, "two", "persistence_delta")
    store.settle("two")
    tell_trained(told, settings, "two", [first])
    assert aliases() == {"champion": first.name}
    second = keep(settings, "two", "queueing")  # of which nobody told MLflow: it is told when it counts
    tell_standing(told, settings, "two")
    assert aliases() == {"champion": first.name, "challenger": second.name}
    now = datetime.now(UTC)
    store.registry("two").promote(Ref.of(second), now, "test", Ref.of(first))
    tell_standing(told, settings, "two")
    assert aliases() == {"champion": second.name}
    store.registry("two").rollback(now, lambda _ref: None)
    tell_standing(told, settings, "two")
    assert aliases() == {"champion": first.name}
    assert len(client.search_model_versions("name = 'velib-two'")) == 2


@needs_mlflow
def test_a_backtest_is_a_run_with_one_below_it_for_each_model(settings: Settings, client: Any, tmp_path: Path) -> None:
    data = judged((15, 60), ("bikes", "docks"), ["persistence_delta"])
    tell_backtest(tracker_of(settings), data)
    experiment = client.get_experiment_by_name(f"velib/{data['system_id']}/backtest")
    runs = {run.data.params.get("model"): run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {None, "persistence", "persistence_delta"}
    parent = runs[None]
    assert parent.data.params["test_from"] == data["protocol"]["test_from"]
    assert parent.data.params["data_sha256"] == data["data_sha256"]
    for name in ("persistence", "persistence_delta"):
        assert runs[name].data.tags["mlflow.parentRunId"] == parent.info.run_id
        for row in data["models"][name]["scores"]:
            for score in ("rps", "brier", "coverage_80"):
                logged = runs[name].data.metrics[f"{score}.{row['target']}.{row['horizon']}"]
                assert logged == pytest.approx(row[score])
    difference = next(row["difference"] for row in data["differences"] if row["target"] == "all")
    assert runs["persistence"].data.metrics["difference.all.all"] == pytest.approx(difference)
    back = Path(client.download_artifacts(parent.info.run_id, "", str(tmp_path)))
    assert json.loads((back / "report.json").read_text()) == json.loads(json.dumps(data))
    drawn = sorted((back / "figures").iterdir())
    assert len(drawn) > 10
    for figure in drawn:
        root = ElementTree.fromstring(figure.read_text())  # noqa: S314 - our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--m1:" in str(root[0].text)


# -- whether anybody is told ---------------------------------------------------------------------------------


def test_it_is_off_unless_an_address_is_given_or_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker_of(load_settings()) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert load_settings().mlflow.tracking_uri == "http://127.0.0.1:5000"
    assert load_settings().mlflow.wanted
    assert tracker_of(load_settings(), False) is None
    monkeypatch.setenv("VELIB_MLFLOW__ENABLED", "false")
    assert not load_settings().mlflow.wanted


def test_without_mlflow_it_is_said_once_or_refused_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_utils, "find_spec", lambda _name: None)
    caplog.set_level("WARNING")
    assert tracker(None, "velib") is None
    assert "MLflow is not installed" in caplog.text
    assert "velib-predictor[mlflow]" in caplog.text
    with pytest.raises(UsageError, match=r"not installed; pip install .*or leave out --track"):
        tracker(None, "velib", insist=True)


@needs_mlflow
@pytest.mark.parametrize("accepts", [False, True], ids=["refuses", "hangs"])
def test_a_server_that_does_not_answer_costs_one_message_and_no_work(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, accepts: bool
) -> None:
    caplog.set_level("WARNING")
    folder = keep(settings, "three", "persistence_delta")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not accepts:
            server.close()
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        told = Tracker(f"http://user:hunter2@127.0.0.1:{port}", "velib")
        begun = time.perf_counter()
        for _ in range(3):
            tell_trained(told, settings, "three", [folder])
        assert time.perf_counter() - begun < 15
    told_of = [record.levelname for record in caplog.records if "MLflow was not told" in record.getMessage()]
    assert told_of == ["WARNING"]
    assert "hunter2" not in caplog.text


def test_mlflow_is_loaded_by_nobody_who_does_not_tell() -> None:
    code = "import sys, velib_predictor.jobs.tracking, velib_predictor.cli; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_one_module_talks_to_mlflow() -> None:
    package = Path(mlflow_utils.__file__).parents[1]
    said = [file.name for file in package.rglob("*.py") if "import mlflow" in (text := file.read_text())
            or "from mlflow" in text]  # fmt: skip
    assert said == ["mlflow_utils.py"]


# -- from the command line -----------------------------------------------------------------------------------


@needs_mlflow
def test_the_local_store_lies_in_mlruns(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], sqlite_template: Path, tmp_path: Path
) -> None:
    import shutil

    from tests.test_inference.test_predictor import make_town
    from velib_predictor.data.database import Database

    shutil.copy(sqlite_template, tmp_path / "town.db")
    database = Database(f"sqlite:///{tmp_path}/town.db")
    make_town().store(database)
    database.close()
    monkeypatch.setenv("VELIB_LOG_LEVEL", "WARNING")
    velib: Velib = runner(monkeypatch, capfd)
    asked = ("train", "persistence_delta", "--system", "town", "--db", "sqlite:///town.db", "--horizons", "15m")
    plain = velib(*asked)
    assert (plain.code, Path("mlruns").exists()) == (0, False)
    told = velib(*asked, "--track", "--json")
    assert (told.code, told.errors) == (0, "")
    client = mlflow_utils._connect("sqlite:///mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("velib/town/training")
    assert experiment.artifact_location == (tmp_path / "mlruns" / "artifacts").as_uri()
    versions = [run.data.params["version"] for run in client.search_runs([experiment.experiment_id])]
    assert versions == [Path(told.data["folder"]).name]
