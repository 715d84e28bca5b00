"""A synthetic city: its stations, the true rates of demand, and its climate, all made from one seed."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from velib_predictor.simulation.demand import Demand
from velib_predictor.simulation.layout import Doubles, Stations, lay_out
from velib_predictor.simulation.weather import Climate
from velib_predictor.utils.errors import UsageError

SYSTEM_ID = "city"


@dataclass(frozen=True)
class CityConfig:
    """What a city is made from.

    Attributes:
        stations: how many.
        seed: everything random follows from it.
        riders_a_station: who want a bike on a dry mild workday, a station and day.
        capacity_median: docks of a station.
        fill: working and broken bikes, a dock.
        ebikes: share of the bikes that are electric.
        stations_a_truck: how many stations one truck looks after.
        timezone: IANA zone. country: ISO code, for public holidays.

    Raises:
        UsageError: a value makes no city.
    """

    stations: int = 400
    seed: int = 1
    riders_a_station: float = 84.0
    capacity_median: float = 29.0
    fill: float = 0.40
    ebikes: float = 0.42
    stations_a_truck: int = 65
    timezone: str = "Europe/Paris"
    country: str = "FR"

    def __post_init__(self) -> None:
        if not 2 <= self.stations <= 5_000:
            raise UsageError(f"a city has 2 to 5000 stations, not {self.stations}")
        if not (0 < self.fill < 0.9 and 0 <= self.ebikes <= 1 and self.riders_a_station >= 0):
            raise UsageError("fill must lie in 0..0.9, ebikes in 0..1, and riders_a_station must not be negative")


@dataclass(frozen=True, eq=False)
class City:
    """A city that does not change: what moves in it is `simulation.engine.State`.

    Attributes:
        target: working bikes that the trucks want at a station at night, float64[station].
    """

    config: CityConfig
    stations: Stations
    demand: Demand
    climate: Climate
    target: Doubles

    @classmethod
    def make(cls, config: CityConfig | None = None) -> Self:
        """Make a city; the same configuration makes the same city."""
        config = config or CityConfig()
        stations = lay_out(config.stations, config.seed, config.capacity_median)
        climate = Climate.make(config.seed)
        demand = Demand.make(
            stations,
            climate,
            riders_a_day=config.riders_a_station * config.stations,
            timezone=config.timezone,
            country=config.country,
        )
        # In the morning people leave home: bikes are wanted there, and docks at the offices.
        wish = stations.capacity * (0.25 + 0.45 * stations.land[:, 0] - 0.15 * stations.land[:, 1])
        target = wish * (config.fill * stations.capacity.sum() / wish.sum())
        return cls(config, stations, demand, climate, np.minimum(target, 0.8 * stations.capacity))

    def __len__(self) -> int:
        return len(self.stations)

    @property
    def fleet(self) -> int:
        """All bikes: at stations, broken, ridden, and on trucks."""
        return int(self.config.fill * self.stations.capacity.sum())
