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


def propagate(now: Integers, k: Integers, up: Floats, down: Floats, keep: Sequence[int]) -> Floats:
    """Distributions of chains after some numbers of intervals, float32[kept, count, chain], over 0..max(k).

    Args:
        now: where each chain stands, within 0..k, int[chain].
        k: its greatest count, at least 1, int[chain].
        up, down: expected attempts to move in each interval, not negative, float32[interval, chain].
        keep: after how many intervals to look, ascending, at least 1 each.
    """
    result = np.zeros((len(keep), int(k.max(initial=1)) + 1, len(now)), dtype=np.float32)
    total = up[: keep[-1]] + down[: keep[-1]]  # [interval, chain]
    share = np.divide(up[: keep[-1]], total, out=np.full_like(total, 0.5), where=total > 0)
    for chains in _blocks(k, total):
        limit = k[chains].astype(np.int64)
        size = int(limit[-1]) + 1
        states = _Block(now[chains], limit)
        kept = 0
        for interval in range(keep[-1]):
            states.step(total[interval, chains], share[interval, chains])
            if interval + 1 == keep[kept]:
                result[kept, :size, chains] = states.current().T
                kept += 1
    return result


class _Block:
    """Chains that are moved together. Rows are counts, with one row more at the end that no chain may keep."""

    def __init__(self, now: Integers, limit: npt.NDArray[np.int64]) -> None:
        size, chains = int(limit.max()) + 1, len(now)
        self._size = size
        self._state = np.zeros((size + 1, chains), dtype=np.float32)
        self._state[now, np.arange(chains)] = 1
        self._other = np.zeros_like(self._state)
        self._sum = np.zeros_like(self._state)
        self._work = np.empty((size, chains), dtype=np.float32)
        self._top = limit * chains + np.arange(chains)  # places of K in the flat state
        self._over = self._top + chains

    def current(self) -> Floats:
        """float32[count, chain]."""
        return self._state[: self._size]

    def step(self, total: Floats, share: Floats) -> None:
        """One interval: expected attempts, and which share of them is up, both [chain]."""
        state, other, work = self._state, self._other, self._work
        weights = poisson(total)  # [attempts, chain]
        rest = 1 - share
        np.multiply(state, weights[0], out=self._sum)
        for weight in weights[1:]:
            # other = P state: up from below, down from above, and who is blocked stays.
            np.multiply(state[:-1], share, out=other[1:])
            np.multiply(state[:1], rest, out=other[:1])
            np.multiply(state[1:], rest, out=work)
            other[:-1] += work
            flat = other.reshape(-1)
            flat[self._top] += flat[self._over]
            flat[self._over] = 0
            state, other = other, state
            np.multiply(state[:-1], weight, out=work)
            self._sum[:-1] += work
        self._state, self._sum, self._other = self._sum, state, other


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
