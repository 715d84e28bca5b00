"""What members gave to what came on days that they had not seen: of this weights and calibration are learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast
from velib_predictor.models.base import Forecaster
from velib_predictor.utils.temporal import from_micros

Floats = npt.NDArray[np.float32]
_LEAST_DAYS = 3
"""Usable days below which nothing is held out. One day of three tells already whether what the cold-start model learned
elsewhere holds here: on three and five days its learned shares came within 2.6 % of the best RPS at every horizon, a
half everywhere within 4.7 %, none at all within 14 % (`benchmarks/cold_share.py`, Vélib' and Bay Wheels)."""
_SHARE, _MOST_DAYS = 0.2, 7
"""Of the days, at the end, which are held out; at most so many."""
_ORIGINS = 96


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The last days of a panel.

    Attributes:
        until: where members must stop learning. origins: ticks of the held-out days, int64[origin]. days: how many.
    """

    until: datetime
    origins: npt.NDArray[np.int64]
    days: int

    @classmethod
    def of(cls, train: Panel, longest: int) -> "HeldOut | None":
        """Of a panel of training; none where it is too short. `longest`: ticks of the longest horizon."""
        usable = np.asarray((train.observed.any(axis=2) & train.trusted).any(axis=1))  # [tick]
        day = local_time(train.ticks, train.timezone).day
        days, ticks = np.unique(day[usable], return_counts=True)
        days = days[ticks >= np.median(ticks) / 2]  # the first hours of a last day are no day to judge by
        if len(days) < _LEAST_DAYS:
            return None
        held_out = min(max(int(len(days) * _SHARE), 1), _MOST_DAYS)
        cut = int(np.searchsorted(day, days[-held_out]))  # the first tick of the held-out days
        until = from_micros(int(train.ticks[max(cut - longest, 0)].astype("datetime64[us]").astype(np.int64)))
        candidates = np.flatnonzero(usable[cut : len(train) - 1]) + cut
        return cls(until, candidates[np.unique(np.linspace(0, len(candidates) - 1, _ORIGINS).astype(int))], held_out)


@dataclass(frozen=True, eq=False)
class Told:
    """What members said of what came.

    Attributes:
        below, upto: P(count < truth) and P(count <= truth), float32[member, row, horizon, target]; NaN where it is not
            known, or any member knew nothing.
        hour: local hour of the origin, int8[row]. days: how many were held out.
    """

    below: Floats
    upto: Floats
    hour: npt.NDArray[np.int8]
    days: int

    @property
    def given(self) -> Floats:
        """What each member gave to what came, float32[member, row, horizon, target]."""
        return self.upto - self.below


def ask(train: Panel, held_out: HeldOut, judges: Sequence[Forecaster]) -> Told:
    """Ask members, fitted until `held_out.until`, at each of its origins; a row is an origin and station."""
    parts = [np.stack([_said(train, int(origin), judge) for judge in judges]) for origin in held_out.origins]
    both = np.concatenate(parts, axis=2)  # [member, (below, upto), row, horizon, target]
    both = np.where(np.isnan(both).any(axis=(0, 1)), np.float32(np.nan), both)
    hours = local_time(train.ticks[held_out.origins], train.timezone).hour
    return Told(both[:, 0], both[:, 1], np.repeat(hours, len(train.stations)), held_out.days)


def _said(train: Panel, origin: int, judge: Forecaster) -> Floats:
    """P(count < truth) and P(count <= truth), float32[(below, upto), station, horizon, target]; NaN where not known."""
    forecast = next(judge.predict(train, train.ticks[origin : origin + 1]))
    ahead = enumerate(judge.spec.horizon_ticks)
    return np.stack([_at(train, forecast, origin, horizon, ticks) for horizon, ticks in ahead], axis=2)


def _at(train: Panel, forecast: Forecast, origin: int, horizon: int, ahead: int) -> Floats:
    """Those of one horizon, float32[(below, upto), station, target]."""
    if origin + ahead >= len(train):
        return np.full((2, *forecast.known.shape[1:]), np.nan, dtype=np.float32)
    channels = forecast.spec.channels
    truth = np.clip(train.counts[origin + ahead][:, channels], 0, forecast.k[0][:, None]).astype(np.int64)[..., None]
    pmf = forecast.pmf[0, :, horizon]  # [station, target, count]
    upto = np.take_along_axis(np.cumsum(pmf, axis=-1, dtype=np.float32), truth, axis=-1)[..., 0]
    given = np.take_along_axis(pmf, truth, axis=-1)[..., 0]
    told = train.observed[origin + ahead][:, channels] & train.trusted[origin + ahead][:, None]
    here = train.observed[origin][:, channels] & train.open[origin][:, None] & forecast.known[0]
    return np.where(told & here, np.stack([upto - given, upto]), np.float32(np.nan))
