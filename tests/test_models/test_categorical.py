"""The categorical head against a plain loop, its numpy twin against it, and what an untrained one says."""

import numpy as np
import numpy.typing as npt
import pytest

from velib_predictor.forecast import pmf as algebra

torch = pytest.importorskip("torch", reason="torch is not installed: the head is not trained here")
heads = pytest.importorskip("velib_predictor.models.heads")

FLOOR, REACH = 1e-3, heads.REACH


def slow_pmf(changes: npt.NDArray[np.float64], now: int, k: int, size: int) -> npt.NDArray[np.float64]:
    """The rule in words: a change leads to now + change; beyond the ends it ends there; the outermost are spread."""
    pmf = np.zeros(size)
    for place, probability in enumerate(changes):
        change = place - REACH
        if change == -REACH:
            reached = list(range(max(now - REACH, 0) + 1))
        elif change == REACH:
            reached = list(range(min(now + REACH, k), k + 1))
        else:
            reached = [min(max(now + change, 0), k)]
        for count in reached:
            pmf[count] += probability / len(reached)
    pmf *= 1 - FLOOR
    pmf[: k + 1] += FLOOR / (k + 1)
    return pmf


def drawn(rows: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Probabilities of changes [row, change], now and K [row]: K of 0, 1, about REACH and far above it; both ends."""
    random = np.random.default_rng(0)
    changes = random.dirichlet(np.full(2 * REACH + 1, 0.3), rows)
    k = random.choice([0, 1, 5, REACH - 1, REACH, REACH + 1, 2 * REACH, 70], rows)
    now = np.where(random.random(rows) < 0.3, random.choice([0, 1], rows) * k, random.integers(0, k + 1))
    return changes, now, k


def test_torch_and_numpy_give_what_a_slow_loop_gives() -> None:
    changes, now, k = drawn(300)
    tensors = [torch.from_numpy(part.astype(np.float64)) for part in (changes, now, k)]
    found = heads.distribution(*tensors, size=72).numpy()
    twin = algebra.categorical(changes.astype(np.float32), now, k, 72)
    for row in range(300):
        wanted = slow_pmf(changes[row], int(now[row]), int(k[row]), 72)
        np.testing.assert_allclose(found[row], wanted, atol=1e-12)
        np.testing.assert_allclose(twin[row], wanted, atol=1e-6)
        truth = torch.arange(float(k[row]) + 3, dtype=torch.float64)
        each = [part[row : row + 1].expand(len(truth), *part.shape[1:]) for part in tensors]
        likely = heads.log_likelihood(*each, truth).exp().numpy()
        np.testing.assert_allclose(likely, wanted[np.minimum(np.arange(len(truth)), k[row])], atol=1e-12)


def test_an_untrained_head_is_persistence_with_the_spread_of_the_other_head() -> None:
    trunk, unit = torch.randn(4, 8), torch.tensor([[0.3], [1.0], [3.0], [6.0]])
    now, k = torch.full((4, 1), 30.0), torch.full((4, 1), 60.0)
    one = heads.distribution(heads.head("categorical", 8, 1)(trunk, unit), now, k, 61).detach().numpy()
    other = heads.distribution(heads.head("mixture", 8, 1)(trunk, unit), now, k, 61).detach().numpy()
    inside = slice(30 - REACH + 1, 30 + REACH)
    np.testing.assert_allclose(one[:, 0, inside], other[:, 0, inside], atol=1e-4)
    assert (one[:, 0].argmax(axis=-1) == 30).all()


def test_it_learns() -> None:
    """Gradients reach every part: a change of two bikes is learned by heart."""
    torch.manual_seed(0)
    head = heads.head("categorical", 4, 1)
    trunk, unit = torch.randn(64, 4), torch.ones(64, 1)
    now, k = torch.full((64, 1), 10.0), torch.full((64, 1), 20.0)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -heads.log_likelihood(head(trunk, unit), now, k, now + 2).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
