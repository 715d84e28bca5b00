"""When people ride for what: riders by local hour, purpose and kind of day, shaped after Vélib'."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Purpose(NamedTuple):
    """One kind of trip.

    `start` and `end` are uses of land, or "any"; `exposed` tells how much rain and cold take away (1: commuters).
    `workday` and `free` are riders by local hour, on one scale for all purposes.
    """

    start: str
    end: str
    exposed: float
    workday: tuple[float, ...]
    free: tuple[float, ...]


# fmt: off
PURPOSES: tuple[Purpose, ...] = (
    Purpose("home", "office", 0.8,
            (0, 0, 0, 0, .1, .6, 2.4, 7.5, 13., 7.5, 2.6, 1.2, .9, 1.2, 1.2, .7, .5, .4, .3, .2, .1, 0, 0, 0),
            (0, 0, 0, 0, .1, .2, .4, .7, .9, 1., .8, .6, .5, .4, .3, .2, .2, .2, .1, .1, 0, 0, 0, 0)),
    Purpose("office", "home", 0.8,
            (.3, .1, 0, 0, 0, 0, .1, .2, .3, .3, .4, .6, 1.4, 1.1, .8, 1.1, 2.6, 7., 10., 6.4, 3., 1.7, 1.1, .7),
            (.2, .1, 0, 0, 0, 0, 0, .1, .1, .2, .2, .3, .4, .4, .5, .5, .6, .8, .9, .8, .5, .4, .3, .2)),
    Purpose("home", "leisure", 1.1,
            (.3, .2, .1, 0, 0, 0, 0, .1, .2, .3, .5, .7, 1.2, .8, .8, .8, .9, 1.4, 2.4, 3.4, 2.8, 1.5, .8, .5),
            (.5, .3, .2, .1, 0, 0, 0, .1, .2, .4, 1., 1.6, 1.8, 1.8, 2.4, 2.4, 2., 1.9, 2.3, 3., 2.8, 1.8, 1., .7)),
    Purpose("leisure", "home", 1.1,
            (2.1, 1.4, .8, .4, .3, .2, .1, .1, .1, .1, .2, .3, .5, .8, .8, .8, .8, .9, 1., 1.2, 1.4, 1.9, 2.6, 2.8),
            (3., 2.4, 1.7, 1., .7, .5, .3, .2, .2, .2, .3, .5, .9, 1.1, 1.3, 1.7, 2., 2.3, 2.4, 2., 1.6, 2., 2.6, 2.9)),
    Purpose("any", "any", 1.0,
            (.7, .5, .3, .2, .3, .7, 1.4, 2.4, 3.6, 3.8, 3.4, 3.6, 4.6, 4.4, 3.8, 3.9, 4.6, 5.4, 5.6, 4.6, 3.2, 2.2,
             1.6, 1.1),
            (1.4, 1.1, .8, .5, .4, .4, .6, 1., 1.7, 2.7, 3.9, 4.6, 4.6, 4.6, 5., 5.2, 5.2, 5., 4.7, 4., 3., 2.4,
             2., 1.7)),
    Purpose("home", "park", 1.5,
            (0, 0, 0, 0, 0, 0, .1, .1, .1, .2, .2, .2, .3, .2, .2, .3, .3, .3, .3, .1, 0, 0, 0, 0),
            (0, 0, 0, 0, 0, 0, 0, .1, .3, .7, 1.2, 1.3, 1.1, 1.5, 1.7, 1.3, .8, .4, .2, .1, 0, 0, 0, 0)),
    Purpose("park", "home", 1.5,
            (0, 0, 0, 0, 0, 0, 0, .1, .1, .1, .1, .2, .2, .3, .2, .2, .3, .3, .4, .3, .2, 0, 0, 0),
            (0, 0, 0, 0, 0, 0, 0, 0, .1, .3, .5, .9, 1., .8, .8, 1.1, 1.6, 1.7, 1.1, .5, .2, .1, 0, 0)),
)
# fmt: on
_SUNDAY = 0.85


def profiles() -> npt.NDArray[np.float64]:
    """Riders a minute on a scale of its own, float64[day kind, purpose, local minute]; even steps between hours."""
    at = np.arange(1440) / 60 - 0.5  # a value stands for the middle of its hour
    hours = np.arange(-1, 25)

    def by_minute(values: tuple[float, ...]) -> npt.NDArray[np.float64]:
        return np.interp(at, hours, [values[-1], *values, values[0]])

    workday = np.stack([by_minute(purpose.workday) for purpose in PURPOSES])
    free = np.stack([by_minute(purpose.free) for purpose in PURPOSES])
    return np.stack([workday, free, _SUNDAY * free])
