"""Forecasts to try: a few stations whose K differ, on one count axis that is longer than most need."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

WEIGHTS = st.sampled_from([0.0, 0.0, 1e-6, 0.01, 0.3, 1.0, 1.0, 7.0])


@dataclass(frozen=True)
class Row:
    """One pmf, its K, and a truth within 0..K."""

    pmf: npt.NDArray[np.float32]
    k: int
    truth: int


@dataclass(frozen=True)
class Rows:
    """The same of several: pmf float32[row, count], k and truth int64[row]."""

    pmf: npt.NDArray[np.float32]
    k: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]


@st.composite
def distributions(draw: st.DrawFn, length: int) -> npt.NDArray[np.float32]:
    """float32[length] that sums to 1: many zeros, tiny and great masses side by side."""
    weights = np.array(draw(st.lists(WEIGHTS, min_size=length, max_size=length)))
    weights[draw(st.integers(0, length - 1))] += 1.0
    return np.asarray(weights / weights.sum(), dtype=np.float32)


@st.composite
def row(draw: st.DrawFn, size: int) -> Row:
    k = draw(st.integers(0, size - 1))
    pmf = np.zeros(size, dtype=np.float32)
    pmf[: k + 1] = draw(distributions(k + 1))
    return Row(pmf, k, draw(st.integers(0, k)))


@st.composite
def rows(draw: st.DrawFn, most: int = 4) -> Rows:
    size = draw(st.integers(1, 12))
    drawn = draw(st.lists(row(size), min_size=1, max_size=most))
    return Rows(
        np.stack([one.pmf for one in drawn]),
        np.array([one.k for one in drawn]),
        np.array([one.truth for one in drawn]),
    )
