"""What is usual at a station at an hour of a kind of day, learned so that no row of training sees its own day.

A profile of a day's own values would hand the answer to whoever learns from it (measured on Vélib', November 2024: a
tree model that was given such a profile did 11 % worse than persistence on later days). So for training there is one
profile a day, made of the other days.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import DAY_TYPES, LocalTime, local_time
from velib_predictor.data.panel import Panel

Floats = npt.NDArray[np.float32]
QUANTITIES = ("level", "change", "activity")
"""The count, its change from one tick to the next, and that change without its sign."""
LEVEL, CHANGE, ACTIVITY = range(3)
_PRIOR_DAYS = 1.0
"""Weight, in days, of what a mean is drawn towards."""
_NOTHING = 1e-3
_REACH_MIN = 45
"""Slots up to this far apart inform each other, with triangular weights: a day alone says little of a quarter hour."""


@dataclass(frozen=True, eq=False)
class Profile:
    """The usual values of one channel, float32[quantity, day_type, slot, station]; NaN levels where nothing is known.

    Slots are steps of the local day. `QUANTITIES` names the first axis.
    """

    values: Floats
    step_min: int

    @classmethod
    def fit(cls, days: "Days") -> Self:
        """The profile of all days."""
        sums, weights = _by_type(days)
        return cls(
            _blend(sums, weights, sums.sum(axis=1, keepdims=True), weights.sum(axis=1, keepdims=True)), days.step_min
        )

    def at(self, local: LocalTime, stations: npt.NDArray[np.int64]) -> Floats:
        """Usual values at ticks, float32[quantity, tick, station].

        `stations` are places among those of training; -1 is a new one, which has the average change and no level.
        """
        typical = np.nanmean(self.values[1:], axis=-1, keepdims=True)  # [quantity less one, day_type, slot, 1]
        new = np.concatenate([np.full_like(typical[:1], np.nan), typical])
        values = np.concatenate([self.values, new], axis=-1)
        found: Floats = values[:, local.day_type, local.minute // self.step_min][:, :, stations]
        return found


@dataclass(frozen=True, eq=False)
class Days:
    """Sums over the ticks of each local day and slot, spread over neighbouring slots.

    sums, weights: float32[quantity, day, slot, station]; day_type: int8[day]; day_of_tick, slot_of_tick: int64[tick];
    eve_sums, eve_weights: the part of them that a day's first tick owes to the last of the day before,
    float32[quantity, day, station], not spread.
    """

    sums: Floats
    weights: Floats
    day_type: npt.NDArray[np.int8]
    day_of_tick: npt.NDArray[np.int64]
    slot_of_tick: npt.NDArray[np.int64]
    step_min: int
    eve_sums: Floats
    eve_weights: Floats

    @classmethod
    def of(cls, train: Panel, channel: int) -> Self:
        """Sort the ticks of a training panel into days and slots, what is not trusted or closed left out."""
        local = local_time(train.ticks, train.timezone)
        step_min = max(train.step_s // 60, 1)
        _, first, day = np.unique(local.day, return_index=True, return_inverse=True)
        slot = (local.minute // step_min).astype(np.int64)
        use = train.observed[:, :, channel] & train.trusted & train.open
        value = np.where(use, train.counts[:, :, channel], 0).astype(np.float32)
        both = use.copy()
        both[0], both[1:] = False, use[1:] & use[:-1]
        change = np.zeros_like(value)
        change[1:] = np.where(both[1:], value[1:] - value[:-1], 0)
        shape = (len(first), -(-1440 // step_min), value.shape[1])
        sums = np.zeros((len(QUANTITIES), *shape), dtype=np.float32)
        weights = np.zeros_like(sums)
        quantities = ((value, use), (change, both), (np.abs(change), both))
        for ticks in _in_turn(day * shape[1] + slot):
            for quantity, (what, known) in enumerate(quantities):
                sums[quantity, day[ticks], slot[ticks]] += what[ticks]
                weights[quantity, day[ticks], slot[ticks]] += known[ticks]
        eve_sums, eve_weights = np.zeros((2, len(QUANTITIES), len(first), value.shape[1]), dtype=np.float32)
        for quantity, (what, known) in list(enumerate(quantities))[CHANGE:]:
            eve_sums[quantity], eve_weights[quantity] = what[first], known[first]
        spread = _spread(sums, step_min), _spread(weights, step_min)
        return cls(*spread, local.day_type[first], day, slot, step_min, eve_sums, eve_weights)

    def leave_one_out(self) -> Floats:
        """Usual values at each training tick, of all days but its own, float32[quantity, tick, station].

        The change from its last tick to the next day's first is the day's own too.
        """
        sums, weights = _by_type(self)
        all_sums, all_weights = sums.sum(axis=1), weights.sum(axis=1)
        ticks = self.day_of_tick, self.slot_of_tick
        found = np.empty((len(QUANTITIES), len(ticks[0]), sums.shape[-1]), dtype=np.float32)
        for day, kind in enumerate(self.day_type):
            own = np.stack([self.sums[:, day], self.weights[:, day]])  # [sum or weight, quantity, slot, station]
            own_kind = own
            if day + 1 < len(self.day_type):
                own = own + self._eve(day + 1)
                own_kind = own if self.day_type[day + 1] == kind else own_kind
            others = _blend(
                (sums[:, kind] - own_kind[0])[:, None],
                (weights[:, kind] - own_kind[1])[:, None],
                (all_sums - own[0])[:, None],
                (all_weights - own[1])[:, None],
            )[:, 0]  # [quantity, slot, station]
            here = np.flatnonzero(ticks[0] == day)
            found[:, here] = others[:, ticks[1][here]]
        return found

    def _eve(self, day: int) -> Floats:
        """What a day owes to the last tick before it, float32[sum or weight, quantity, slot, station]."""
        slot = self.slot_of_tick[np.searchsorted(self.day_of_tick, day)]
        alone = np.zeros((2, *self.sums[:, day].shape), dtype=np.float32)
        alone[0, :, slot], alone[1, :, slot] = self.eve_sums[:, day], self.eve_weights[:, day]
        return _spread(alone, self.step_min)

    def levels(self) -> "Levels":
        """The usual levels of all days but any two."""
        parts = np.stack([self.sums[LEVEL], self.weights[LEVEL]])  # [sum or weight, day, slot, station]
        kinds = [parts[:, self.day_type == kind].sum(axis=1) for kind in range(DAY_TYPES)]
        return Levels(parts, np.stack(kinds, axis=1), parts.sum(axis=2), self)


@dataclass(frozen=True, eq=False)
class Levels:
    """Usual levels for rows whose origin and target lie on different days: neither day's own values are in them.

    The usual count at the origin, if made with the target's day, and that at the target, made without it, would differ
    by a share of the very change that is to be learned.

    Attributes:
        by_day: float32[sum or weight, day, slot, station]; by_type: the same with the kind of day for the day.
        by_station: over all slots, float32[sum or weight, day, station].
        days: where the ticks lie.
    """

    by_day: Floats
    by_type: Floats
    by_station: Floats
    days: Days

    def without(
        self, tick: npt.NDArray[np.int64], station: npt.NDArray[np.int64], target: npt.NDArray[np.int64]
    ) -> Floats:
        """Usual levels at training ticks, of all days but theirs and the targets', float32[row], as the arguments."""
        kinds, slot = self.days.day_type, self.days.slot_of_tick[tick]
        day, other = self.days.day_of_tick[tick], self.days.day_of_tick[target]
        own, others = self.by_day[:, day, slot, station], self.by_day[:, other, slot, station]
        others = np.where(day != other, others, np.float32(0))
        all_days = self.by_type[:, :, slot, station].sum(axis=1) - own - others
        of_kind = self.by_type[:, kinds[day], slot, station] - own - np.where(kinds[other] == kinds[day], others, 0)
        by_station = self.by_station.sum(axis=1)[:, station] - self.by_station[:, day, station]
        by_station -= np.where(day != other, self.by_station[:, other, station], np.float32(0))
        known = by_station[1] > _NOTHING
        mean = np.where(known, by_station[0] / np.maximum(by_station[1], _NOTHING), np.float32(np.nan))
        slot_mean = (all_days[0] + _PRIOR_DAYS * mean) / (all_days[1] + _PRIOR_DAYS)
        level = (of_kind[0] + _PRIOR_DAYS * slot_mean) / (of_kind[1] + _PRIOR_DAYS)
        return np.where(all_days[1] > _NOTHING, level, np.float32(np.nan)).astype(np.float32)


