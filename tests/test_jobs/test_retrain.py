"""Retraining: the model and its stand-in on the newest history, in force at once, or nothing said to be so."""

from pathlib import Path

import pytest

from tests.test_inference.test_predictor import START
from tests.test_jobs.conftest import DAY, HOUR
from velib_predictor.config.config import Settings
from velib_predictor.data.database import Database
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.inference.issue import State
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.issue import IssueJob
from velib_predictor.jobs.retrain import retrain
from velib_predictor.models.base import HistoryError, load_model
from velib_predictor.utils.errors import UsageError

NOW = START + 8 * DAY + HOUR


def with_forecast(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update={"forecast": settings.forecast.model_copy(update=changes)})


def test_the_stand_in_and_the_model_are_fitted_on_the_last_days(settings: Settings, stored: Database) -> None:
    told: list[tuple[str, int, int]] = []
    done = retrain(settings, stored, "town", NOW, lambda *step: told.append(step))
    assert [one.report.model for one in done] == ["climatology", "persistence_delta"]
    for folder, report, _ in done:
        assert (report.system_id, report.tolerance, report.step) == ("town", "15m", "15m")
        assert (report.first, report.until) == ("2024-11-06T01:00:00Z", "2024-11-12T01:00:00Z")
        assert load_model(folder).report == report
        assert load_model(folder).spec == ForecastSpec()
    assert told == [("read town", 0, 3), ("fit climatology", 1, 3), ("fit persistence_delta", 2, 3)]


def test_what_was_trained_is_in_force_at_the_next_issue(settings: Settings, stored: Database) -> None:
    job = IssueJob(settings, stored, "town")
    assert job.run(NOW).state is State.DEGRADED
    folder = retrain(settings, stored, "town", NOW)[-1].folder
    issue = job.run(NOW + HOUR)
    assert (issue.state, issue.model, issue.version) == (State.FRESH, "persistence_delta", folder.name)


def test_the_grid_of_issues_is_the_models(settings: Settings, stored: Database) -> None:
    hourly = with_forecast(settings, issue_every=HOUR)
    folder, report, _ = retrain(hourly, stored, "town", NOW)[-1]
    model = load_model(folder)
    assert (report.step, model.spec.step) == ("1h", HOUR)
    assert min(model.spec.horizons) == HOUR


def test_a_stand_in_that_is_the_model_is_fitted_once(settings: Settings, stored: Database) -> None:
    done = retrain(with_forecast(settings, train_model="climatology"), stored, "town", NOW)
    assert [one.report.model for one in done] == ["climatology"]
    assert len(ModelStore(settings.models_dir).folders("town")) == 1


def test_too_little_history_is_said_and_what_was_in_force_stays(settings: Settings, stored: Database) -> None:
    kept = [one.folder for one in retrain(settings, stored, "town", NOW)]
    with pytest.raises(HistoryError, match="too little history to fit climatology"):
        retrain(settings, stored, "town", START + HOUR)
    assert set(ModelStore(settings.models_dir).folders("town")) == set(kept)


@pytest.mark.parametrize(
    ("changes", "system", "reason"),
    [
        ({"train_model": "oracle"}, "town", "unknown model 'oracle'"),
        ({}, "oslo", "no system 'oslo'; there are: town"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_fitted(
    settings: Settings, stored: Database, tmp_path: Path, changes: dict[str, object], system: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        retrain(with_forecast(settings, **changes), stored, system, NOW)
    assert not list(tmp_path.rglob("metadata.json"))
