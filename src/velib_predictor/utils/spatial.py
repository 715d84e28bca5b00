"""Distances on the globe."""

import numpy as np
import numpy.typing as npt

EARTH_M = 6_371_000.0
Degrees = npt.NDArray[np.float64]


def distance_m(lat: Degrees, lon: Degrees, to_lat: Degrees, to_lon: Degrees) -> npt.NDArray[np.float64]:
    """Great-circle distance in metres, of broadcastable positions in degrees (haversine formula)."""
    phi, to_phi = np.radians(lat), np.radians(to_lat)
    a = np.sin((to_phi - phi) / 2) ** 2 + np.cos(phi) * np.cos(to_phi) * np.sin(np.radians(to_lon - lon) / 2) ** 2
    metres: npt.NDArray[np.float64] = 2 * EARTH_M * np.arcsin(np.sqrt(np.clip(a, 0.0, 1.0)))
    return metres


def nearest(
    lat: Degrees, lon: Degrees, count: int, candidates: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int64]:
    """The `count` nearest others of each place, nearest first, int64[place, neighbour]; -1 where there are fewer.

    A place whose position is not known (NaN) has none and is nobody's; one that is not among the candidates,
    bool[place], is nobody's. Ties go to the lower index.
    """
    places = len(lat)
    found = np.full((places, count), -1, dtype=np.int64)
    if not places or not count:
        return found
    far = distance_m(lat[:, None], lon[:, None], lat[None, :], lon[None, :])  # [place, place]
    far = np.where(np.isnan(far), np.inf, far)
    np.fill_diagonal(far, np.inf)
    if candidates is not None:
        far[:, ~candidates] = np.inf
    order = np.argsort(far, axis=1, kind="stable")[:, : min(count, places)]
    reached = np.isfinite(np.take_along_axis(far, order, axis=1))
    found[:, : order.shape[1]] = np.where(reached, order, -1)
    return found
