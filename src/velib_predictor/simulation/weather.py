"""The city's weather, and what a forecast said of it at any moment: functions of the hour, made from a seed.

Each is a sum of waves with random phases (a Gaussian process by its spectrum: Shinozuka and Deodatis 1991), so any
hour can be had without the hours before it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Hours = npt.NDArray[np.int64]

_WAVES = 48
_DAY_H, _YEAR_H = 24.0, 8_766.0
_WET = 1.05  # how high the process must be for rain: about 15 % of hours
_RAIN_MM = 1.6
ISSUED_EVERY_H = 3
_SKILL_H = 130.0  # a forecast's correlation with the weather falls by e within this lead


class Weather(NamedTuple):
    """Hour by hour, each float64[hour]."""

    temperature_c: Doubles
    rain_mm: Doubles
    wind_kmh: Doubles
    cloud_percent: Doubles


@dataclass(frozen=True, eq=False)
class Climate:
    """Waves of the weather and of the forecasts' errors: frequency, phase, drift, float64[process, wave]."""

    frequency: Doubles
    phase: Doubles
    drift: Doubles

    @classmethod
    def make(cls, seed: int) -> "Climate":
        """A climate from a seed."""
        random = np.random.default_rng([seed, 10])
        shape = (6, _WAVES)  # processes: wet, warm, wind; then the error of each
        shortest, longest = np.array([[9.0, 140.0], [40.0, 400.0], [12.0, 150.0]] * 2).T  # hours
        periods = np.exp(random.uniform(np.log(shortest)[:, None], np.log(longest)[:, None], shape))
        # An error moves on with the hour of issue, too: the next forecast is another one, but not quite.
        return cls(2 * np.pi / periods, random.uniform(0, 2 * np.pi, shape), random.uniform(-0.12, 0.12, shape))

    def actual(self, hours: Hours) -> Weather:
        """The weather that comes, by hours since 1970-01-01 UTC."""
        return self._weather(hours, np.zeros(len(hours)), np.ones(len(hours)))

    def forecast(self, hours: Hours, issued_at: int | Hours) -> Weather:
        """The weather as it was forecast at the hour `issued_at` (or int64[hour], one for each).

        Hours up to then are as they were. The error grows, at first as the square root of the lead; a forecast is as
        often wet or warm as the weather. A new one is issued every three hours.
        """
        now = np.broadcast_to(issued_at, hours.shape)
        issue = now - now % ISSUED_EVERY_H
        lead = (hours - issue) * (hours > now)
        return self._weather(hours, issue.astype(np.float64), np.exp(-lead / _SKILL_H))

    def _weather(self, hours: Hours, issue: Doubles, skill: Doubles) -> Weather:
        hour = hours.astype(np.float64)
        wet, warm, wind = (self._process(i, hour) for i in range(3))
        if (skill < 1).any():
            noise, wrong = np.sqrt(1 - skill**2), (self._process(i, hour, issue) for i in range(3, 6))
            wet, warm, wind = (skill * p + noise * w for p, w in zip((wet, warm, wind), wrong, strict=True))
        rain = _RAIN_MM * np.maximum(wet - _WET, 0) ** 1.5
        season = np.cos(2 * np.pi * (hour / _YEAR_H - 0.55))  # warmest in mid-July
        daily = np.cos(2 * np.pi * (hour - 14.0) / _DAY_H)
        temperature = 12.5 + 8.0 * season + (2.0 + 1.5 * season) * daily + 3.0 * warm - 1.5 * (rain > 0)
        cloud = 100 / (1 + np.exp(-1.8 * (wet + 0.2)))
        return Weather(temperature, np.round(rain, 2), 12.0 * np.exp(0.45 * wind), cloud)

    def _process(self, which: int, hour: Doubles, issue: Doubles | float = 0.0) -> Doubles:
        """A process of mean 0 and variance 1, float64[hour]."""
        angle = np.outer(hour, self.frequency[which]) + self.phase[which]  # [hour, wave]
        if isinstance(issue, np.ndarray):
            angle += np.outer(issue, self.drift[which])
        waves: Doubles = np.cos(angle).sum(axis=1) * np.sqrt(2 / _WAVES)
        return waves
