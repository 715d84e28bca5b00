"""Shares from few rows, drawn towards better known ones."""

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.floating]


def drawn(counts: npt.NDArray[np.number], towards: Shares, rows: float) -> Shares:
    """Shares along the last axis, as if `towards` had been seen in so many more rows.

    The posterior mean under a Dirichlet prior of that weight (Gelman et al., Bayesian Data Analysis, section 3.4).

    Args:
        counts: how often each value was seen, [..., value]; may end before the values of `towards` do.
        towards: shares, [..., value], broadcast to the counts' leading axes; the result has their type.
        rows: above 0.
    """
    shape = (*np.broadcast_shapes(counts.shape[:-1], towards.shape[:-1]), towards.shape[-1])
    shares = np.empty(shape, dtype=towards.dtype)
    np.multiply(towards, towards.dtype.type(rows), out=shares)
    shares[..., : counts.shape[-1]] += counts
    shares /= counts.sum(axis=-1, keepdims=True, dtype=towards.dtype) + towards.dtype.type(rows)
    return shares
