"""The loop that fits networks: it learns, stops in time, ends with the best weights, and leaves nothing behind."""

import logging
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: nothing is trained here")
pytest.importorskip("lightning", reason="Lightning is not installed: nothing is trained here")
trainer = pytest.importorskip("velib_predictor.training.trainer")

from torch import Tensor, nn  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

from tests.conftest import REPOSITORY  # noqa: E402
from velib_predictor.training.trainer import Batch, Budget, TrainingError, digest, fit_network  # noqa: E402

BUDGET = Budget(epochs=30, patience=30, batch=64, rate=0.1)


def line(rows: int = 512, seed: int = 0) -> list[Tensor]:
    """Places and values of y = 3 x - 2 with a little noise, [row, 1] each."""
    made = np.random.default_rng(seed)
    x = made.normal(0, 1, (rows, 1))
    y = 3 * x - 2 + made.normal(0, 0.1, (rows, 1))
    return [torch.tensor(part, dtype=torch.float32) for part in (x, y)]


def squares(network: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    error: Tensor = (network(x) - y).square().mean()
    return error


def on(tensors: list[Tensor]) -> Callable[[nn.Module], float]:
    """The mean square on these rows, which are to be asked about in evaluation mode, without gradients."""

    def score(network: nn.Module) -> float:
        assert not network.training
        assert not torch.is_grad_enabled()
        return float(squares(network, tensors))

    return score


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))


def test_a_line_is_learned() -> None:
    seen, unseen = line(), line(seed=1)
    made = nn.Linear(1, 1)
    reached = fit_network(made, seen, squares, on(unseen), BUDGET)
    constant = float(unseen[1].var(correction=0))
    assert reached < 0.02 < 0.01 * constant
    assert made.weight.item() == pytest.approx(3, abs=0.1)
    assert made.bias.item() == pytest.approx(-2, abs=0.1)


def test_it_ends_with_the_weights_of_the_best_score_in_evaluation_mode() -> None:
    """Scores that are best after the second epoch, whatever the network does."""
    told: list[tuple[float, dict[str, Tensor]]] = []
    wanted = iter([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])

    def score(module: nn.Module) -> float:
        told.append((next(wanted), {name: value.clone() for name, value in module.state_dict().items()}))
        return told[-1][0]

    made = network()
    reached = fit_network(made, line(), squares, score, replace(BUDGET, epochs=6))
    assert reached == 1.0
    assert len(told) == 6
    assert not made.training
    for name, value in made.state_dict().items():
        assert torch.equal(value, told[1][1][name])
        assert not torch.equal(value, told[-1][1][name])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (3, 5)])
def test_it_stops_when_nothing_gets_better(patience: int, epochs: int) -> None:
    """The best epoch is the second."""
    given = iter([2.0, 1.0] + [1.5] * 18)
    seen = []
    fit_network(network(), line(), squares, lambda _: seen.append(next(given)) or seen[-1],  # type: ignore[func-returns-value]
                replace(BUDGET, epochs=20, patience=patience))  # fmt: skip
    assert len(seen) == epochs


def weights(seed: int) -> bytes:
    made = network()
    fit_network(made, line(), squares, on(line(seed=1)), replace(BUDGET, epochs=2, seed=seed))
    return b"".join(value.numpy().tobytes() for value in made.state_dict().values())


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    assert weights(3) == weights(3) != weights(4)


def test_no_row_is_left_out_and_none_is_taken_twice() -> None:
    epochs: list[list[int]] = [[]]

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        epochs[-1] += batch[2].tolist()
        return squares(module, batch[:2])

    def score(_module: nn.Module) -> float:
        epochs.append([])
        return 1.0

    tensors = [*line(130), torch.arange(130)]
    fit_network(network(), tensors, loss, score, replace(BUDGET, epochs=2, batch=64))
    assert [sorted(rows) for rows in epochs] == [list(range(130)), list(range(130)), []]
    assert epochs[0] != epochs[1]  # in another order


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_it_and_the_batch_is_named(bad: float) -> None:
    made, count = network(), 0

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        nonlocal count
        count += 1
        return squares(module, batch) * (bad if count == 11 else 1.0)

    with pytest.raises(TrainingError, match=rf"the loss of batch 2 in epoch 1 is {bad}"):
        fit_network(made, line(), loss, on(line(seed=1)), BUDGET)


def test_a_score_that_is_no_number_stops_it() -> None:
    """A network is not kept on the word of a score that says nothing."""
    given = iter([1.0, math.nan])
    with pytest.raises(TrainingError, match="the score after epoch 1 is nan"):
        fit_network(network(), line(), squares, lambda _: next(given), BUDGET)


