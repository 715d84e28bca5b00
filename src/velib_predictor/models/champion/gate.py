"""Weights of members: the best log score on held-out days, by horizon and target, and by hour where days allow."""

import numpy as np
import numpy.typing as npt

from velib_predictor.models.champion.judge import Floats, Told

BLOCKS = 8
"""Of the local day, three hours each."""
_ROUNDS = 60
_PRIOR_ROWS = 300.0
"""Rows by which weights are drawn towards those that they begin with."""
_PRIOR_DAYS = 30.0
"""Days by which the weights of a block of hours are drawn towards those of all hours: what is learned of 9 o'clock from
four mornings is these mornings."""


def block_of(hour: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The block of a local hour."""
    return hour.astype(np.int64) * BLOCKS // 24


def gate(told: Told, start: Floats) -> Floats:
    """Weights that add up to 1 over members, float32[block, member, horizon, target].

    `start`: what they begin with and are drawn towards, float32[member, horizon, target].
    """
    given = told.given
    whole = weights(given, start)
    block = block_of(told.hour)
    share = told.days / (told.days + _PRIOR_DAYS)
    found = [
        (1 - share) * whole + share * weights(given[:, block == which], whole) if (block == which).any() else whole
        for which in range(BLOCKS)
    ]
    return np.stack(found).astype(np.float32)


def weights(given: Floats, start: Floats) -> Floats:
    """Weights of the best log score by expectation maximisation, float32[member, horizon, target].

    Args:
        given: what each member gave to what came, float32[member, row, horizon, target], NaN where not known.
        start: what the weights begin with and are drawn towards, float32[member, horizon, target].
    """
    known = ~np.isnan(given).any(axis=0)  # [row, horizon, target]
    likely = np.where(known, np.maximum(np.nan_to_num(given), 1e-6), 1.0).astype(np.float64)
    found = start.astype(np.float64)
    for _ in range(_ROUNDS):
        share = found[:, None] * likely
        share /= share.sum(axis=0, keepdims=True)
        counted = (share * known).sum(axis=1) + _PRIOR_ROWS * start
        found = counted / counted.sum(axis=0, keepdims=True)
    return found.astype(np.float32)
