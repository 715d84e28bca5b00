"""Every score, and the only home of each: RPS, Brier, coverage, calibration, skill and its uncertainty.

Arrays of forecasts have the count on the last axis; `...` stands for any leading axes, such as
[origin, station, horizon, target]. The truth is int[...] within 0..K, clipped by the caller. Nothing here knows which
cells are scored: the caller selects them, or gives an explicit mask. A value of 0 is a value.
"""

import numpy as np
import numpy.typing as npt

from velib_predictor.forecast.pmf import Integers, Probabilities, quantile

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


# -- scores of one forecast ------------------------------------------------------------------------------------


def rps(cdf: Probabilities, truth: Integers) -> Floats:
    """Ranked probability score: sum over k of (F(k) - 1{truth <= k})^2, float32[...], in counts.

    For counts it is the CRPS; of a forecast that is a single number it is the absolute error; it is the sum of the
    Brier scores of all events "k or fewer". Epstein 1969; Gneiting and Raftery 2007, section 4.2.

    Args:
        cdf: P(count <= k), float32[..., count].
        truth: what was counted, int[...].
    """
    steps = np.tri(cdf.shape[-1], dtype=np.float32).T  # [truth, count]: 1 from the truth on
    error = steps[truth]  # [..., count]
    np.subtract(cdf, error, out=error)
    score: Floats = np.vecdot(error, error)
    return score


def brier(probability: Floats, event: Bools) -> Floats:
    """Brier score of one event: (probability - happened)^2, float32[...]. Brier 1950, for two classes."""
    return np.asarray(np.square(np.subtract(probability, event, dtype=np.float32)))


def absolute_error(point: npt.NDArray[np.number], truth: Integers) -> Floats:
    """|point - truth|, float32[...], in counts. The median minimises it."""
    return np.asarray(np.abs(np.subtract(point, truth, dtype=np.float32)))


def squared_error(point: npt.NDArray[np.number], truth: Integers) -> Floats:
    """(point - truth)^2, float32[...], in counts squared. The mean minimises it."""
    return np.asarray(np.square(np.subtract(point, truth, dtype=np.float32)))


def log_score(pmf: Probabilities, truth: Integers, k: Integers, floor: float = 1e-4) -> Floats:
    """Negative log likelihood of the truth, float32[...], in nats.

    A uniform share over 0..K is mixed in, so that one count thought impossible costs much and not everything:
    -log((1 - floor) pmf[truth] + floor / (K + 1)). Good 1952 (the logarithmic score).

    Args:
        pmf: P(count), float32[..., count].
        truth: what was counted, int[...] within 0..K.
        k: K of each, int[...] (broadcast).
        floor: the uniform share, in [0, 1].
    """
    found = np.take_along_axis(pmf, truth[..., None].astype(np.int64), axis=-1)[..., 0]
    uniform = np.float32(floor) / (np.asarray(k) + 1).astype(np.float32)
    with np.errstate(divide="ignore"):  # without a floor an impossible truth costs infinitely much, as it should
        return np.asarray(-np.log(np.float32(1 - floor) * found + uniform), dtype=np.float32)


# -- intervals and calibration ---------------------------------------------------------------------------------


