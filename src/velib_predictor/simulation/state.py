"""All that moves in a city, or in many copies of it at once.

A *cell* is a station of one copy, numbered draw * stations + station.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from velib_predictor.simulation.layout import Ints

MECHANICAL, ELECTRIC = 0, 1
"""The axis `kind`."""


@dataclass
class State:
    """A city, or copies of it, at the beginning of a minute.

    Attributes:
        minute: since 1970-01-01 UTC.
        bikes: that can be rented, int32[kind, cell]. broken: that cannot, in a dock each, int32[kind, cell].
        docks: free ones that work, int32[cell]. broken_docks: int32[cell].
        rides: under way, also on trucks, int32[field, ride] in the fields of riders; MINUTE is that of arrival.
        walkers: on foot to another station for a bike, int32[field, rider]; MINUTE is that of the next try.
        served, lost, redirected: riders who got a bike, gave up, and found no dock, since the state was made.
    """

    minute: int
    bikes: Ints
    broken: Ints
    docks: Ints
    broken_docks: Ints
    rides: Ints
    walkers: Ints
    served: int = 0
    lost: int = 0
    redirected: int = 0

    def copy(self) -> Self:
        """A copy that can go its own way."""
        arrays = (f.name for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray))
        return replace(self, **{name: getattr(self, name).copy() for name in arrays})

    @property
    def fleet(self) -> int:
        """All bikes there are; it never changes."""
        return int(self.bikes.sum()) + int(self.broken.sum()) + int(self.rides.shape[1])
