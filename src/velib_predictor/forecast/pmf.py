"""The algebra of probabilities over counts 0..K. The last axis is always the count.

A pmf's axis may be longer than K + 1 (stations differ in K): what lies above K is 0. Cumulative distributions (cdf)
are then 1 from K on. Everything derived from a forecast (mean, quantiles, P(at least k)) comes from here, so that
no two numbers about one forecast can contradict each other.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]


def point(value: Integers, size: int) -> Probabilities:
    """All mass on `value`, int[...] within 0..size-1: float32[..., count] with `size` counts."""
    pmf = np.zeros((*value.shape, size), dtype=np.float32)
    np.put_along_axis(pmf, value[..., None].astype(np.int64), 1.0, axis=-1)
    return pmf


def to_cdf(pmf: Probabilities) -> Probabilities:
    """P(X <= k) of each pmf, float32[..., count], exactly 1 at the end."""
    cdf = np.cumsum(pmf, axis=-1, dtype=np.float32)
    np.minimum(cdf, 1.0, out=cdf)
    cdf[..., -1] = 1.0
    return cdf


def to_pmf(cdf: Probabilities) -> Probabilities:
    """The probabilities behind a cumulative distribution, float32[..., count]."""
    return np.diff(cdf, axis=-1, prepend=np.float32(0)).astype(np.float32, copy=False)


def mean(pmf: Probabilities) -> npt.NDArray[np.float32]:
    """Expected count, float32[...]."""
    counts = np.arange(pmf.shape[-1], dtype=np.float32)
    return np.asarray(pmf @ counts, dtype=np.float32)


def quantile(cdf: Probabilities, q: float) -> npt.NDArray[np.int16]:
    """The smallest count k with P(X <= k) >= q, int16[...].

    Raises:
        ValueError: `q` does not lie in (0, 1].
    """
    if not 0 < q <= 1:
        raise ValueError(f"a quantile lies in (0, 1], not at {q}")
    # Rounding of float32 sums must not push an exact q to the next count.
    return np.argmax(cdf >= np.float32(q) - np.float32(1e-6), axis=-1).astype(np.int16)


def at_least(pmf: Probabilities, count: int | Integers) -> npt.NDArray[np.float32]:
    """P(X >= count), float32[...]; `count` is one number or int[...] (one for each pmf). 1 where it is not positive.

    As 1 - P(X <= count - 1), so that P(at least one) is exactly 1 - pmf[0].
    """
    wanted = np.broadcast_to(np.asarray(count), pmf.shape[:-1])
    size = pmf.shape[-1]
    below = np.take_along_axis(to_cdf(pmf), np.clip(wanted - 1, 0, size - 1)[..., None].astype(np.int64), axis=-1)
    return np.where(wanted <= 0, np.float32(1), np.where(wanted >= size, np.float32(0), 1 - below[..., 0]))


def mix(pmfs: Sequence[Probabilities], weights: Sequence[float | npt.NDArray[np.floating]]) -> Probabilities:
    """The mixture: sum of weight times pmf, float32[..., count].

    Args:
        pmfs: of one shape.
        weights: one for each, a number or float[...] (broadcast over all axes but the count); they add up to 1.

    Raises:
        ValueError: the weights do not add up to 1.
    """
    total = sum(np.asarray(weight, dtype=np.float64) for weight in weights)
    if not np.allclose(total, 1.0, atol=1e-5):
        raise ValueError("the weights of a mixture add up to 1")
    mixed = np.zeros(pmfs[0].shape, dtype=np.float32)
    for pmf, weight in zip(pmfs, weights, strict=True):
        mixed += np.asarray(weight, dtype=np.float32)[..., None] * pmf
    return mixed


def shrink(pmf: Probabilities, towards: Probabilities, share: float | npt.NDArray[np.floating]) -> Probabilities:
    """The pmf drawn towards another one by `share` (0 leaves it, 1 replaces it), float32[..., count]."""
    part = np.asarray(share, dtype=np.float32)
    return mix([pmf, towards], [1 - part, part])


def censor(pmf: Probabilities, k: Integers) -> Probabilities:
    """All mass above `k`, int[...], moved onto `k`: who wants the 21st dock of 20 finds the station full."""
    counts = np.arange(pmf.shape[-1])
    limit = np.minimum(np.asarray(k)[..., None], pmf.shape[-1] - 1)  # [..., 1]
    above = np.where(counts > limit, pmf, 0).sum(axis=-1, dtype=np.float32)
    kept = np.where(counts > limit, np.float32(0), pmf)
    np.put_along_axis(
        kept, limit.astype(np.int64), np.take_along_axis(kept, limit.astype(np.int64), -1) + above[..., None], -1
    )
    return kept


def from_changes(changes: Probabilities, now: Integers, k: Integers, size: int) -> Probabilities:
    """Counts from a distribution of the change since now, censored at 0 and K: float32[..., count].

    Args:
        changes: P(change = d) for d = -D..D, float32[..., 2 D + 1].
        now: the count at the origin, int[...], within 0..K.
        k: K of each, int[...], below `size`.
        size: counts in the result.
    """
    reach = changes.shape[-1] // 2
    # cdf of the count k is the cdf of the change k - now; below -D it is 0, from D on it is 1.
    padded = np.zeros((*changes.shape[:-1], changes.shape[-1] + 1), dtype=np.float32)
    np.cumsum(changes, axis=-1, dtype=np.float32, out=padded[..., 1:])
    place = np.arange(size) - now[..., None] + reach + 1  # [..., count]
    cdf = np.take_along_axis(padded, np.clip(place, 0, changes.shape[-1]), axis=-1)
    cdf = np.where(place >= changes.shape[-1], np.float32(1), np.minimum(cdf, 1))
    cdf = np.where(np.arange(size) >= k[..., None], np.float32(1), cdf)
    return to_pmf(cdf)


def order_above(larger: Probabilities, smaller: Probabilities) -> Probabilities:
    """`smaller` made stochastically at most as large as `larger`: P(X >= k) is nowhere higher, float32[..., count].

    There are never more e-bikes than bikes. The smaller one is moved: the total is what the feed counts itself.
    """
    return to_pmf(np.maximum(to_cdf(smaller), to_cdf(larger)))
