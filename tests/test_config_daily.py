"""What the live system does by itself: times of day as YAML and people write them, and where MLflow is told."""

from datetime import time, timedelta
from pathlib import Path

import pytest

from velib_predictor.config.config import load_settings
from velib_predictor.utils.errors import SettingsError


def settings_of(text: str) -> Path:
    file = Path("settings.yaml")
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"03:20"', time(3, 20)),
        ("3:20", time(3, 20)),  # YAML 1.1 reads 200: minutes to the base of sixty
        ("23:59", time(23, 59)),
        ("0:00", time(0, 0)),
        ("off", None),  # YAML reads false
        ('"off"', None),
        ("", None),
    ],
)
def test_a_time_of_day(written: str, meant: time | None) -> None:
    assert load_settings(settings_of(f"jobs:\n  retrain_at: {written}\n")).jobs.retrain_at == meant


@pytest.mark.parametrize("written", ["on", "1440", "24:10", '"25:00"', '"noon"', "3.5", '"03:60"'])
def test_what_is_no_time_of_day_is_refused(written: str) -> None:
    with pytest.raises(SettingsError, match=r"settings\.yaml: jobs\.prune_at: found .*"):
        load_settings(settings_of(f"jobs:\n  prune_at: {written}\n"))


def test_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().jobs.retrain_at == time(3, 20)
    monkeypatch.setenv("VELIB_JOBS__RETRAIN_AT", "off")
    monkeypatch.setenv("VELIB_JOBS__PRUNE_AT", "5:05")
    monkeypatch.setenv("VELIB_JOBS__HOLD_OUT", "14d")
    jobs = load_settings().jobs
    assert (jobs.retrain_at, jobs.prune_at, jobs.hold_out) == (None, time(5, 5), timedelta(days=14))


def test_mlflows_own_variable_comes_before_the_file_and_ours_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    file = settings_of("mlflow:\n  tracking_uri: sqlite:///runs.db\n  experiment: bikes\n")
    assert load_settings(file).mlflow.tracking_uri == "sqlite:///runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    found = load_settings(file).mlflow
    assert (found.tracking_uri, found.experiment, found.wanted) == ("http://127.0.0.1:5000", "bikes", True)
    monkeypatch.setenv("VELIB_MLFLOW__TRACKING_URI", "http://127.0.0.1:6000")
    assert load_settings(file).mlflow.tracking_uri == "http://127.0.0.1:6000"
    monkeypatch.setenv("VELIB_MLFLOW__ENABLED", "false")
    assert not load_settings(file).mlflow.wanted


@pytest.mark.parametrize(
    ("uri", "words"),
    [("http://me:hunter2@127.0.0.1:5000", "MLFLOW_TRACKING_PASSWORD"), ("mlruns", "expected http")],
)
def test_an_address_with_a_password_or_of_no_kind_is_refused_and_not_repeated(uri: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        load_settings(settings_of(f"mlflow:\n  tracking_uri: {uri}\n"))
    assert "hunter2" not in str(refused.value)
