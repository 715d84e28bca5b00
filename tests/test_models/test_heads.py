"""The mixture head against plain loops: likelihood, distribution, ends, gradients, and what an untrained one says."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velib_predictor.forecast import pmf as algebra

torch = pytest.importorskip("torch", reason="torch is not installed: the head is not trained here")
heads = pytest.importorskip("velib_predictor.models.heads")

FLOOR = 1e-3
Component = tuple[float, float, float]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def slow_pmf(components: list[Component], now: int, k: int, size: int, floor: float = FLOOR) -> list[float]:
    """The rule in words: each component's mass between half counts; all that is below 0 is 0, all above K is K."""
    pmf = [0.0] * size
    for count in range(k + 1):
        for weight, location, scale in components:
            upper = 1.0 if count == k else sigma((count + 0.5 - now - location) / scale)
            lower = 0.0 if count == 0 else sigma((count - 0.5 - now - location) / scale)
            pmf[count] += weight * (upper - lower)
        pmf[count] = (1 - floor) * pmf[count] + floor / (k + 1)
    return pmf


def drawn(rows: int, seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Parameters [row, 3, component], now and K [row]: K of 1 and of 40, narrow and wide components, far and near."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(3), rows)
    location = random.normal(0, random.choice([0.3, 3, 30], (rows, 1)), (rows, 3))
    scale = random.choice([0.03, 0.2, 1, 8], (rows, 3))
    k = random.integers(1, 40, rows)
    k[:5] = 1
    return np.stack([weights, location, scale], axis=1), random.integers(0, k + 1), k


def components(parameters: npt.NDArray[np.float64]) -> list[Component]:
    return [tuple(part) for part in parameters.T.tolist()]


def as_tensors(*arrays: npt.NDArray[np.generic]) -> list[Any]:
    return [torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in arrays]


def test_the_distribution_is_that_of_a_slow_loop() -> None:
    parameters, now, k = drawn(200)
    found = heads.distribution(*as_tensors(parameters, now, k), size=42).numpy()
    for n in range(200):
        wanted = slow_pmf(components(parameters[n]), int(now[n]), int(k[n]), 42)
        np.testing.assert_allclose(found[n], wanted, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-12)
    assert (found[np.arange(42) > k[:, None]] == 0).all()
    np.testing.assert_array_less(FLOOR / (k + 1) * 0.999, np.where(np.arange(42) <= k[:, None], found, 1).min(axis=1))


def test_the_likelihood_is_the_logarithm_of_the_distribution_at_every_count() -> None:
    parameters, now, k = drawn(60, seed=1)
    for n in range(60):
        wanted = slow_pmf(components(parameters[n]), int(now[n]), int(k[n]), int(k[n]) + 1)
        truth = np.arange(k[n] + 1)
        each = (np.repeat(array[n : n + 1], len(truth), axis=0) for array in (parameters, now, k))
        found = heads.log_likelihood(*as_tensors(*each, truth)).numpy()
        np.testing.assert_allclose(found, np.log(wanted), rtol=1e-9)


def test_truth_above_k_counts_as_k_and_ends_take_all_that_lies_beyond() -> None:
    one = np.array([[[0.2, 0.3, 0.5], [7.0, -7.0, 0.0], [0.1, 0.1, 0.1]]])  # at 11, at -3, here
    now, k = np.array([4]), np.array([9])

    def at(count: int) -> float:
        return float(heads.log_likelihood(*as_tensors(one, now, k, np.array([count]))).exp())

    even = FLOOR / 10
    assert at(9) == pytest.approx((1 - FLOOR) * 0.2 + even)
    assert at(0) == pytest.approx((1 - FLOOR) * 0.3 + even)
    assert at(4) == pytest.approx((1 - FLOOR) * 0.5 * (sigma(5) - sigma(-5)) + even)
    assert at(12) == at(9)
    assert at(6) == pytest.approx(even, rel=1e-2)


def test_a_floor_of_another_size_is_spread_evenly() -> None:
    parameters, now, k = drawn(40, seed=2)
    for floor in (0.0, 0.2, 1.0):
        found = heads.distribution(*as_tensors(parameters, now, k), size=41, floor=floor).numpy()
        likely = heads.log_likelihood(*as_tensors(parameters, now, k, now), floor=floor).exp().numpy()
        for n in range(40):
            wanted = slow_pmf(components(parameters[n]), int(now[n]), int(k[n]), 41, floor)
            np.testing.assert_allclose(found[n], wanted, atol=1e-12)
            assert likely[n] == pytest.approx(wanted[now[n]], abs=1e-12)


@pytest.mark.parametrize("location", [0.0, 1e4, -1e4, 1e30])
@pytest.mark.parametrize("scale", [0.03, 1.0, 1e6])
@pytest.mark.parametrize("k", [1.0, 60.0])
def test_values_and_gradients_are_finite_at_extremes(location: float, scale: float, k: float) -> None:
    """In float32, as in training."""
    parameters = torch.tensor([[0.2, 0.3, 0.5], [location] * 3, [scale] * 3], requires_grad=True)
    for now in (0.0, k):
        for truth in (0.0, 1.0, k, k + 9):
            here, most, came = (torch.tensor(value) for value in (now, k, truth))
            likelihood = heads.log_likelihood(parameters, here, most, came)
            assert torch.isfinite(likelihood)
            assert likelihood >= math.log(FLOOR / (k + 1)) - 1e-5
            (gradient,) = torch.autograd.grad(likelihood, parameters)
            assert torch.isfinite(gradient).all()
        pmf = heads.distribution(parameters.detach(), here, most, int(k) + 3)
        assert float(pmf.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("far", [1e3, -1e3, 1e30])
def test_a_trunk_that_ran_away_gives_no_nan(far: float) -> None:
    head = heads.MixtureHead(4, 2)
    torch.nn.init.normal_(head.linear.weight)
    parameters = head(torch.full((3, 4), far), torch.full((3, 2), 2.0))
    now, k = torch.full((3, 2), 1.0), torch.full((3, 2), 5.0)
    loss = -heads.log_likelihood(parameters, now, k, now).sum()
    loss.backward()
    assert torch.isfinite(parameters).all()
    assert torch.isfinite(head.linear.weight.grad).all()
    assert (parameters[:, :, 2] >= 0.03).all()


# -- the head ------------------------------------------------------------------------------------------------


def test_an_untrained_head_is_persistence_with_spread() -> None:
    """Whatever the trunk says; wider where the typical change is greater; alike up and down."""
    head = heads.MixtureHead(8, 2)
    k = torch.full((50, 2), 20.0)
    now = torch.full((50, 2), 10.0)
    unit = torch.tensor([[0.5, 3.0]]).expand(50, 2)
    pmf = heads.distribution(head(torch.randn(50, 8) * 100, unit), now, k, 21).detach()
    assert (pmf == pmf[0]).all()
    calm, lively = pmf[0]
    for target in (calm, lively):
        assert int(target.argmax()) == 10
        np.testing.assert_allclose(target, target.flip(0), atol=1e-6)
        assert (target[1:11].diff() >= 0).all()
        assert target[11] > FLOOR
    assert calm[10] > lively[10] > 0.1
    still = heads.distribution(head(torch.zeros(1, 8), unit[:1]), torch.tensor([[0.0, 20.0]]), k[:1], 21)
    assert still[0].argmax(dim=-1).tolist() == [0, 20]


def test_a_head_answers_for_each_row_and_output_in_counts() -> None:
    """Locations and scales are multiples of the typical change; weights are not."""
    torch.manual_seed(0)
    head = heads.MixtureHead(5, 3)
    torch.nn.init.normal_(head.linear.weight, std=0.1)
    trunk = torch.randn(7, 5)
    one, four = (head(trunk, torch.full((7, 3), unit)) for unit in (1.0, 4.0))
    assert one.shape == (7, 3, 3, heads.COMPONENTS)
    torch.testing.assert_close(one[:, :, 0].sum(-1), torch.ones(7, 3))
    torch.testing.assert_close(four[:, :, 0], one[:, :, 0])
    torch.testing.assert_close(four[:, :, 1:], one[:, :, 1:] * 4)
    alone = torch.stack([head(trunk[n : n + 1], torch.ones(1, 3))[0] for n in range(7)])
    torch.testing.assert_close(alone, one)


def test_a_head_learns_a_known_mixture() -> None:
    """Half of the changes are 0, half are +3: both are found, and the loss comes down to the entropy, ln 2."""
    torch.manual_seed(0)
    head = heads.MixtureHead(1, 1)
    trunk, unit = torch.ones(400, 1), torch.full((400, 1), 1.5)
    now, k = torch.full((400, 1), 5.0), torch.full((400, 1), 20.0)
    truth = now + 3 * (torch.arange(400) % 2)[:, None]
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = -heads.log_likelihood(head(trunk, unit), now, k, truth).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(math.log(2), abs=0.02)
    pmf = heads.distribution(head(trunk[:1], unit[:1]), now[:1], k[:1], 21)[0, 0].detach()
    assert pmf[[5, 8]].tolist() == pytest.approx([0.5, 0.5], abs=0.02)


# -- its twin ------------------------------------------------------------------------------------------------


@given(
    logits=st.lists(st.floats(-6, 6), min_size=3, max_size=3),
    location=st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3),
    scale=st.lists(st.floats(0.03125, 60, width=32), min_size=3, max_size=3),
    k=st.integers(1, 70),
    data=st.data(),
)
def test_the_numpy_twin_gives_the_same(
    logits: list[float], location: list[float], scale: list[float], k: int, data: st.DataObject
) -> None:
    now, more = data.draw(st.integers(0, k)), data.draw(st.integers(0, 5))
    weights = np.exp(logits) / np.exp(logits).sum()
    size = k + 1 + more
    parts = np.array([[weights, location, scale]], dtype=np.float32)  # [row, 3, component]
    ours = algebra.logistic_mixture(parts[:, 0], parts[:, 1], parts[:, 2], np.array([now]), np.array([k]), size)
    theirs = heads.distribution(torch.from_numpy(parts), torch.tensor([float(now)]), torch.tensor([float(k)]), size)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)
