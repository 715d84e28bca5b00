"""Distances against the law of cosines in high precision and known ones; neighbours against a slow search."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velib_predictor.utils.spatial import EARTH_M, distance_m, nearest

Place = tuple[float, float]


def metres(one: Place, other: Place) -> float:
    return float(distance_m(*(np.array([value]) for value in (*one, *other)))[0])


def slow_distance_m(one: Place, other: Place) -> float:
    """The chord between two points of the sphere, in vectors: another formula than the haversine."""
    ends = []
    for lat, lon in (one, other):
        phi, lam = math.radians(lat), math.radians(lon)
        ends.append((math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)))
    cross = (
        ends[0][1] * ends[1][2] - ends[0][2] * ends[1][1],
        ends[0][2] * ends[1][0] - ends[0][0] * ends[1][2],
        ends[0][0] * ends[1][1] - ends[0][1] * ends[1][0],
    )
    dot = sum(a * b for a, b in zip(*ends, strict=True))
    return EARTH_M * math.atan2(math.hypot(*cross), dot)


PLACES = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(PLACES, PLACES)
def test_distance_is_the_slow_formula(one: Place, other: Place) -> None:
    found = metres(one, other)
    expected = slow_distance_m(one, other)
    # The haversine loses digits next to the antipode, where half a metre is a digit of its sine.
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-3 if expected < 20_000_000 else 1.0)
    assert found == pytest.approx(metres(other, one), abs=1e-6)
    assert 0 <= found <= math.pi * EARTH_M


@pytest.mark.parametrize(
    ("one", "other", "expected", "within"),
    [
        ((48.8738, 2.2950), (48.8530, 2.3499), 4_636, 10),  # Arc de Triomphe to Notre-Dame
        ((48.8566, 2.3522), (51.5074, -0.1278), 343_600, 500),  # Paris to London
        ((0.0, 0.0), (1.0, 0.0), EARTH_M * math.pi / 180, 1e-6),
        ((60.0, 0.0), (60.0, 1.0), 55_597 * 0.99999, 5),  # half as far as at the equator
        ((0.0, 179.95), (0.0, -179.95), EARTH_M * math.radians(0.1), 1e-3),  # over the date line
        ((90.0, 0.0), (90.0, 123.0), 0.0, 1e-3),  # all meridians meet
        ((10.0, 20.0), (-10.0, -160.0), EARTH_M * math.pi, 1.0),  # antipodes
        ((48.85, 2.35), (48.85, 2.35), 0.0, 0.0),
    ],
)
def test_known_distances(one: Place, other: Place, expected: float, within: float) -> None:
    assert metres(one, other) == pytest.approx(expected, abs=within)


def test_neighbouring_docks_are_told_apart() -> None:
    """A ten-millionth of a degree is a centimetre: in double precision the law of cosines would say 0."""
    getcontext().prec = 30
    expected = float(Decimal(EARTH_M) * Decimal(math.pi) / 180 / 10_000_000)
    assert metres((48.85, 2.35), (48.8500001, 2.35)) == pytest.approx(expected, rel=1e-5)


def test_distances_broadcast_and_unknown_places_have_none() -> None:
    lat, lon = np.array([48.0, 48.1, np.nan]), np.array([2.0, 2.1, 2.2])
    far = distance_m(lat[:, None], lon[:, None], lat[None, :2], lon[None, :2])
    assert far.shape == (3, 2)
    assert np.isnan(far[2]).all()
    assert far[0, 1] == metres((48.0, 2.0), (48.1, 2.1))


@st.composite
def towns(draw: st.DrawFn) -> list[Place]:
    """Places in a small town, some on one spot, some on a lattice, some unknown."""
    lattice = st.tuples(st.integers(0, 3).map(lambda n: 48 + n / 100), st.integers(0, 3).map(lambda n: 2 + n / 100))
    anywhere = st.tuples(st.floats(48, 48.1), st.floats(2, 2.1))
    unknown = st.sampled_from([(math.nan, 2.0), (48.0, math.nan), (math.nan, math.nan)])
    return draw(st.lists(lattice | anywhere | unknown, max_size=12))


@given(towns(), st.integers(0, 14), st.none() | st.integers(0, 2**12 - 1))
def test_neighbours_are_those_of_a_slow_search(places: list[Place], count: int, chosen: int | None) -> None:
    lat, lon = (np.array([place[axis] for place in places], dtype=np.float64) for axis in (0, 1))
    able = [chosen is None or bool(chosen >> n & 1) for n in range(len(places))]
    found = nearest(lat, lon, count, None if chosen is None else np.array(able, dtype=bool))
    assert found.shape == (len(places), count)
    assert found.dtype == np.int64
    for n, place in enumerate(places):
        others = [m for m, other in enumerate(places) if m != n and able[m] and not math.isnan(sum(place) + sum(other))]
        others.sort(key=lambda m: (metres(place, places[m]), m))
        assert found[n].tolist() == [*others[:count], *[-1] * (count - len(others))]


def test_ties_go_to_the_lower_index() -> None:
    lat, lon = np.array([0.0, 1.0, 0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0, 0.0, 0.0])
    assert nearest(lat, lon, 4)[0].tolist() == [4, 1, 2, 3]  # 4 stands on the spot, the others a degree away
    assert nearest(np.zeros(3), np.zeros(3), 2).tolist() == [[1, 2], [0, 2], [0, 1]]


def test_neighbours_over_the_date_line() -> None:
    lon = np.array([179.9, 179.0, -179.9, -179.0])
    assert nearest(np.zeros(4), lon, 1)[:, 0].tolist() == [2, 0, 0, 2]


def test_of_few_places_there_are_few_neighbours() -> None:
    assert nearest(np.array([48.0]), np.array([2.0]), 2).tolist() == [[-1, -1]]
    assert nearest(np.array([48.0, np.nan]), np.array([2.0, 2.0]), 1).tolist() == [[-1], [-1]]
    assert nearest(np.array([]), np.array([]), 3).shape == (0, 3)
    assert nearest(np.array([48.0]), np.array([2.0]), 0).shape == (1, 0)
