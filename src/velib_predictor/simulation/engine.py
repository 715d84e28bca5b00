"""What moves in a city, minute by minute: rides end and begin, riders are turned away, things break, trucks drive.

The same code runs one city, or many copies of it at once: see `State` on cells.
"""

from collections.abc import Callable
from copy import copy
from typing import Self

import numpy as np
import numpy.typing as npt

from velib_predictor.simulation.city import City
from velib_predictor.simulation.demand import (
    BREAKS,
    FLEXIBLE,
    FROM,
    KIND,
    MINUTE,
    RIDE,
    RIDE_FIELDS,
    TO,
    TRIES,
    WALKS,
    Ints,
)
from velib_predictor.simulation.state import State
from velib_predictor.simulation.upkeep import drive_trucks, repair, trucks_at

Bools = npt.NDArray[np.bool_]
Chance = Callable[[int, int], np.random.Generator]
"""Gives the randomness of (stream, index): the engine asks for that of riders by hour, of the rest by minute."""
RIDERS, UPKEEP = 1, 2

REDIRECT_MIN, WALK_MIN, MOST_WALKS = 3, 4, 2


class Engine:
    """Moves a state on.

    Args:
        state: is changed in place.
        draws: how many copies of the city the state holds.
        since: riders are drawn from this minute on. By default whole hours are drawn wherever a run begins, so that
            a state that was kept goes on as it would have.
    """

    def __init__(self, city: City, state: State, chance: Chance, draws: int = 1, since: int = 0) -> None:
        self.city = city
        self.state = state
        self._chance = chance
        self._draws = draws
        self._near = city.stations.near
        self._since = since
        self._riders: tuple[Ints, npt.NDArray[np.int64]] | None = None
        self._first = self._last = state.minute  # minutes whose riders are drawn

    def copy(self) -> Self:
        """The same city at the same moment; the copy asks for the same randomness."""
        twin = copy(self)
        twin.state = self.state.copy()
        return twin

    def run(self, until: int) -> None:
        """Advance to the beginning of the minute `until`; an earlier one changes nothing."""
        state = self.state
        while state.minute < until:
            minute = state.minute
            if minute % 60 == 0:
                repair(self.city, state, self._chance(UPKEEP, minute))
            if trucks := trucks_at(self.city, minute):
                drive_trucks(self.city, state, trucks, self._chance(UPKEEP, minute + 1), self._draws)
            self._end_rides()
            self._begin_rides(self._riders_of(minute))
            state.minute = minute + 1

    def _riders_of(self, minute: int) -> Ints:
        """Who wants a bike for the first time, int32[field, rider]. They are drawn by the hour."""
        if self._riders is None or not self._first <= minute < self._last:
            hour = minute // 60
            self._first, self._last = max(hour * 60, self._since), hour * 60 + 60
            random = self._chance(RIDERS, hour)
            self._riders = self.city.demand.riders(self._first, self._last, self._draws, random)
        riders, starts = self._riders
        at = minute - self._first
        return riders[:, starts[at] : starts[at + 1]]

    def _end_rides(self) -> None:
        state = self.state
        pieces = state.rides.pop(state.minute, None)
        if pieces is None:
            return
        coming = np.concatenate(pieces, axis=1)
        cell = self._tried(coming[TO], coming[TRIES])
        parked = first_come(cell, state.docks)
        if not parked.all():
            refused = coming[:, ~parked]
            refused[TRIES] = (refused[TRIES] + 1) % self._near.shape[1]
            refused[MINUTE] += REDIRECT_MIN
            state.send(refused)
            state.redirected += refused.shape[1]
            coming, cell = coming[:, parked], cell[parked]
        state.docks -= _count(cell, len(state.docks))
        breaks = coming[BREAKS] == 1
        place = coming[KIND] * np.int32(len(state.docks)) + cell
        state.bikes += _count(place[~breaks], state.bikes.size).reshape(state.bikes.shape)
        if breaks.any():
            state.broken += _count(place[breaks], state.bikes.size).reshape(state.bikes.shape)

    def _begin_rides(self, riders: Ints) -> None:
        state = self.state
        if state.walkers.shape[1]:
            due = state.walkers[MINUTE] == state.minute
            riders = np.concatenate([state.walkers[:, due], riders], axis=1)
            state.walkers = state.walkers[:, ~due]
        cell, kind = self._tried(riders[FROM], riders[TRIES]), riders[KIND].copy()
        got = self._take(kind, cell)
        if not got.all():
            second = np.flatnonzero(~got & (riders[FLEXIBLE] == 1))
            kind[second] = 1 - kind[second]
            got[second] = self._take(kind[second], cell[second])
            without = riders[:, ~got]
            walks = (without[WALKS] == 1) & (without[TRIES] < MOST_WALKS)
            walkers = without[:, walks]
            walkers[TRIES] += 1
            walkers[MINUTE] += WALK_MIN
            state.walkers = np.concatenate([state.walkers, walkers], axis=1)
            state.lost += int((~walks).sum())
        rides = riders[:RIDE_FIELDS, got]
        rides[KIND] = kind[got]
        rides[MINUTE] = state.minute + np.maximum(riders[RIDE, got], 1)
        rides[TRIES] = 0
        state.send(rides)
        state.served += rides.shape[1]

    def _take(self, kind: Ints, cell: Ints) -> Bools:
        """Rent bikes of a kind where there are some; bool[rider]: who got one."""
        state = self.state
        place = kind * np.int32(len(state.docks)) + cell
        got = first_come(place, state.bikes.reshape(-1))
        taken = _count(place[got], state.bikes.size).reshape(state.bikes.shape)
        state.bikes -= taken
        state.docks += taken[0]
        state.docks += taken[1]
        return got

    def _tried(self, cell: Ints, tries: Ints) -> Ints:
        """The cell that is tried next, int32[rider]: the wanted one, then its neighbours, nearest first."""
        again = np.flatnonzero(tries)
        if not len(again):
            return cell
        station = cell[again] % len(self.city)
        found = cell.copy()
        found[again] += self._near[station, tries[again]] - station
        return found


def _count(cell: Ints, cells: int) -> Ints:
    """How often each cell is named, int32[cell]."""
    return np.bincount(cell, minlength=cells).astype(np.int32)


def first_come(cell: Ints, room: Ints) -> Bools:
    """Who finds room, bool[rider], when riders come to their cells in the order of the array; room is int32[cell]."""
    count = np.bincount(cell, minlength=len(room))
    found: Bools = count[cell] <= room[cell]
    if not found.all():
        crowded = np.flatnonzero(~found)
        order = crowded[np.argsort(cell[crowded], kind="stable")]
        place = cell[order]
        rank = np.arange(len(place)) - np.searchsorted(place, place)
        found[order] = rank < room[place]
    return found
