"""The weather as it was known at any time: forecasts as they were issued, none of them before its time.

Hours are whole hours UTC. A forecast says for each of them how warm, windy and cloudy it is then, and how much rain and
snow falls (and how strong gusts blow) in the hour before: as Open-Meteo does (its API documentation, hourly variables).
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.datetime64]
VARIABLES = (
    "temperature_c", "apparent_c", "precipitation_mm", "rain_mm", "snowfall_cm", "wind_kmh", "gusts_kmh",
    "cloud_percent",
)  # fmt: skip
OF_THE_HOUR_BEFORE = ("precipitation_mm", "rain_mm", "snowfall_cm", "gusts_kmh")
HOURS = 50
"""Of a forecast that are kept, from the hour in which it was issued on: a day ahead, of one that is a day old."""
OLDEST = timedelta(hours=24)
"""A forecast older than this at an origin says nothing there."""
FRESH = timedelta(hours=3)
_HOUR_US = 3_600_000_000
_LATER = np.array([name in OF_THE_HOUR_BEFORE for name in VARIABLES], dtype=np.int64)  # columns further right


class WeatherSource(StrEnum):
    """What a forecast of bikes knew of the weather: the best one of these that was there."""

    FORECAST = "forecast"
    CACHE = "cache"
    CLIMATOLOGY = "climatology"
    NONE = "none"


@dataclass(frozen=True, eq=False)
class KnownWeather:
    """Forecasts of a system's weather.

    Attributes:
        issued: when each was known here, UTC, ascending, datetime64[us][issue].
        values: float32[issue, hour, variable] in the order of `VARIABLES`, NaN where not known; hour 0 is the whole
            hour at or before `issued`.
    """

    issued: Times
    values: Floats

    @classmethod
    def none(cls) -> Self:
        """No forecast at all."""
        return cls(np.zeros(0, dtype="datetime64[us]"), np.zeros((0, HOURS, len(VARIABLES)), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.issued)

    def same(self, other: "KnownWeather") -> bool:
        """Whether both say the same, bit for bit."""
        return np.array_equal(self.issued, other.issued) and np.array_equal(self.values, other.values, equal_nan=True)

    def until(self, ticks: Times) -> "KnownWeather":
        """What was known at the last of these ticks, as views of this one's arrays."""
        last = int(np.searchsorted(self.issued, ticks[-1].astype("datetime64[us]"), side="right")) if len(ticks) else 0
        return self if last == len(self) else KnownWeather(self.issued[:last], self.values[:last])

    def issue_at(self, origin: Times) -> npt.NDArray[np.int64]:
        """The newest forecast at each origin, int64[row]; -1 where that is too old, or there is none."""
        micros = origin.astype("datetime64[us]")
        issue = np.searchsorted(self.issued, micros, side="right").astype(np.int64) - 1
        if not len(self):
            return issue
        return np.where(micros - self.issued[issue] <= np.timedelta64(OLDEST), issue, -1)

    def at(self, origin: Times, target: Times) -> Floats:
        """What was forecast at each origin for each target, float32[row, variable]; NaN where nothing was.

        Of rain, snow and gusts, those of the hour in which the target lies.
        """
        issue, since = self.issue_at(origin), self._hours_since(origin, target)
        hour = np.floor(since).astype(np.int64)[:, None] + _LATER  # [row, variable]
        there = (issue >= 0)[:, None] & (hour >= 0) & (hour < HOURS)
        found = np.full(hour.shape, np.nan, dtype=np.float32)
        row, variable = np.nonzero(there)
        found[row, variable] = self.values[issue[row], hour[row, variable], variable]
        return found

    def mean_between(self, origin: Times, target: Times, name: str) -> Floats:
        """The mean of a variable of the hour before, as forecast at each origin, from then to the target, float32[row].

        Parts of hours count as such; hours that the forecast does not know do not count; NaN where it knows none.
        """
        variable = VARIABLES.index(name)
        issue = self.issue_at(origin)
        issues, which = np.unique(issue, return_inverse=True)
        if not len(self) or issues[-1] < 0:
            return np.full(len(issue), np.nan, dtype=np.float32)
        hourly = self.values[issues, 1:, variable].astype(np.float64)  # [issue, hour that begins]
        hourly[issues < 0] = np.nan
        known = ~np.isnan(hourly)
        ends = [self._hours_since(when, when, issue) for when in (origin, target)]
        with np.errstate(invalid="ignore"):
            mass, length = (
                _integral(part, which, ends[1]) - _integral(part, which, ends[0])
                for part in (np.where(known, hourly, 0.0), known.astype(np.float64))
            )
            inside = (length > 1e-9) & (ends[1] <= hourly.shape[1])
            return np.where(inside, mass / np.maximum(length, 1e-9), np.nan).astype(np.float32)

    def _hours_since(
        self, origin: Times, target: Times, issue: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float64]:
        """Hours from each forecast's first hour to the target, float64[row]; of no meaning where there is none."""
        issue = self.issue_at(origin) if issue is None else issue
        if not len(self):
            return np.full(len(issue), -1.0)
        begun = self.issued[issue].astype(np.int64) // _HOUR_US * _HOUR_US
        found: npt.NDArray[np.float64] = (target.astype("datetime64[us]").astype(np.int64) - begun) / _HOUR_US
        return found


def _integral(
    hourly: npt.NDArray[np.float64], row: npt.NDArray[np.int64], hours: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The integral of what is constant within each hour, from the first to `hours` after it, float64[row]."""
    summed = np.pad(np.cumsum(hourly, axis=1), ((0, 0), (1, 0)))  # [issue, whole hours]
    hours = np.clip(hours, 0.0, hourly.shape[1])
    whole = np.minimum(hours.astype(np.int64), hourly.shape[1] - 1)
    found: npt.NDArray[np.float64] = summed[row, whole] + (hours - whole) * hourly[row, whole]
    return found