@pytest.mark.parametrize(("slope", "wanted"), [(0.25, 0.25), (1e6, 0.5)])
def test_long_gradients_are_cut(slope: float, wanted: float) -> None:
    made = nn.Linear(1, 1, bias=False)
    gradients: list[float] = []

    def after_step(*_: object) -> None:
        assert made.weight.grad is not None
        gradients.append(made.weight.grad.item())

    hook = register_optimizer_step_post_hook(after_step)
    try:
        budget = replace(BUDGET, epochs=1, clip=0.5)
        fit_network(made, line(64), lambda *_: slope * made.weight.sum(), lambda _: 1.0, budget)
    finally:
        hook.remove()
    assert gradients == [pytest.approx(wanted, rel=1e-4)]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def numbers() -> tuple[float, float, float]:
    """The next random numbers of each kind."""
    return random.random(), float(np.random.random()), float(torch.rand(1))


def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No file, no warning, no line, no setting, and nobody else's random numbers are moved."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    environment, made = dict(os.environ), network()
    broken = [part * math.nan for part in line()]
    seed_all(7)
    wanted = numbers()
    seed_all(7)
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        fit_network(made, line(), squares, on(line(seed=1)), replace(BUDGET, epochs=2))
        with pytest.raises(TrainingError):
            fit_network(made, broken, squares, on(line()), BUDGET)
    assert said == []
    assert capfd.readouterr() == ("", "")
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert list(tmp_path.rglob("*")) == []
    assert dict(os.environ) == environment
    assert numbers() == wanted


# -- broken off ----------------------------------------------------------------------------------------------


class KilledError(Exception):
    """As if the process had ended."""


def killed_after(epochs: int) -> Callable[[nn.Module], float]:
    """A score that breaks off the training after so many epochs."""
    unseen = on(line(seed=1))
    told: list[float] = []

    def score(module: nn.Module) -> float:
        if len(told) == epochs:
            raise KilledError
        told.append(unseen(module))
        return told[-1]

    return score


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path, epochs: int) -> None:
    budget = replace(BUDGET, epochs=5, seed=3)
    whole = network()
    reached = fit_network(whole, line(), squares, on(line(seed=1)), budget)
    kept = replace(budget, kept=tmp_path / "kept")
    with pytest.raises(KilledError):
        fit_network(network(), line(), squares, killed_after(epochs), kept)
    scored: list[float] = []
    unseen = on(line(seed=1))

    def counted(module: nn.Module) -> float:
        scored.append(unseen(module))
        return scored[-1]

    resumed = network()
    assert fit_network(resumed, line(), squares, counted, kept) == reached
    assert len(scored) == 5 - epochs
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


def test_what_was_finished_is_not_trained_again(tmp_path: Path) -> None:
    kept = replace(BUDGET, epochs=2, kept=tmp_path / "kept")
    first, again = network(), network(seed=9)
    reached = fit_network(first, line(), squares, on(line(seed=1)), kept)
    assert fit_network(again, line(), squares, killed_after(0), kept) == reached
    for name, value in again.state_dict().items():
        assert torch.equal(value, first.state_dict()[name])
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["finished.pt"]


def test_a_digest_tells_bytes_shapes_and_words_apart() -> None:
    one = torch.arange(6.0)
    names = {digest([one]), digest([one.reshape(2, 3)]), digest([one + 1]), digest([one], "other"), digest([one, one])}
    assert len(names) == 5
    assert digest([one.clone()]) == digest([one])


def test_what_a_killed_training_left_goes_after_a_week(tmp_path: Path) -> None:
    fitting = pytest.importorskip("velib_predictor.models.fitting")
    for name, days in (("old", 8), ("new", 6)):
        (tmp_path / name / "0").mkdir(parents=True)
        then = time.time() - days * 86_400
        os.utime(tmp_path / name, (then, then))
    fitting.forget_old(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["new"]
    fitting.forget_old(tmp_path / "none")


_SHARED = """
from tests.test_training.test_trainer import BUDGET, fit_network, line, network, on, replace, squares, torch
made, seen, unseen = network(), line(), line(seed=1)
reached = fit_network(made, seen, squares, on(unseen), replace(BUDGET, devices=2, strategy="ddp_fork"))
with torch.no_grad():
    print(reached, on(unseen)(made))
"""


def test_two_processes_share_the_work_and_end_with_the_best_weights() -> None:
    """In a process of its own: what forks must have no threads."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SHARED], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reached, again = map(float, done.stdout.splitlines()[-1].split())
    assert reached == again < 0.2
