"""The champion: members that err differently, mixed with weights that were best on days they had not seen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Arrays, Forecaster, HistoryError, forecaster, load_model
from velib_predictor.utils.temporal import from_micros

Floats = npt.NDArray[np.float32]
_LEAST_DAYS = 6
"""Usable days below which weights are not searched for: one or two days would say what was good on these."""
_SHARE, _MOST_DAYS = 0.2, 7
"""Of the days, at the end, on which the members are weighed; at most so many."""
_ORIGINS = 60
_ROUNDS = 60
_MEMBERS = "members.json"
_PRIOR_ROWS = 300.0
"""Rows by which weights are drawn towards those that they begin with."""


class Champion(Forecaster):
    """A mixture of its members' distributions, with weights for each horizon and target.

    Weights maximise the log score (by expectation maximisation) on the last days of training, forecast by members
    that were fitted on the days before; then the members are fitted on all days.
    """

    name = "champion"
    members: ClassVar[tuple[str, ...]] = ("xgboost", "stid", "queueing", "persistence_delta", "climatology")
    first: ClassVar[tuple[float, ...]] = (0.46, 0.46, 0.06, 0.01, 0.01)
    """What the weights begin with: about half and half of the best two, a little of the others."""

    def __init__(self, spec: ForecastSpec) -> None:
        super().__init__(spec)
        self.made: list[Forecaster] = [forecaster(name)(spec) for name in self.members]
        self.weights = self._first_weights()

    # -- fitting ---------------------------------------------------------------------------------------------

    def _first_weights(self) -> Floats:
        """`first` for each horizon and target, float32[member, horizon, target]."""
        start = np.array(self.first, dtype=np.float32)[:, None, None]
        shape = (len(self.members), len(self.spec.horizons), len(self.spec.targets))
        return np.broadcast_to(start / start.sum(), shape).astype(np.float32)

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        self.weights = self._first_weights()  # not those of an earlier fit
        weighed = self._weigh(train)
        end = from_micros(int(train.ticks[-1].astype("datetime64[us]").astype(np.int64)) + 1)
        rows = sum(member.fit(train, end).rows for member in self.made)
        table = {
            name: np.round(self.weights[place].astype(np.float64), 3).tolist()
            for place, name in enumerate(self.members)
        }  # [horizon, target]
        return rows, {"rows": "of all members", "weighed_on_origins": weighed, "weights": table}

    def _weigh(self, train: Panel) -> int:
        """Find the weights; returns on how many origins, 0 where the history is too short for that."""
        usable = np.asarray((train.observed.any(axis=2) & train.trusted).any(axis=1))  # [tick]
        day = local_time(train.ticks, train.timezone).day
        days, ticks = np.unique(day[usable], return_counts=True)
        days = days[ticks >= np.median(ticks) / 2]  # the first hours of a last day are no day to judge by
        if len(days) < _LEAST_DAYS:
            return 0
        held_out = min(max(int(len(days) * _SHARE), 1), _MOST_DAYS)
        cut = int(np.searchsorted(day, days[-held_out]))  # the first tick of the held-out days
        longest = self.spec.horizon_ticks[-1]
        until = from_micros(int(train.ticks[max(cut - longest, 0)].astype("datetime64[us]").astype(np.int64)))
        judges = [forecaster(name)(self.spec) for name in self.members]
        try:
            for judge in judges:
                judge.fit(train, until)
        except HistoryError:
            return 0
        candidates = np.flatnonzero(usable[cut : len(train) - 1]) + cut
        origins = candidates[np.unique(np.linspace(0, len(candidates) - 1, _ORIGINS).astype(int))]
        told = [self._told(train, int(origin), judges) for origin in origins.tolist()]
        self.weights = _weights(told, self.weights)
        return len(origins)

    def _told(self, train: Panel, origin: int, judges: Sequence[Forecaster]) -> Floats:
        """What each member gave to what came, float32[member, station, horizon, target]; NaN where not known."""
        found = []
        for judge in judges:
            forecast = next(judge.predict(train, train.ticks[origin : origin + 1]))
            ahead = enumerate(self.spec.horizon_ticks)
            found.append(np.stack([self._given(train, forecast, origin, h, ticks) for h, ticks in ahead], axis=1))
        return np.stack(found)

    def _given(self, train: Panel, forecast: Forecast, origin: int, horizon: int, ahead: int) -> Floats:
        """The probability of the truth, float32[station, target]."""
        if origin + ahead >= len(train):
            return np.full(forecast.known.shape[1:], np.nan, dtype=np.float32)
        channels = self.spec.channels
        truth = np.clip(train.counts[origin + ahead][:, channels], 0, forecast.k[0][:, None]).astype(np.int64)
        given = np.take_along_axis(forecast.pmf[0, :, horizon], truth[..., None], axis=-1)[..., 0]
        told = train.observed[origin + ahead][:, channels] & train.trusted[origin + ahead][:, None]
        here = train.observed[origin][:, channels] & train.open[origin][:, None] & forecast.known[0]
        return np.where(told & here, given, np.float32(np.nan))

    # -- forecasting -----------------------------------------------------------------------------------------

    @property
    def lookback(self) -> int:
        """See `Forecaster`."""
        return max(member.lookback for member in self.made)

    def weather_of(self, seen: Panel) -> WeatherSource:
        """See `Forecaster`: what the member that knows most of it knows."""
        known = {member.weather_of(seen) for member in self.made}
        return next(source for source in WeatherSource if source in known)

    def _predict(self, seen: Panel) -> Forecast:
        parts = [next(member.predict(seen, seen.ticks[-1:])) for member in self.made]
        k = np.maximum.reduce([part.k for part in parts])  # [origin, station]
        size = max(part.pmf.shape[-1] for part in parts)
        pmf = np.zeros((*parts[0].pmf.shape[1:-1], size), dtype=np.float32)
        total = np.zeros(pmf.shape[:-1], dtype=np.float32)
        for part, weight in zip(parts, self.weights, strict=True):
            share = weight[None] * part.known[0][:, None]  # [station, horizon, target]
            pmf[..., : part.pmf.shape[-1]] += share[..., None] * part.pmf[0]
            total += share
        # A member that does not know a station leaves its share to the others; climatology alone is no answer here.
        known = np.logical_or.reduce([part.known[0] for part in parts if part.model != "climatology"])
        pmf /= np.maximum(total, np.float32(1e-9))[..., None]
        return self.block(seen, pmf, k[0], known)

    # -- keeping ---------------------------------------------------------------------------------------------

    def _state(self, folder: Path) -> Arrays:
        for member in self.made:
            member.save(folder / member.name)
        names = [member.name for member in self.made]
        (folder / _MEMBERS).write_text(json.dumps(names), encoding="utf-8")
        return {"weights": self.weights}

    def _restore(self, arrays: Arrays, folder: Path) -> None:
        self.weights = arrays["weights"]
        # Those that it was saved with: a later program's champion may have others.
        try:
            names = json.loads((folder / _MEMBERS).read_text(encoding="utf-8"))
            self.made = [load_model(folder / name) for name in names]
        except (TypeError, ValueError) as error:
            raise OSError(f"{_MEMBERS} is no list of models") from error
        if len(self.made) != len(self.weights):
            raise OSError(f"{len(self.made)} members, {len(self.weights)} weights")


def _weights(told: Sequence[Floats], start: Floats) -> Floats:
    """Weights of the best log score, [member, horizon, target], from float32[member, station, horizon, target] each."""
    given = np.concatenate(told, axis=1)  # [member, row, horizon, target]
    known = ~np.isnan(given).any(axis=0)  # [row, horizon, target]
    given = np.where(known, np.maximum(np.nan_to_num(given), 1e-6), 1.0).astype(np.float64)
    weights = start.astype(np.float64)
    for _ in range(_ROUNDS):
        share = weights[:, None] * given
        share /= share.sum(axis=0, keepdims=True)
        counted = (share * known).sum(axis=1) + _PRIOR_ROWS * start
        weights = counted / counted.sum(axis=0, keepdims=True)
    return weights.astype(np.float32)