def _in_turn(cell: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Ticks in groups that name no cell twice: where clocks go back, a slot of the day comes twice."""
    order = np.argsort(cell, kind="stable")
    start = np.searchsorted(cell[order], cell[order], side="left")
    turn = np.arange(len(cell)) - start
    for which in range(int(turn.max()) + 1):
        yield order[turn == which]


def _by_type(days: Days) -> tuple[Floats, Floats]:
    """Sums and weights of each kind of day, float32[quantity, day_type, slot, station]."""
    totals = []
    for part in (days.sums, days.weights):
        kinds = [part[:, days.day_type == kind].sum(axis=1) for kind in range(DAY_TYPES)]
        totals.append(np.stack(kinds, axis=1))
    return totals[0], totals[1]


def _blend(sums: Floats, weights: Floats, all_sums: Floats, all_weights: Floats) -> Floats:
    """Means of one kind of day, drawn towards those of all days, and these towards the station's own over all slots.

    A change is drawn towards none at all. All arguments and the result are float32[quantity, day_type, slot, station].
    """
    station_weights = all_weights.sum(axis=2, keepdims=True)
    # What is left over from taking a day out of a sum is nothing.
    station = np.where(
        station_weights > _NOTHING, all_sums.sum(axis=2, keepdims=True) / np.maximum(station_weights, _NOTHING), np.nan
    )
    station[CHANGE], station[ACTIVITY] = 0.0, np.nan_to_num(station[ACTIVITY])
    slot = (all_sums + _PRIOR_DAYS * station) / (all_weights + _PRIOR_DAYS)
    blended: Floats = ((sums + _PRIOR_DAYS * slot) / (weights + _PRIOR_DAYS)).astype(np.float32, copy=False)
    # A level at other hours says nothing of an hour that no day has shown.
    blended[LEVEL] = np.where(all_weights[LEVEL] > _NOTHING, blended[LEVEL], np.float32(np.nan))
    return blended


def _spread(values: Floats, step_min: int) -> Floats:
    """Values of neighbouring slots of the same day added with triangular weights that sum to 1, along the slot axis."""
    reach = _REACH_MIN // step_min
    weights = np.array([1 - abs(shift) / (reach + 1) for shift in range(-reach, reach + 1)])
    weights /= weights.sum()
    spread = values * np.float32(weights[reach])
    for shift in range(1, reach + 1):
        weight = np.float32(weights[reach + shift])
        spread[:, :, shift:] += weight * values[:, :, :-shift]
        spread[:, :, :-shift] += weight * values[:, :, shift:]
    return spread
