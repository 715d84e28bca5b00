"""Chains moved by uniformisation, against matrix exponentials and against simulation."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.linalg import expm

from velib_predictor.models.baseline import birth_death
from velib_predictor.models.baseline.birth_death import Floats, poisson, propagate
from velib_predictor.models.baseline.queue_rates import multipliers

KEEP = [1, 2, 5]


def chains(seed: int, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats, Floats]:
    """Where chains stand, their K, and attempts up and down in five intervals; some chains rest, some only rise."""
    random = np.random.default_rng(seed)
    k = random.integers(1, 30, number)
    now = random.integers(0, k + 1)
    up, down = random.gamma(0.5, 4, (2, 5, number)).astype(np.float32)
    up[:, 0] = down[:, 0] = down[:, 1] = 0
    up[2, 2] = down[2, 2] = 0
    return now, k, up, down


def exact(now: int, up: Floats, down: Floats, climb: Floats, fall: Floats) -> npt.NDArray[np.float64]:
    """After each interval, by the exponential of the generator, float64[interval, count]; counts 0..K only."""
    size = len(climb)
    state = np.eye(size)[now]
    states = []
    for rise, drop in zip(up, down, strict=True):
        generator = np.diag(rise * climb[:-1].astype(float), 1) + np.diag(drop * fall[1:].astype(float), -1)
        generator -= np.diag(generator.sum(axis=1))
        state = state @ expm(generator)
        states.append(state)
    return np.array(states)


@pytest.mark.parametrize(("pull", "edge"), [(0.0, 0.0), (0.6, 1.5)])
@pytest.mark.parametrize("cells", [40, 12_000])
def test_chains_equal_the_exponential_of_their_generator(
    pull: float, edge: float, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(birth_death, "_CELLS", cells)
    now, k, up, down = chains(seed=3, number=25)
    climb, fall = multipliers(k, np.maximum(k, 5).astype(np.float32), pull, edge)
    found = propagate(now, k, climb, fall, up, down, KEEP)
    assert found.dtype == np.float32
    assert found.shape == (len(KEEP), k.max() + 1, 25)
    for chain in range(25):
        size = k[chain] + 1
        wanted = exact(now[chain], up[:, chain], down[:, chain], climb[:size, chain], fall[:size, chain])
        np.testing.assert_allclose(found[:, :size, chain], wanted[np.array(KEEP) - 1], atol=1e-5)
        assert (found[:, size:, chain] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_chain_equals_a_queue_simulated_event_by_event() -> None:
    k, now, up, down = 7, 2, [1.5, 4.0, 0.2], [3.0, 0.5, 2.5]
    random = np.random.default_rng(11)
    count = np.full(60_000, now)
    for rise, drop in zip(up, down, strict=True):
        clock = np.zeros(len(count))
        while (clock < 1).any():
            clock += random.exponential(1 / (rise + drop), len(count))
            step = np.where(random.random(len(count)) < rise / (rise + drop), 1, -1)
            count = np.where(clock < 1, np.clip(count + step, 0, k), count)
    climb, fall = multipliers(np.array([k]), np.array([k], dtype=np.float32), 0.0, 0.0)
    rises, drops = np.array([up, down], dtype=np.float32)[:, :, None]  # [interval, chain]
    (found,) = propagate(np.array([now]), np.array([k]), climb, fall, rises, drops, [3])
    shares = np.bincount(count, minlength=k + 1) / len(count)
    np.testing.assert_allclose(shares, found[:, 0], atol=4 * 0.5 / np.sqrt(len(count)))


def test_chains_that_nothing_moves_stay_where_they_are() -> None:
    now, k = np.array([0, 3, 5]), np.array([5, 5, 5])
    climb, fall = multipliers(k, k.astype(np.float32), 0.3, 1.0)
    still = np.zeros((4, 3), dtype=np.float32)
    found = propagate(now, k, climb, fall, still, still, [1, 4])
    np.testing.assert_array_equal(found, np.broadcast_to(np.eye(6, dtype=np.float32)[now].T, (2, 6, 3)))


def test_poisson_probabilities_are_right_and_lose_no_mass() -> None:
    weights = poisson(np.array([0.0, 0.5, 40.0], dtype=np.float32))
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(weights[:2, 0], [1, 0])
    np.testing.assert_allclose(weights[:3, 1], np.exp(-0.5) * np.array([1, 0.5, 0.125]), rtol=1e-5)
    np.testing.assert_allclose(np.arange(len(weights)) @ weights[:, 2], 40, rtol=1e-4)
