"""All that moves in a city, or in many copies of it at once.

A *cell* is a station of one copy, numbered draw * stations + station.
"""

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Self

import numpy as np

from velib_predictor.simulation.demand import FROM, MINUTE, RIDE_FIELDS, TO
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
        rides: under way, also on trucks: by minute of arrival, pieces of int32[field, ride].
        walkers: on foot to another station for a bike, int32[field, rider]; MINUTE is that of the next try.
        served, lost, redirected: riders who got a bike, gave up, and found no dock, since the state was made.
    """

    minute: int
    bikes: Ints
    broken: Ints
    docks: Ints
    broken_docks: Ints
    rides: dict[int, list[Ints]]
    walkers: Ints
    served: int = 0
    lost: int = 0
    redirected: int = 0

    def copy(self) -> Self:
        """A copy that can go its own way."""
        arrays = (f.name for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray))
        rides = {minute: list(pieces) for minute, pieces in self.rides.items()}  # pieces do not change
        return replace(self, rides=rides, **{name: getattr(self, name).copy() for name in arrays})

    def copies(self, draws: int) -> Self:
        """A state of `draws` copies of this city, int32[..., draw * stations + station]."""
        stations = len(self.docks)

        def apart(riders: Ints) -> Ints:
            found = np.tile(riders, draws)
            offset = np.repeat(np.arange(draws, dtype=np.int32) * stations, riders.shape[1])
            found[TO] += offset
            if len(found) > FROM:
                found[FROM] += offset
            return found

        return replace(
            self,
            bikes=np.tile(self.bikes, draws),
            broken=np.tile(self.broken, draws),
            docks=np.tile(self.docks, draws),
            broken_docks=np.tile(self.broken_docks, draws),
            rides={minute: [apart(piece) for piece in pieces] for minute, pieces in self.rides.items()},
            walkers=apart(self.walkers),
        )

    @property
    def fleet(self) -> int:
        """All bikes there are; it never changes."""
        return int(self.bikes.sum()) + int(self.broken.sum()) + self.under_way

    @property
    def under_way(self) -> int:
        """Bikes on the road."""
        return sum(piece.shape[1] for pieces in self.rides.values() for piece in pieces)

    def send(self, rides: Ints) -> None:
        """Put rides on the road, int32[field, ride]; their MINUTE is that of arrival, and not past."""
        if not rides.shape[1]:
            return
        # By 16 bits numpy sorts without comparing: several times faster.
        order = np.argsort((rides[MINUTE] - self.minute).astype(np.int16), kind="stable")
        rides = rides[:RIDE_FIELDS, order]
        first, last = int(rides[MINUTE, 0]), int(rides[MINUTE, -1])
        bounds = np.searchsorted(rides[MINUTE], np.arange(first, last + 2)).tolist()
        for minute, (start, stop) in enumerate(pairwise(bounds), first):
            if start < stop:
                self.rides.setdefault(minute, []).append(rides[:, start:stop])