def interval(cdf: Probabilities, level: float) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """The central interval: quantiles at (1 - level) / 2 and (1 + level) / 2, both int16[...], ends included.

    Counts come in lumps, so it holds at least `level` of the probability and often more.

    Raises:
        ValueError: `level` does not lie in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies in (0, 1), not at {level}")
    return quantile(cdf, (1 - level) / 2), quantile(cdf, (1 + level) / 2)


def covered(cdf: Probabilities, truth: Integers, level: float) -> Bools:
    """Whether the truth lies in the central interval, bool[...]."""
    low, high = interval(cdf, level)
    return np.asarray((low <= truth) & (truth <= high))


def pit_mass(cdf: Probabilities, truth: Integers, bins: int) -> Floats:
    """Probability integral transform without randomisation, float32[..., bin]; sums to 1 over the bins.

    How much of the uniform distribution on [F(truth - 1), F(truth)] lies in each of `bins` equal parts of [0, 1].
    The mean over calibrated forecasts is flat; a U shape says too narrow, a hump too wide, a slope biased.
    Czado, Gneiting and Held 2009, section 2.1. A truth that was given no probability counts where it stands.
    """
    place = truth[..., None].astype(np.int64)
    upper = np.take_along_axis(cdf, place, axis=-1)  # [..., 1]
    below = np.take_along_axis(cdf, np.maximum(place - 1, 0), axis=-1)
    lower = np.where(place > 0, below, np.float32(0))
    width = upper - lower
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)[1:]  # [bin], their upper ends
    with np.errstate(over="ignore"):  # by a width near 0
        share: Floats = np.divide(edges - lower, np.where(width > 0, width, 1), dtype=np.float32)
    np.clip(share, 0, 1, out=share)
    np.copyto(share, edges > lower, where=width <= 0)
    share[..., -1] = 1
    share[..., 1:] -= share[..., :-1].copy()
    return share


def reliability(probability: Floats, event: Bools, mask: Bools | None = None, bins: int = 20) -> Doubles:
    """What was said against what happened, by equal bins of the probability: float64[bin, 3].

    Each row holds the number of forecasts, the sum of their probabilities, and how often the event happened. Tables
    of several blocks are added. Murphy and Winkler 1977.

    Args:
        probability: of the event, float32[...].
        event: whether it happened, bool[...].
        mask: which of them count, bool[...]; all if not given.
        bins: their number; each includes its lower end, the last its upper end, too.
    """
    if mask is not None:
        probability, event = probability[mask], event[mask]
    probability, event = probability.ravel(), event.ravel()
    place = np.clip((probability * np.float32(bins)).astype(np.int64), 0, bins - 1)
    columns = (None, probability, event)
    return np.stack([np.bincount(place, weights, minlength=bins) for weights in columns], axis=1).astype(np.float64)


def expected_calibration_error(table: Doubles) -> float:
    """Mean gap between what was said and what happened, weighted by the bins' counts, in probability; nan if empty.

    From a table of `reliability`. Naeini, Cooper and Hauskrecht 2015, section 3.
    """
    total = float(table[:, 0].sum())
    return float(np.abs(table[:, 1] - table[:, 2]).sum()) / total if total else float("nan")


# -- comparison ------------------------------------------------------------------------------------------------


def skill(score: float, reference: float) -> float:
    """1 - score / reference: 1 is perfect, 0 as good as the reference, below 0 worse; nan where the reference is 0."""
    return 1 - score / reference if reference else float("nan")


def day_block_bootstrap(
    ours: Doubles,
    reference: Doubles,
    rows: npt.NDArray[np.number],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.9,
) -> tuple[float, float, float]:
    """Skill over all days and its confidence interval by a paired bootstrap of whole days: (skill, low, high).

    Errors of one day hang together (weather, strikes), so days are drawn and not rows, each with both models' scores.
    Percentile interval; Efron and Tibshirani 1993, sections 8.5 and 13.3. The same seed gives the same numbers.

    Args:
        ours: our score summed over the day's rows, float64[day].
        reference: the other one's over the same rows, float64[day].
        rows: how many rows each day has, [day]; days without any take no part.
        draws: of as many days as there are.
        seed: of the random numbers.
        level: of the interval.

    Returns:
        All nan without a day or where the reference is 0; low and high nan with fewer than two days.
    """
    used = np.asarray(rows) > 0
    sums = np.stack([np.asarray(ours)[used], np.asarray(reference)[used]], axis=1)  # [day, 2]
    days = len(sums)
    estimate = skill(*(float(total) for total in sums.sum(axis=0)))
    if days < 2 or np.isnan(estimate):
        return estimate, float("nan"), float("nan")
    ours_drawn, reference_drawn = (_times_drawn(days, draws, seed) @ sums).T
    drawn = 1 - ours_drawn[reference_drawn != 0] / reference_drawn[reference_drawn != 0]
    return estimate, *_central(drawn, level)


def paired_difference(
    ours: Doubles,
    reference: Doubles,
    rows: npt.NDArray[np.number],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.9,
) -> tuple[float, float, float]:
    """Mean score minus the reference's and its confidence interval, by days as above: (difference, low, high).

    Below 0 we are better. It is in the score's own unit and says which of any two models is better where the skill
    against a third would be two intervals that overlap. Percentile interval of a ratio of sums, so that a day counts
    by its rows; Efron and Tibshirani 1993, sections 8.5 and 13.3.

    Args:
        ours, reference: scores summed over each day's rows, float64[day].
        rows, draws, seed, level: as of `day_block_bootstrap`.

    Returns:
        All nan without a day; low and high nan with fewer than two.
    """
    used = np.asarray(rows) > 0
    gaps = (np.asarray(ours) - np.asarray(reference))[used]  # [day]
    sums = np.stack([gaps, np.asarray(rows)[used]], axis=1)  # [day, 2]
    if not len(sums):
        return float("nan"), float("nan"), float("nan")
    estimate = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < 2:
        return estimate, float("nan"), float("nan")
    gaps_drawn, rows_drawn = (_times_drawn(len(sums), draws, seed) @ sums).T
    return estimate, *_central(gaps_drawn / rows_drawn, level)


def _times_drawn(days: int, draws: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each day is drawn, int64[draw, day]."""
    return np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), size=draws)


def _central(drawn: Doubles, level: float) -> tuple[float, float]:
    """The ends of the central interval of what was drawn."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# -- point scores of any series --------------------------------------------------------------------------------


def _errors(truth: npt.NDArray[np.number], prediction: npt.NDArray[np.number], mask: Bools) -> Doubles:
    """prediction - truth where the mask says so, float64[scored]; what lies elsewhere may be anything, even nan."""
    return np.asarray(np.subtract(prediction[mask], truth[mask], dtype=np.float64))


def mae(truth: npt.NDArray[np.number], prediction: npt.NDArray[np.number], mask: Bools) -> float:
    """Mean absolute error over the cells of the mask, in the series' unit; nan if there are none.

    The mask is explicit, bool[...] of the arrays' shape: no value stands for "missing".
    """
    errors = _errors(truth, prediction, mask)
    return float(np.abs(errors).mean()) if errors.size else float("nan")


def rmse(truth: npt.NDArray[np.number], prediction: npt.NDArray[np.number], mask: Bools) -> float:
    """Root of the mean squared error over the cells of the mask, in the series' unit; nan if there are none."""
    errors = _errors(truth, prediction, mask)
    return float(np.sqrt(np.square(errors).mean())) if errors.size else float("nan")
