"""Where stations lie to each other and to their city, in words that any city understands."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.panel import Stations
from velib_predictor.utils.spatial import distance_m

Floats = npt.NDArray[np.float32]
REACHES_M = (300.0, 1_000.0)
"""Near and wide: a neighbour's weight falls by e within so many metres. Weights, and no count of nearest ones: among
equally distant stations nobody is chosen by its place in a table."""
_LEAST_RADIUS_M = 200.0


@dataclass(frozen=True, eq=False)
class Places:
    """A city's geometry; all of it NaN or 0 for a station whose position is not known.

    Attributes:
        stations: whose it is.
        weights: of each station's neighbours, float32[reach, station, station]; 0 for itself.
        place: logarithms of kilometres from the city's middle and of the neighbours within the wide reach, and the
            distance from the middle by the city's median one, float32[attribute, station].
    """

    stations: Stations
    weights: Floats
    place: Floats

    @classmethod
    def of(cls, stations: Stations) -> Self:
        """Of stations, wherever on the globe; the middle is where the median ones lie."""
        lat, lon = stations.lat, stations.lon
        known = ~(np.isnan(lat) | np.isnan(lon))
        place = np.full((3, len(stations)), np.nan, dtype=np.float32)
        weights = np.zeros((len(REACHES_M), len(stations), len(stations)), dtype=np.float32)
        if known.any():
            apart = distance_m(lat[:, None], lon[:, None], lat[None], lon[None]).astype(np.float32)
            np.fill_diagonal(apart, np.inf)
            apart[np.isnan(apart)] = np.inf
            weights = np.stack([np.exp(-apart / np.float32(reach)) for reach in REACHES_M])
            middle = (np.full_like(lat, np.median(lat[known])), np.full_like(lon, np.median(lon[known])))
            away = distance_m(lat, lon, *middle)
            radius = max(float(np.median(away[known])), _LEAST_RADIUS_M)
            near = np.where(known, weights[1].sum(axis=1), np.nan)
            place = np.stack([np.log1p(away / 1000), np.log1p(near), away / radius]).astype(np.float32)
        return cls(stations, weights, place)

    def describes(self, stations: Stations) -> bool:
        """Whether it is that of these stations."""
        mine = self.stations
        return mine is stations or (
            mine.id == stations.id
            and np.array_equal(mine.lat, stations.lat, equal_nan=True)
            and np.array_equal(mine.lon, stations.lon, equal_nan=True)
        )

    def around(self, values: Floats) -> list[Floats]:
        """Weighted means of the neighbours' values, float32[tick, station], near and wide; NaN where there are none."""
        known = ~np.isnan(values)
        filled, there = np.where(known, values, np.float32(0)), known.astype(np.float32)
        found = []
        for weights in self.weights:
            weight = there @ weights  # symmetric: [tick, station]
            total = filled @ weights
            found.append(np.where(weight > 1e-4, total / np.maximum(weight, np.float32(1e-4)), np.float32(np.nan)))
        return found
