"""Features of what lies outside of the stations: the weather as it was forecast at the origin, and special days.

A group of them is there only if the training had something to learn it from. A share of the origins of training has no
weather, drawn once for all models here, so that a model is at home where there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import local_time
from velib_predictor.data.known_weather import FRESH, VARIABLES, Floats, KnownWeather, Times, WeatherSource
from velib_predictor.data.panel import Panel

Mask = npt.NDArray[np.bool_]
TOLD = ("temperature_c", "precipitation_mm", "wind_kmh")
"""Variables that features are made of."""
WEATHER = (*TOLD, *(f"{name}_at_target" for name in TOLD), "precipitation_mm_until_target")
SCHOOL = ("school_holiday_at_target",)
EVENT = ("event_at_target",)
LEAST_WEATHER_DAYS = 14
"""Days with forecasts of the weather without which nothing is learned of it: a few days' weather is their name."""
LEAST_SPECIAL_DAYS = 3
"""School days, and days of holidays, that training must have seen to tell them apart; of days of events, one."""
DROPPED = 0.15
"""Share of the origins of training that are shown no weather."""
_LEAST_SEEN = 3
_PLACES = [VARIABLES.index(name) for name in TOLD]
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, eq=False)
class Outside:
    """What of the outside is told, learned from a panel of training.

    Attributes:
        weather, school, event: the groups that are.
        usual: medians of the weather that came, float32[month, hour, variable of `TOLD`], UTC; NaN where not known.
    """

    weather: bool
    school: bool
    event: bool
    usual: Floats

    @classmethod
    def nothing(cls) -> Self:
        """None of it."""
        return cls(False, False, False, np.full((12, 24, len(TOLD)), np.nan, dtype=np.float32))

    @classmethod
    def fit(cls, train: Panel) -> Self:
        """The groups that these ticks say enough of, and the usual weather."""
        day = local_time(train.ticks, train.timezone).day
        with_weather = np.unique(day[train.weather.issue_at(train.ticks) >= 0])
        days = np.unique(day)
        school, event = train.special_days.school(days), train.special_days.event(days)
        return cls(
            weather=len(with_weather) >= LEAST_WEATHER_DAYS,
            school=min(int((school == kind).sum()) for kind in (0, 1)) >= LEAST_SPECIAL_DAYS,
            event=bool((event == 1).any() and (event == 0).any()),
            usual=_usual(train.weather),
        )

    @property
    def names(self) -> list[str]:
        """The columns."""
        groups = ((self.weather, WEATHER), (self.school, SCHOOL), (self.event, EVENT))
        return [name for told, names in groups if told for name in names]

    def source(self, seen: Panel) -> WeatherSource:
        """What of the weather a forecast from the panel's last tick knows."""
        if not self.weather:
            return WeatherSource.NONE
        last = seen.ticks[-1:].astype("datetime64[us]")
        issue = int(seen.weather.issue_at(last)[0])
        if issue >= 0:
            young = last[0] - seen.weather.issued[issue] <= np.timedelta64(FRESH)
            return WeatherSource.FORECAST if young else WeatherSource.CACHE
        return WeatherSource.NONE if np.isnan(self._usual_at(last)).all() else WeatherSource.CLIMATOLOGY

    def rows(self, seen: Panel, origin: Times, target: Times, dropped: Mask | None = None) -> Floats:
        """Features, float32[row, feature], of pairs of an origin (tick of the panel) and a target.

        Args:
            dropped: rows of training that are shown no weather, [row]; None in forecasts: what is usual stands in where
                nothing was forecast.
        """
        pairs, which = np.unique(np.stack([origin, target]), axis=1, return_inverse=True)  # the same at all stations
        parts = [np.zeros((pairs.shape[1], 0), dtype=np.float32)]
        if self.weather:
            parts.append(self._weather(seen.weather, *pairs, usual=dropped is None))
        if self.school or self.event:
            day = local_time(pairs[1], seen.timezone).day
            parts += [seen.special_days.school(day)[:, None]] if self.school else []
            parts += [seen.special_days.event(day)[:, None]] if self.event else []
        found = np.concatenate(parts, axis=1)[which.reshape(-1)]
        if self.weather and dropped is not None:
            found[dropped, : len(WEATHER)] = np.nan
        return found

    def _weather(self, weather: KnownWeather, origin: Times, target: Times, *, usual: bool) -> Floats:
        now, then = (weather.at(origin, when)[:, _PLACES] for when in (origin, target))
        until = weather.mean_between(origin, target, "precipitation_mm")[:, None]
        found = np.concatenate([now, then, until], axis=1)
        missing = weather.issue_at(origin) < 0
        if usual and missing.any():
            ends = [self._usual_at(when[missing]) for when in (origin, target)]
            wet = np.mean([end[:, TOLD.index("precipitation_mm")] for end in ends], axis=0)
            found[missing] = np.concatenate([*ends, wet[:, None]], axis=1)
        return found

    def _usual_at(self, when: Times) -> Floats:
        """The usual weather of these times, float32[row, variable]."""
        month = when.astype("datetime64[M]").astype(np.int64) % 12
        hour = when.astype("datetime64[h]").astype(np.int64) % 24
        return self.usual[month, hour]

    # -- keeping ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What was learned, as arrays by name."""
        return {"outside": np.array([self.weather, self.school, self.event]), "usual_weather": self.usual}

    @classmethod
    def restored(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """What `state` says; nothing, in one that was kept before there was weather."""
        if "outside" not in state:
            return cls.nothing()
        weather, school, event = (bool(told) for told in state["outside"])
        return cls(weather, school, event, state["usual_weather"])


def drawn(ticks: int) -> Mask:
    """Which origins of a training of so many ticks are shown no weather, bool[tick]: the same for all models."""
    return np.random.default_rng(20).random(ticks) < DROPPED


def _usual(weather: KnownWeather) -> Floats:
    """Medians of the weather of the hour in which each forecast was issued, by month and hour."""
    usual = Outside.nothing().usual
    begun = weather.issued.astype("datetime64[h]")
    _, newest = np.unique(begun[::-1], return_index=True)  # one an hour
    newest = len(begun) - 1 - newest
    here = begun[newest].astype("datetime64[us]")
    values = weather.at(weather.issued[newest], here)[:, _PLACES]
    month, hour = here.astype("datetime64[M]").astype(np.int64) % 12, here.astype("datetime64[h]").astype(np.int64) % 24
    for cell in np.unique(month * 24 + hour):
        of_cell = values[month * 24 + hour == cell]
        if (~np.isnan(of_cell)).all(axis=1).sum() >= _LEAST_SEEN:
            usual[cell // 24, cell % 24] = np.nanmedian(of_cell, axis=0)
    return usual
