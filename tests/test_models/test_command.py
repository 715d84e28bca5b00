"""`velib train`, `predict` and `backtest` with learned models, and what is said where torch is not installed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import Result, Velib
from tests.test_cli_forecast import NOW, TRAIN, WINDOWS, refused
from tests.test_models.learned import hide_torch, need_torch, tiny_networks

LEARNED = ("stid", "champion")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    need_torch()
    models = "velib_predictor.models"
    monkeypatch.setattr(f"{models}.baseline.linear._ROUNDS", 5)
    monkeypatch.setattr(f"{models}.baseline.linear._SPREAD_ROUNDS", 5)
    monkeypatch.setattr(f"{models}.baseline.linear.XGBoost.most_rows", 4_000)
    monkeypatch.setattr(f"{models}.baseline.queueing.ROWS", 300)
    with tiny_networks(rows=2_000, epochs=1, folds=1):
        yield


def told_only_of_training(result: Result) -> None:
    """A line for each network; nothing of what libraries say about every node of it."""
    lines = [json.loads(line) for line in result.errors.splitlines()]
    assert {line["event"] for line in lines} == {"trained"}
    assert {line["logger"] for line in lines} == {"velib_predictor.training.trainer"}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", LEARNED)
def test_train_and_predict(velib: Velib, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained with torch, asked without."""
    result = velib("train", name, "--system", "town", *TRAIN, "--until", "2024-10-26T00:00:00Z", "--json")
    assert result.code == 0
    told_only_of_training(result)
    assert result.data["rows"] > 1_000
    folder = Path(result.data["folder"])
    assert folder.parts[-2] == name
    assert list(folder.rglob("*.onnx"))
    hide_torch(monkeypatch)
    found = velib("predict", "103", "--now", NOW, "--json")
    assert (found.code, found.errors) == (0, "")
    assert {row["model"] for row in found.data} == {name}
    assert len(found.data) == 2 * 3
    for row in found.data:
        assert 0 <= row["p_ge_1"] <= 1


@pytest.mark.usefixtures("tiny")
def test_backtest(velib: Velib) -> None:
    result = velib("backtest", "--system", "town", "--models", ",".join(LEARNED), *WINDOWS, *TRAIN, "--json")
    assert result.code == 0
    told_only_of_training(result)
    assert list(result.data["models"]) == ["persistence", *LEARNED]
    rows = {name: [row["rows"] for row in model["scores"]] for name, model in result.data["models"].items()}
    assert rows["persistence"] == rows["stid"] == rows["champion"]
    still = result.data["models"]["persistence"]["scores"]
    for name in LEARNED:
        for ours, theirs in zip(result.data["models"][name]["scores"], still, strict=True):
            assert 0 < ours["rps"] < 2 * theirs["rps"]  # hardly fitted, and yet not lost
            assert ours["rps"] != theirs["rps"]


@pytest.mark.parametrize("name", LEARNED)
def test_training_without_torch_is_a_usage_error(velib: Velib, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_torch(monkeypatch)
    asked = ("train", name, "--system", "town", *TRAIN)
    refused(velib(*asked), "training stid needs torch and Lightning", "make setup-deep", "velib-predictor[deep]")
    assert not Path("models").exists()


def test_a_backtest_without_torch_is_a_usage_error(velib: Velib, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_torch(monkeypatch)
    asked = ("backtest", "--system", "town", "--models", "stid", *WINDOWS, *TRAIN, "--json")
    refused(velib(*asked), "training stid needs torch and Lightning")
