"""Where the stations of a synthetic city are, and what lies around them: a Paris-like layout made from a seed."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from velib_predictor.utils.spatial import distance_m, nearest

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

USES = ("home", "office", "leisure", "park")
"""What land is used for, the axis `use`."""
NEAR = 8
_CENTRE = (48.8566, 2.3460)
_RADII_KM = (4.6, 6.0)  # north-south, east-west; as of Paris inside its ring road
_KM = (1 / 111.2, 1 / 73.2)  # degrees a kilometre, at this latitude
_CANDIDATES = 24


class Spot(NamedTuple):
    """A quarter where one use is dense: kilometres north and east of the centre, and its radius."""

    north: float
    east: float
    radius: float


_SPOTS: dict[str, tuple[Spot, ...]] = {
    "office": (Spot(1.6, -1.6, 1.3), Spot(1.9, -4.9, 1.2), Spot(-1.9, 2.6, 0.9), Spot(-2.2, -4.0, 0.9)),
    "leisure": (Spot(0.3, 0.9, 1.1), Spot(2.6, -0.6, 0.8), Spot(-0.6, -0.9, 0.9), Spot(0.9, 2.4, 0.8)),
    "park": (Spot(-1.7, 5.2, 1.0), Spot(0.9, -5.4, 1.0), Spot(3.6, 3.2, 0.7), Spot(-3.6, -0.6, 0.7)),
    "hill": (Spot(3.3, -0.4, 0.9), Spot(1.8, 3.4, 1.2), Spot(-1.2, 0.2, 0.8)),
}
_HILL_M = 60.0
_STREETS = (
    "Aubépine",
    "Bateliers",
    "Carillon",
    "Deux Ponts",
    "Écluse",
    "Fontaine",
    "Glacière",
    "Horloge",
    "Imprimerie",
    "Jardiniers",
    "Lavandières",
    "Moulin",
    "Noyers",
    "Orfèvres",
    "Passerelle",
    "Quatre Vents",
    "Remparts",
    "Saules",
    "Tanneurs",
    "Vignes",
)


@dataclass(frozen=True, eq=False)
class Stations:
    """The stations of a city.

    Attributes:
        id: as Vélib' numbers them, beyond 32 bits for some, int64[station].
        code: the number on the kiosk, text of 4 or 5 digits.
        name: not a key: some are twice there.
        lat, lon: degrees, float64[station].
        altitude_m: float64[station].
        capacity: docks, int32[station].
        land: share of each use around a station, float64[station, use], sums to 1.
        activity: how busy its surroundings are, mean 1, float64[station].
        near: the stations to try one after the other, itself first, int32[station, try].
        distance_m: float64[station, station].
    """

    id: npt.NDArray[np.int64]
    code: tuple[str, ...]
    name: tuple[str, ...]
    lat: Doubles
    lon: Doubles
    altitude_m: Doubles
    capacity: Ints
    land: Doubles
    activity: Doubles
    near: Ints
    distance_m: Doubles

    def __len__(self) -> int:
        return len(self.id)


def lay_out(count: int, seed: int, capacity_median: float) -> Stations:
    """Place `count` stations in an ellipse, about evenly, and give each its surroundings and size."""
    random = np.random.default_rng([seed, 0])
    north, east = _positions(count, random)
    lat, lon = _CENTRE[0] + north * _KM[0], _CENTRE[1] + east * _KM[1]
    land = _land(north, east, random)
    central = np.exp(-((north / 4.0) ** 2 + (east / 5.0) ** 2))
    activity = random.lognormal(0.0, 0.45, count) * (0.5 + central)
    activity /= activity.mean()
    size = capacity_median * activity**0.35 * random.lognormal(0.0, 0.28, count)
    distance = distance_m(lat[:, None], lon[:, None], lat[None, :], lon[None, :])
    tries = min(NEAR, count - 1)
    near = np.concatenate([np.arange(count)[:, None], nearest(lat, lon, tries)], axis=1)
    return Stations(
        id=_ids(count, random),
        code=_codes(north, east),
        name=_names(count, random),
        lat=lat,
        lon=lon,
        altitude_m=30.0 + _HILL_M * _bumps("hill", north, east),
        capacity=np.clip(np.rint(size), 12, 72).astype(np.int32),
        land=land,
        activity=activity,
        near=near.astype(np.int32),
        distance_m=distance,
    )


def _positions(count: int, random: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Kilometres north and east: of some candidates the one farthest from all before (Mitchell 1991)."""
    chosen = np.empty((count, 2))
    for index in range(count):
        angle, radius = random.uniform(0, 2 * np.pi, _CANDIDATES), np.sqrt(random.random(_CANDIDATES))
        offers = np.stack([np.sin(angle) * radius * _RADII_KM[0], np.cos(angle) * radius * _RADII_KM[1]], axis=1)
        gaps = np.linalg.norm(offers[:, None] - chosen[None, :index], axis=2)  # [candidate, station]
        chosen[index] = offers[gaps.min(axis=1).argmax()] if index else offers[0]
    return chosen[:, 0], chosen[:, 1]


def _bumps(use: str, north: Doubles, east: Doubles) -> Doubles:
    """How dense a use is at each place, about 0 to 1, float64[station]."""
    total = np.zeros_like(north)
    for spot in _SPOTS[use]:
        total += np.exp(-((north - spot.north) ** 2 + (east - spot.east) ** 2) / (2 * spot.radius**2))
    return total


def _land(north: Doubles, east: Doubles, random: np.random.Generator) -> Doubles:
    noise = random.lognormal(0.0, 0.35, (len(north), len(USES)))
    edge = np.hypot(north / _RADII_KM[0], east / _RADII_KM[1])  # 0 at the centre, 1 at the ring road
    land = np.stack(
        [
            0.45 + 0.55 * edge,
            0.10 + 1.3 * _bumps("office", north, east),
            0.10 + 1.0 * _bumps("leisure", north, east),
            0.02 + 0.9 * _bumps("park", north, east),
        ],
        axis=1,
    )
    land *= noise
    shares: Doubles = land / land.sum(axis=1, keepdims=True)
    return shares


def _ids(count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Like Vélib's: many small, some beyond 32 bits."""
    ids = random.choice(900_000_000, count, replace=False).astype(np.int64) + 10_000
    ids[::7] += 20_000_000_000
    return ids


def _codes(north: Doubles, east: Doubles) -> tuple[str, ...]:
    """District (1 to 20, by direction and distance) and a running number: 4 or 5 digits without a leading zero."""
    sector = ((np.arctan2(north, east) / (2 * np.pi) + 1.0) % 1.0 * 10).astype(int)
    outer = np.hypot(north / _RADII_KM[0], east / _RADII_KM[1]) > np.sqrt(0.5)
    seen: dict[int, int] = {}
    codes = []
    for district in (1 + sector + 10 * outer).tolist():
        seen[district] = seen.get(district, 0) + 1
        codes.append(f"{district}{seen[district]:03d}")
    return tuple(codes)


def _names(count: int, random: np.random.Generator) -> tuple[str, ...]:
    first, second = random.integers(0, len(_STREETS), (2, count))
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return tuple(f"{_STREETS[a]} - {_STREETS[b]}" if a != b else f"Place {_STREETS[a]}" for a, b in pairs)
