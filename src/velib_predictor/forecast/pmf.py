"""The algebra of probabilities over counts 0..K. The last axis is always the count.

A pmf's axis may be longer than K + 1 (stations differ in K): what lies above K is 0. Cumulative distributions (cdf)
are then 1 from K on, up to rounding, and exactly 1 at the end. A pmf without mass (a forecast that is not known) means
nothing here: whoever asks masks it. Everything derived from a forecast (mean, quantiles, P(at least k)) comes from
here, so that no two numbers about one forecast can contradict each other.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

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
    pmf = np.empty(cdf.shape, dtype=np.float32)
    pmf[..., 0] = cdf[..., 0]
    np.subtract(cdf[..., 1:], cdf[..., :-1], out=pmf[..., 1:])
    return pmf


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
    return np.asarray(np.argmax(cdf >= np.float32(q) - np.float32(1e-6), axis=-1), dtype=np.int16)


def at_least(pmf: Probabilities, count: int | Integers) -> npt.NDArray[np.float32]:
    """P(X >= count), float32[...]; `count` is one number or int[...] (one for each pmf). 1 where it is not positive.

    As 1 - P(X <= count - 1), so that P(at least one) is exactly 1 - pmf[0].
    """
    size = pmf.shape[-1]
    if isinstance(count, int | np.integer):
        if not 0 < count < size:
            return np.full(pmf.shape[:-1], count <= 0, dtype=np.float32)
        # The same sums as in `to_cdf`, as far as they are needed.
        summed: Probabilities = np.cumsum(pmf[..., :count], axis=-1, dtype=np.float32)[..., -1]
        return np.float32(1) - np.minimum(summed, 1)
    wanted = np.broadcast_to(np.asarray(count), pmf.shape[:-1])
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
    limit = np.minimum(np.asarray(k, dtype=np.int64)[..., None], pmf.shape[-1] - 1)  # [..., 1]
    beyond = np.arange(pmf.shape[-1], dtype=np.int16) > limit.astype(np.int16)
    above = np.sum(pmf, axis=-1, keepdims=True, where=beyond, dtype=np.float32)
    kept = np.where(beyond, np.float32(0), pmf)
    np.put_along_axis(kept, limit, np.take_along_axis(kept, limit, axis=-1) + above, axis=-1)
    return kept


def from_changes(changes: Probabilities, now: Integers, k: Integers, size: int) -> Probabilities:
    """Counts from a distribution of the change since now, censored at 0 and K: float32[..., count].

    The leading axes of the three are broadcast against each other.

    Args:
        changes: P(change = d) for d = -D..D, float32[..., 2 D + 1]; what it lacks to 1 is laid on D.
        now: the count at the origin, int[...], within 0..K.
        k: K of each, int[...], below `size`.
        size: counts in the result.
    """
    width = changes.shape[-1]
    reach = width // 2
    shape = np.broadcast_shapes(changes.shape[:-1], now.shape, k.shape)
    now = np.broadcast_to(now, shape).astype(np.int64)
    k = np.broadcast_to(k, shape).astype(np.int64)
    cumulated = np.cumsum(changes, axis=-1, dtype=np.float32)
    # Room on both sides, so that the counts 0..size-1 of each row are one window into its changes.
    before = max(0, int(now.max(initial=0)) - reach)
    after = max(0, size - int(now.min(initial=0)) - reach - 1)
    padded = np.zeros((*changes.shape[:-1], before + width + after), dtype=np.float32)
    padded[..., before : before + width] = changes
    if width > 1:
        padded[..., before + width - 1] = 1 - np.minimum(cumulated[..., -2], 1)

    def up_to(change: Integers) -> npt.NDArray[np.float32]:
        """P(change <= d), float32[...]."""
        place = change + reach
        inside = np.clip(place, 0, width - 1)[..., None]
        found = np.take_along_axis(np.broadcast_to(cumulated, (*shape, width)), inside, axis=-1)[..., 0]
        return np.where(place < 0, np.float32(0), np.where(place >= width - 1, np.float32(1), np.minimum(found, 1)))

    windows = sliding_window_view(np.broadcast_to(padded, (*shape, padded.shape[-1])), size, axis=-1)
    rows = np.ogrid[tuple(slice(length) for length in shape)]
    pmf: Probabilities = windows[(*rows, before + reach - now)]  # [..., count], copied row by row
    pmf[..., 0] = up_to(-now)
    np.copyto(pmf, 0, where=np.arange(size, dtype=np.int16) > k[..., None].astype(np.int16))
    full = np.where(k > 0, 1 - up_to(k - 1 - now), np.float32(1))
    np.put_along_axis(pmf, k[..., None], full[..., None], axis=-1)
    return pmf


def order_above(larger: Probabilities, smaller: Probabilities) -> Probabilities:
    """`smaller` made stochastically at most as large as `larger`: P(X >= k) is nowhere higher, float32[..., count].

    There are never more e-bikes than bikes. The smaller one is moved: the total is what the feed counts itself.
    `larger` is broadcast to `smaller`.
    """
    cdf = np.cumsum(smaller, axis=-1, dtype=np.float32)
    total = cdf[..., -1:].copy()
    np.maximum(cdf, np.cumsum(larger, axis=-1, dtype=np.float32), out=cdf)
    # Only as much as there is: no rounded remainder may appear at counts above K.
    np.minimum(cdf, total, out=cdf)
    return to_pmf(cdf)


def logistic_mixture(
    weights: Probabilities,
    location: Probabilities,
    scale: Probabilities,
    now: Integers,
    k: Integers,
    size: int,
    floor: float = 1e-3,
) -> Probabilities:
    """Counts from a mixture of logistic distributions of the change since now, made whole and censored at 0 and K.

    F(c) = sum of w sigma((c + 1/2 - now - location) / scale) for c < K, and F(K) = 1; then a share `floor` is spread
    evenly over 0..K. After Salimans et al., PixelCNN++, ICLR 2017, on the change instead of the value.

    Args:
        weights, location, scale: float32[..., component]; weights add up to 1, scales are positive.
        now, k: int[...]; size: counts in the result, above every K.
    """
    # sigma(x) = (1 + tanh(x / 2)) / 2, and the hyperbolic tangent never overflows. In place: this is half the cost.
    half = np.float32(0.5) / scale
    begin = (np.float32(0.5) - now[..., None].astype(np.float32) - location) * half
    counts = np.arange(size, dtype=np.float32)
    cdf = np.full((*now.shape, size), 0.5, dtype=np.float32)
    part = np.empty_like(cdf)
    for which in range(weights.shape[-1]):
        np.multiply(counts, half[..., which, None], out=part)
        part += begin[..., which, None]
        np.tanh(part, out=part)
        part *= np.float32(0.5) * weights[..., which, None]
        cdf += part
    cdf[counts >= k[..., None]] = 1.0
    pmf = to_pmf(cdf)
    np.maximum(pmf, 0, out=pmf)
    return _floored(pmf, k, floor)


def categorical(changes: Probabilities, now: Integers, k: Integers, size: int, floor: float = 1e-3) -> Probabilities:
    """Counts from probabilities of the changes -D..D, censored at 0 and K: float32[..., count].

    What leads beyond 0 or K is laid there. The outermost changes stand for all beyond them: each is spread evenly over
    the counts from there to the edge. Then a share `floor` is spread evenly over 0..K.

    Args:
        changes: float32[..., 2 D + 1]; they add up to 1.
        now, k: int[...]; size: counts in the result, above every K.
    """
    reach = changes.shape[-1] // 2
    now, k = now[..., None].astype(np.int64), k[..., None].astype(np.int64)
    counts = np.arange(size)
    place = counts - now + reach  # [..., count]
    below = np.cumsum(changes, axis=-1, dtype=np.float32)  # P(change <= d)
    pmf = np.take_along_axis(changes, np.clip(place, 0, 2 * reach), axis=-1)
    low = changes[..., :1] / np.maximum(now - reach + 1, 1).astype(np.float32)
    high = changes[..., -1:] / np.maximum(k - now - reach + 1, 1).astype(np.float32)
    pmf = np.where(place <= 0, low, np.where(place >= 2 * reach, high, pmf))
    beyond = np.take_along_axis(below, np.clip(place, 0, 2 * reach), axis=-1)
    pmf = np.where((counts <= 0) & (place > 0), beyond, pmf)
    before = np.take_along_axis(below, np.clip(place - 1, 0, 2 * reach), axis=-1)
    rest = np.float32(1) - np.where(place > 0, before, np.float32(0))
    pmf = np.where((counts >= k) & (place < 2 * reach), rest, pmf)
    pmf = np.where(k <= 0, np.float32(1), pmf)
    pmf = np.where(counts <= k, np.maximum(pmf, 0), np.float32(0)).astype(np.float32)
    return _floored(pmf, k[..., 0], floor)


def _floored(pmf: Probabilities, k: Integers, floor: float) -> Probabilities:
    """The pmf with a share of its mass spread evenly over 0..K; in place."""
    pmf *= np.float32(1 - floor)
    pmf += np.where(np.arange(pmf.shape[-1]) <= k[..., None], np.float32(floor) / (k[..., None] + np.float32(1)), 0)
    return pmf
