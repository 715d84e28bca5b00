"""Who wants to ride: the true rates of a synthetic city, by purpose, place, time of day, kind of day and weather.

Rates are kept as tables of equally likely choices (origins of a purpose, destinations of an origin): what is drawn
from and what is known are the same numbers, and a draw is one look-up.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from velib_predictor.simulation.layout import USES, Stations
from velib_predictor.simulation.profiles import PURPOSES, profiles
from velib_predictor.simulation.weather import Climate

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Random = np.random.Generator

MINUTE, TO, KIND, BREAKS, TRIES, FROM, RIDE, FLEXIBLE, WALKS = range(9)
"""Fields of a rider: minute of wish, cell to, kind preferred, whether the bike breaks, tries; cell from, minutes of
riding, whether another kind will do, and another station. Of a ride the first five remain; its minute is arrival."""
FIELDS, RIDE_FIELDS = 9, 5
ORIGINS, DESTINATIONS = 16_384, 512  # how many equally likely choices a table has

_REACH_M = 1_900.0  # the willingness to ride falls with distance by e within this
_TOO_NEAR_M = 500.0
_CLIMB_M = 140.0
_RIDE_M_MIN = 165.0  # as the crow flies
_HANDLING_MIN = 2.0
_ELECTRIC, _FLEXIBLE, _WALKS, _BREAKS = 0.5, 0.85, 0.6, 0.004
_LEAST = 0.04  # some ride in any weather
WORKDAY, SATURDAY, SUNDAY = range(3)
"""Kinds of day; a public holiday is a Sunday."""


@dataclass(frozen=True, eq=False)
class Demand:
    """The true rates.

    Attributes:
        origin: int32[purpose, choice], stations. destination: int32[purpose, station, choice], stations.
        ride_min: usual minutes of riding, float32[station, station].
        profile: riders a minute in the network in dry mild weather, float64[day kind, purpose, local minute].
        exposed: how much rain and cold take away, float64[purpose].
    """

    origin: Ints
    destination: Ints
    ride_min: npt.NDArray[np.float32]
    profile: Doubles
    exposed: Doubles
    climate: Climate
    timezone: str
    country: str

    @classmethod
    def make(
        cls, stations: Stations, climate: Climate, *, riders_a_day: float, timezone: str, country: str
    ) -> "Demand":
        """The rates of a city in which on a dry mild workday `riders_a_day` want to ride."""
        weight = stations.activity[:, None] * stations.land  # [station, use]
        weight = np.concatenate([weight, weight.sum(axis=1, keepdims=True)], axis=1)  # and "any" use
        uses = [*USES, "any"]
        near = stations.distance_m < _TOO_NEAR_M
        climb = np.maximum(stations.altitude_m[None, :] - stations.altitude_m[:, None], 0)
        pull = np.exp(-stations.distance_m / _REACH_M - climb / _CLIMB_M) * np.where(near, 0.15, 1.0)
        np.fill_diagonal(pull, 0.0)  # [from, to]
        origin = [_choices(weight[None, :, uses.index(p.start)], ORIGINS)[0] for p in PURPOSES]
        destination = [_choices(pull * weight[None, :, uses.index(p.end)], DESTINATIONS) for p in PURPOSES]
        shape = profiles()  # [day kind, purpose, minute]
        return cls(
            origin=np.stack(origin),
            destination=np.stack(destination),
            ride_min=(_HANDLING_MIN + stations.distance_m / _RIDE_M_MIN).astype(np.float32),
            profile=shape * (riders_a_day / shape[WORKDAY].sum()),
            exposed=np.array([p.exposed for p in PURPOSES]),
            climate=climate,
            timezone=timezone,
            country=country,
        )

    def rates(self, first: int, last: int) -> Doubles:
        """Riders a minute in the network, float64[minute, purpose], from the minute `first` to before `last`."""
        minutes = np.arange(first, last)
        kind, local = self.local(minutes)
        hours = np.arange(first // 60, (last - 1) // 60 + 1)
        factor = self.weather_factor(hours)[minutes // 60 - hours[0]]
        rates: Doubles = self.profile[kind, :, local] * factor
        return rates

    def local(self, minutes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Kind of day and minute of the local day, both int64[minute], of minutes since 1970-01-01 UTC."""
        hours, which = np.unique(minutes // 60, return_inverse=True)
        offsets = np.array([_offset_min(int(hour), self.timezone) for hour in hours], dtype=np.int64)
        local = minutes + offsets[which]
        days, which_day = np.unique(local // 1440, return_inverse=True)
        kinds = np.array([_day_kind(int(day), self.country) for day in days], dtype=np.int64)
        return kinds[which_day], local % 1440

    def weather_factor(self, hours: npt.NDArray[np.int64]) -> Doubles:
        """What the weather leaves of each purpose's riders, float64[hour, purpose]."""
        weather = self.climate.actual(hours)
        rain = 1 - np.exp(-weather.rain_mm / 0.6)
        cold = np.clip((10.0 - weather.temperature_c) / 20.0, 0, 0.6)
        left = (1 - np.outer(rain, 0.6 * self.exposed)) * (1 - np.outer(cold, 0.6 * self.exposed))
        return np.maximum(left, _LEAST)

    def riders(self, first: int, last: int, draws: int, random: Random) -> tuple[Ints, npt.NDArray[np.int64]]:
        """Draw who wants to ride from minute `first` to before `last`, independently in `draws` copies of the city.

        Returns:
            int32[field, rider] by minute, cells numbered draw * stations + station; and where each minute begins,
            int64[minute + 1].
        """
        rates = self.rates(first, last)
        minutes, purposes = rates.shape
        counts = random.poisson(np.broadcast_to(rates[:, :, None], (minutes, purposes, draws)))
        which = np.repeat(np.arange(counts.size), counts.reshape(-1))  # of [minute, purpose, draw]
        purpose, draw = which // draws % purposes, which % draws
        chance = random.random((7, len(which)), dtype=np.float32)
        start = self.origin[purpose, (chance[0] * ORIGINS).astype(np.int32)]
        end = self.destination[purpose, start, (chance[1] * DESTINATIONS).astype(np.int32)]
        riders = np.zeros((FIELDS, len(which)), dtype=np.int32)
        offset = draw * self.ride_min.shape[0]
        riders[MINUTE] = first + which // (purposes * draws)
        riders[FROM], riders[TO] = offset + start, offset + end
        riders[RIDE] = self.ride_min[start, end] * (0.75 + 0.75 * chance[2])
        for field, trait, share in zip(
            (KIND, FLEXIBLE, WALKS, BREAKS), chance[3:], (_ELECTRIC, _FLEXIBLE, _WALKS, _BREAKS), strict=True
        ):
            riders[field] = trait < share
        starts = np.concatenate([[0], np.cumsum(counts.sum(axis=(1, 2)))])
        return riders, starts


def _choices(weights: Doubles, choices: int) -> Ints:
    """Tables of stations that are about as frequent as their weights, int32[row, choice], of float64[row, station]."""
    edges = np.cumsum(weights, axis=1)
    edges /= edges[:, -1:]
    wanted = (np.arange(choices) + 0.5) / choices
    return np.stack([np.searchsorted(row, wanted) for row in edges]).astype(np.int32)


@cache
def _offset_min(hour: int, timezone: str) -> int:
    offset = datetime.fromtimestamp(hour * 3600, UTC).astimezone(ZoneInfo(timezone)).utcoffset() or timedelta(0)
    return offset // timedelta(minutes=1)


@cache
def _day_kind(day: int, country: str) -> int:
    when = date(1970, 1, 1) + timedelta(days=day)
    if when.weekday() == 6 or when in _holidays(country, when.year):
        return SUNDAY
    return SATURDAY if when.weekday() == 5 else WORKDAY


@cache
def _holidays(country: str, year: int) -> frozenset[date]:
    import holidays

    return frozenset(holidays.country_holidays(country, years=year))
