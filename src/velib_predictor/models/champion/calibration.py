"""Calibration of whole distributions: cumulative probabilities bent so that held-out days confirm them.

Beta calibration (Kull, Silva Filho and Flach, AISTATS 2017) of the cumulative distribution: logit G(F) = a + b log F -
c log(1 - F), which keeps order, 0 and 1, and leaves everything as it is for a = 0, b = c = 1. P(at least one) and
intervals come from the same curve, so they cannot contradict each other.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_EDGE = 1e-6
_MOST_ROWS = 20_000
_PRIOR_DAYS = 1.0
"""Days' worth of belief that nothing need be bent: stations err together, so rows of a day are no rows apart."""
_COST = 0.1
"""In nats, of a curve that leaves the straight line by 1, where that belief is as strong as the rows."""
_STILL = np.array([0.0, 1.0, 1.0])
"""The curve that changes nothing."""
_LEAST, _MOST = np.array([-np.inf, 0.5, 0.5]), np.array([np.inf, 2.0, 2.0])
_FLOOR = 1e-5
"""What a forecast is taken to have given to what came, at least."""
_ROUNDS, _ENOUGH, _STIFF = 60, 1e-9, 1e6


@dataclass(frozen=True, eq=False)
class Calibration:
    """A curve for each horizon and target: (a, b, c), float32[horizon, target, 3]."""

    curve: Floats

    @classmethod
    def none(cls, horizons: int, targets: int) -> "Calibration":
        """That which changes nothing."""
        return cls(np.broadcast_to(np.array([0, 1, 1], dtype=np.float32), (horizons, targets, 3)).copy())

    @classmethod
    def fit(cls, below: Floats, upto: Floats, days: int) -> "Calibration":
        """The curves of the best log score.

        Args:
            below, upto: P(count < truth) and P(count <= truth), float32[row, horizon, target], NaN where not known.
            days: how many the rows come from.
        """
        made = cls.none(*below.shape[1:])
        for horizon, target in np.ndindex(*below.shape[1:]):
            low, high = below[:, horizon, target].astype(np.float64), upto[:, horizon, target].astype(np.float64)
            known = ~np.isnan(high)
            low, high = low[known], high[known]
            every = max(len(low) // _MOST_ROWS, 1)
            if len(low):
                made.curve[horizon, target] = _fitted(low[::every], high[::every], _PRIOR_DAYS / max(days, 1))
        return made

    def apply(self, pmf: Floats) -> Floats:
        """The pmf bent, float32[station, horizon, target, count]; one without mass stays so."""
        if (self.curve == np.array([0, 1, 1], dtype=np.float32)).all():
            return pmf
        cdf = np.cumsum(pmf, axis=-1, dtype=np.float32)
        total = cdf[..., -1:]
        bent = _bent(np.minimum(cdf, 1), self.curve[..., None, :])
        # 1 stays 1 from K on, 0 stays 0: nothing appears above K.
        bent = np.where(cdf >= total * np.float32(1 - _EDGE), total, np.where(cdf <= 0, 0, bent))
        return np.diff(bent, axis=-1, prepend=np.float32(0)).astype(np.float32).clip(min=0)


def _bent(cdf: npt.NDArray[np.floating], curve: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """G(F) within 0..1; `curve` [..., 3] is broadcast against it."""
    f = np.clip(cdf, _EDGE, 1 - _EDGE)
    logit = curve[..., 0] + curve[..., 1] * np.log(f) - curve[..., 2] * np.log1p(-f)
    bent = 0.5 + 0.5 * np.tanh(logit / 2)
    return np.where(cdf <= _EDGE, 0.0, np.where(cdf >= 1 - _EDGE, 1.0, bent))


def _fitted(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], prior: float) -> npt.NDArray[np.float64]:
    """(a, b, c) of the best mean log score less what leaving the straight line costs, within bounds.

    Newton's steps with the scores' outer product in place of the Hessian (Berndt, Hall, Hall and Hausman, 1974), on
    the coordinates that no bound holds, each damped until it is an improvement.
    """
    best, (value, slope, curvature) = _STILL, _loss(low, high, _STILL, prior)
    damping = 1e-3
    for _ in range(_ROUNDS):
        free = ~(((best <= _LEAST) & (slope > 0)) | ((best >= _MOST) & (slope < 0)))
        step = np.zeros(3)
        damped = curvature + damping * np.diag(np.diag(curvature))
        step[free] = np.linalg.solve(damped[np.ix_(free, free)], -slope[free])
        tried = np.clip(best + step, _LEAST, _MOST)
        found = _loss(low, high, tried, prior)
        if found[0] >= value:
            damping *= 10
            if damping > _STIFF:
                break
        else:
            near = value - found[0] < _ENOUGH
            best, (value, slope, curvature) = tried, found
            damping = max(damping / 10, 1e-6)
            if near:
                break
    return best


def _loss(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], curve: npt.NDArray[np.float64], prior: float
) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What is to be least, its slope [3] and its approximate curvature [3, 3]."""
    given, slopes = (above - below for above, below in zip(_of(high, curve), _of(low, curve), strict=True))
    scores = np.where(given > _FLOOR, slopes / np.maximum(given, _FLOOR), 0.0)  # [3, row]
    off, cost = curve - _STILL, prior * _COST
    value = float(-np.log(np.maximum(given, _FLOOR)).mean() + cost * (off**2).sum())
    slope = -scores.mean(axis=1) + 2 * cost * off
    return value, slope, scores @ scores.T / len(low) + (2 * cost + 1e-9) * np.eye(3)


def _of(
    cdf: npt.NDArray[np.float64], curve: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """G(F), float64[row], and its derivatives by a, b and c, float64[3, row]."""
    bent = np.asarray(_bent(cdf, curve), dtype=np.float64)
    f = np.clip(cdf, _EDGE, 1 - _EDGE)
    return bent, bent * (1 - bent) * np.stack([np.ones_like(f), np.log(f), -np.log1p(-f)])
