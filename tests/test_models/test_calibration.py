"""Calibration: what is bent confirms itself on rows that it has not seen, keeps order, and what is right stays."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velib_predictor.models.champion import calibration
from velib_predictor.models.champion.calibration import Calibration

Floats = npt.NDArray[np.float32]


def pmf_of(spread: float, centre: npt.NDArray[np.float64], size: int = 31) -> Floats:
    """Discretised normal distributions, float32[row, count]."""
    from scipy.stats import norm

    edges = np.arange(size) + 0.5
    cdf = norm.cdf((edges - centre[:, None]) / spread)
    cdf[:, -1] = 1
    return np.asarray(np.diff(cdf, axis=1, prepend=0), dtype=np.float32)


def told(pmf: Floats, truth: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """P(count < truth) and P(count <= truth), float32[row, 1, 1]."""
    upto = np.take_along_axis(np.cumsum(pmf, axis=1), truth[:, None], axis=1)
    return (upto - np.take_along_axis(pmf, truth[:, None], axis=1))[:, None], upto[:, None]


def drawn(spread: float, shift: float, rows: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    centre = random.uniform(2, 28, rows)
    return centre, np.clip(np.rint(random.normal(centre + shift, spread)), 0, 30).astype(np.int64)


@pytest.mark.parametrize(("spread", "shift"), [(4.0, 0.0), (1.5, 0.0), (3.0, 0.8)])
def test_too_narrow_too_wide_and_shifted_forecasts_are_set_right(spread: float, shift: float) -> None:
    """Forecasts of spread 2.5; the truth has another. Judged on rows of their own, by P(at least 1) and intervals."""
    centre, truth = drawn(spread, shift, 8_000, seed=1)
    found = Calibration.fit(*told(pmf_of(2.5, centre), truth), days=1_000)
    centre, truth = drawn(spread, shift, 8_000, seed=2)
    before = pmf_of(2.5, centre)
    after = found.apply(before[:, None, None])[:, 0, 0]
    rows = np.arange(len(truth))
    score = [-np.log(np.maximum(pmf[rows, truth], 1e-6)).mean() for pmf in (before, after)]
    assert score[1] < score[0] - 0.02

    def off(pmf: Floats) -> float:
        """How far the share of truths below the 10 % and 90 % points is from that, randomised within a count."""
        upto = np.cumsum(pmf, axis=1)[rows, truth]
        place = upto - np.random.default_rng(0).random(len(rows)) * pmf[rows, truth]
        return max(abs(float((place < q).mean()) - q) for q in (0.1, 0.9))

    assert off(after) < 0.02 < off(before)


def test_what_is_right_stays_nearly_as_it_is() -> None:
    centre, truth = drawn(2.5, 0.0, 8_000, seed=3)
    found = Calibration.fit(*told(pmf_of(2.5, centre), truth), days=1_000)
    np.testing.assert_allclose(found.curve[0, 0], [0, 1, 1], atol=0.05)


@pytest.mark.parametrize(("spread", "shift", "days"), [(4.0, 0, 1), (1.2, 0, 1_000), (3.0, 0.8, 7), (9.0, -4.0, 30)])
def test_no_other_curve_within_bounds_has_a_better_score(spread: float, shift: float, days: int) -> None:
    """As scipy finds it; the widest and the narrowest end at a bound."""
    from scipy.optimize import minimize

    centre, truth = drawn(spread, shift, 4_000, seed=5)
    below, upto = told(pmf_of(2.5, centre), truth)
    low, high = below[:, 0, 0].astype(float), upto[:, 0, 0].astype(float)

    def lost(curve: npt.NDArray[np.float64]) -> float:
        given = np.maximum(calibration._bent(high, curve) - calibration._bent(low, curve), 1e-5)
        return float(-np.log(given).mean() + 0.1 / days * ((curve - [0, 1, 1]) ** 2).sum())

    best = minimize(lost, [0, 1, 1], method="L-BFGS-B", bounds=[(None, None), (0.5, 2.0), (0.5, 2.0)])
    found = Calibration.fit(below, upto, days).curve[0, 0].astype(float)
    assert ((found[1:] >= 0.5) & (found[1:] <= 2)).all()
    assert lost(found) <= best.fun + 1e-6


def test_a_day_is_believed_less_than_many() -> None:
    centre, truth = drawn(3.2, 0.0, 4_000, seed=4)
    rows = told(pmf_of(2.5, centre), truth)
    one, many = (Calibration.fit(*rows, days=days).curve[0, 0] for days in (1, 30))
    assert 0 < abs(one - [0, 1, 1]).max() < abs(many - [0, 1, 1]).max()


def test_nothing_seen_changes_nothing() -> None:
    nothing = np.full((40, 2, 1), np.nan, dtype=np.float32)
    found = Calibration.fit(nothing, nothing, days=7)
    pmf = np.random.default_rng(0).dirichlet(np.ones(9), (3, 2, 1)).astype(np.float32)
    assert found.apply(pmf) is pmf


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=12),
    st.tuples(st.floats(-3, 3), st.floats(0.5, 2), st.floats(0.5, 2)),
)
def test_it_stays_a_distribution_within_its_counts(raw: list[float], curve: tuple[float, float, float]) -> None:
    weights = np.array(raw)
    weights[0] += 1e-3
    pmf = np.append(weights / weights.sum(), [0.0, 0.0]).astype(np.float32)[None, None, None]  # two counts above K
    bent = Calibration(np.array([[curve]], dtype=np.float32)).apply(pmf)
    assert bent.dtype == np.float32
    assert (bent >= 0).all()
    assert bent.sum() == pytest.approx(1, abs=1e-4)
    assert (bent[..., len(raw) :] == 0).all()
    still = np.zeros_like(pmf)
    assert (Calibration(np.array([[curve]], dtype=np.float32)).apply(still) == 0).all()


def test_order_is_kept() -> None:
    """What is larger stays larger: bikes above e-bikes, if both are bent alike."""
    f = np.linspace(0, 1, 400)
    for curve in ([1.0, 0.5, 2.0], [-2.0, 2.0, 0.5]):
        bent = calibration._bent(f, np.array(curve))
        assert (np.diff(bent) >= 0).all()
        assert (bent[0], bent[-1]) == (0, 1)
