"""Birth-death chains on 0..K, many at once, moved through time by uniformisation.

In one interval a chain moves up with a constant rate while below its K, and down with another while above 0. Between
moves nothing happens, so its distribution is a Poisson mixture of the distributions after n moves or blocked attempts
(Jensen 1953; Grassmann 1977): exact up to the Poisson tail that is left out, without matrices, and free of negative
terms.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]
_TAIL = 1e-6
"""Poisson probability per interval that is left out (and given back by scaling)."""
_CELLS = 12_000
"""Counts x chains of a block: what is worked on at once stays in the processor's nearer cache."""


def propagate(
    now: Integers, k: Integers, climb: Floats, fall: Floats, up: Floats, down: Floats, keep: Sequence[int]
) -> Floats:
    """Distributions of chains after some numbers of intervals, float32[kept, count, chain], over 0..max(k).

    Args:
        now: where each chain stands, within 0..k, int[chain].
        k: its greatest count, at least 1, int[chain].
        climb, fall: share of the attempts to move up and down that succeed at a count, in 0..1, float32[count, chain]
            with counts 0..max(k); `climb` is 0 from k on, `fall` is 0 at 0.
        up, down: expected attempts to move in each interval, not negative, float32[interval, chain].
        keep: after how many intervals to look, ascending, at least 1 each.
    """
    result = np.zeros((len(keep), int(k.max(initial=1)) + 1, len(now)), dtype=np.float32)
    up, down = up[: keep[-1]], down[: keep[-1]]
    total = up + down  # [interval, chain]
    share = np.divide(up, total, out=np.full_like(total, 0.5), where=total > 0)
    for chains in _blocks(k, total):
        size = int(k[chains[-1]]) + 1
        state = np.zeros((size, len(chains)), dtype=np.float32)
        state[now[chains], np.arange(len(chains))] = 1
        climbing, falling = climb[:size, chains], fall[:size, chains]
        kept = 0
        for interval in range(keep[-1]):
            risen = climbing * share[interval, chains]
            fallen = falling * (1 - share[interval, chains])
            state = _step(state, risen, fallen, poisson(total[interval, chains]))
            if interval + 1 == keep[kept]:
                result[kept, :size, chains] = state.T
                kept += 1
    return result


def _step(state: Floats, risen: Floats, fallen: Floats, weights: Floats) -> Floats:
    """One interval of a block, float32[count, chain].

    Args:
        state: before it, float32[count, chain]; it is overwritten.
        risen, fallen: probabilities that an attempt moves up and down, float32[count, chain].
        weights: probabilities of 0, 1, 2, ... attempts, float32[attempts, chain].
    """
    stay = 1 - risen - fallen
    after: Floats = state * weights[0]
    other, work = np.empty_like(state), np.empty_like(state)
    for weight in weights[1:]:
        np.multiply(state, stay, out=other)
        np.multiply(state, risen, out=work)
        other[1:] += work[:-1]
        np.multiply(state, fallen, out=work)
        other[:-1] += work[1:]
        state, other = other, state
        np.multiply(state, weight, out=work)
        after += work
    return after


def poisson(mean: Floats) -> Floats:
    """Poisson probabilities of 0, 1, 2, ... for each mean, summing to 1 each, float32[n, chain].

    As many as the largest mean needs.
    """
    terms = _terms(float(mean.max(initial=0)))
    weights = np.empty((terms, len(mean)), dtype=np.float64)
    weights[0] = np.exp(-mean.astype(np.float64))
    for n in range(1, terms):
        np.multiply(weights[n - 1], mean / n, out=weights[n])
    weights /= weights.sum(axis=0)
    return weights.astype(np.float32)


def _terms(mean: float) -> int:
    """How many Poisson probabilities leave out less than the tail."""
    probability, left, n = np.exp(-mean), 1 - np.exp(-mean), 1
    while left > _TAIL:
        probability *= mean / n
        left -= probability
        n += 1
    return n


def _blocks(k: Integers, total: Floats) -> Iterator[npt.NDArray[np.int64]]:
    """Chains that need about equally many terms and counts, a block at a time; the largest K of a block is last."""
    busiest = total.max(axis=0, initial=0)
    effort = np.ceil(2 * np.log2(np.maximum(busiest, 0.05))).astype(np.int64)
    order = np.lexsort((k, effort))
    first = 0
    while first < len(order):
        here = order[first:]
        same = np.searchsorted(effort[here], effort[here[0]], side="right")
        fits = np.searchsorted((k[here[:same]] + 2) * np.arange(1, same + 1), _CELLS, side="right")
        last = first + max(int(fits), 1)
        yield order[first:last]
        first = last
