"""Panel -> features: the one builder that training, backtest and serving share.

A row is (origin, station, horizon) of one channel. Its features read the `observed` mask and ticks up to the origin;
lags are of time, since the panel's grid is regular and its gaps are masked (NaN here). What is usual comes from the
days of training, and for rows of training from all of these but the row's own (`profiles`); the usual count at the
origin leaves out the target's day too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import LocalTime, local_time
from velib_predictor.data.outside import Mask, Outside, drawn
from velib_predictor.data.panel import BIKES, CHANNELS, DOCKS, Panel, Stations
from velib_predictor.data.profiles import ACTIVITY, CHANGE, LEVEL, Days, Floats, Levels, Profile
from velib_predictor.utils.spatial import distance_m, nearest

NEIGHBOURS = 6
LAGS_MIN = (15, 30, 60, 120, 240)
TIMES = ("minute_of_day", "weekday", "free_day", "minute_of_day_at_target", "free_day_at_target")
LEAST_DAYS = 7
"""Days of history below which features leave the time of day out: what is learned of 9 o'clock from two mornings is
these mornings (Vélib', 2024-11: five days with 8 usable hours gave 4 % worse forecasts with it than without)."""
HOUR_MIN, DAY_MIN, WEEK_MIN = 60, 1440, 7 * 1440
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sight:
    """What the features of some origins are read from.

    Attributes:
        panel: with the origins among its ticks.
        first: the panel's tick at which the calendar and what is usual begin; they run on to the last target.
        local: calendar, from `first` on, [tick].
        level: usual count, from `first` on, float32[tick, station].
        change, activity: usual change, and moves, summed from `first` on, float64[tick, station].
        size: docks in all, float32[station]; neighbours: their places, int64[station, neighbour], -1 for none.
        place: metres north and east of the middle of the network, and moves a tick, float32[attribute, station].
        levels: for rows of training whose target lies on another day; none for forecasts.
        dropped: origins of training that are shown no weather, bool[tick]; none for forecasts.
    """

    panel: Panel
    first: int
    local: LocalTime
    level: Floats
    change: npt.NDArray[np.float64]
    activity: npt.NDArray[np.float64]
    size: Floats
    neighbours: Indices
    place: Floats
    levels: Levels | None = None
    dropped: Mask | None = None


class FeatureBuilder:
    """Features of one channel's rows. Fitted on training ticks."""

    def __init__(self, channel: int, step_min: int) -> None:
        self.channel = channel
        self.step_min = step_min
        self.lags = [lag for lag in LAGS_MIN if lag % step_min == 0]
        self.hour = max(HOUR_MIN // step_min, 1)  # ticks
        self.profile: Profile | None = None
        self.largest: npt.NDArray[np.int16] = np.zeros(0, dtype=np.int16)  # [station]
        self.rate: Floats = np.zeros(0, dtype=np.float32)  # moves a tick, [station]
        self.middle: tuple[float, float] = (0.0, 0.0)
        self.knows_time = True
        self.outside = Outside.nothing()
        self._around: tuple[Stations, Indices, npt.NDArray[np.float64]] | None = None

    @property
    def lookback(self) -> int:
        """Ticks before an origin that its features read."""
        return WEEK_MIN // self.step_min + self.hour

    @property
    def names(self) -> list[str]:
        """The columns: what is known at the origin, what depends on the horizon too, what lies outside."""
        own = [name for name in self._all_names if self.knows_time or name not in TIMES]
        return own + self.outside.names

    @property
    def _all_names(self) -> list[str]:
        return [
            "value", "room", "occupancy", *CHANNELS, "size", "out_of_order",
            *(f"change_{lag}m" for lag in self.lags), "change_1d", "activity_60m", "activity_240m",
            "usual_gap", "surprise_60m", "network_change_60m", "network_surprise_60m",
            "neighbours_occupancy", "neighbours_change_60m", "neighbours_surprise_60m",
            "minute_of_day", "weekday", "free_day", "north_m", "east_m", "moves_a_tick",
            "horizon_min", "usual_change", "usual_activity", "usual_gap_at_target", "neighbours_usual_change",
            "yesterday_change", "yesterday_gap", "last_week_change", "last_week_gap",
            "minute_of_day_at_target", "free_day_at_target",
        ]  # fmt: skip

    # -- learning --------------------------------------------------------------------------------------------

    def fit(self, train: Panel) -> Sight:
        """Learn what is usual from the ticks of `train`; returns the sight of its rows, each without its own day."""
        days = Days.of(train, self.channel)
        self.profile = Profile.fit(days)
        sizes = np.maximum(train.totals(), train.counts.max(axis=-1))  # docks may not be published
        self.largest = sizes.max(axis=0, initial=0, where=train.trusted).astype(np.int16)
        seen = days.weights[ACTIVITY].sum(axis=(0, 1))
        self.rate = (days.sums[ACTIVITY].sum(axis=(0, 1)) / np.maximum(seen, 1)).astype(np.float32)
        with np.errstate(invalid="ignore"):
            lat, lon = train.stations.lat, train.stations.lon
            self.middle = (float(np.nanmedian(lat)), float(np.nanmedian(lon))) if (~np.isnan(lat)).any() else (0.0, 0.0)
        local = local_time(train.ticks, train.timezone)
        self.knows_time = len(days.day_type) >= LEAST_DAYS
        self.outside = Outside.fit(train)
        self._around = None
        sight = self._sight(train, np.arange(len(train.stations)), 0, local, days.leave_one_out())
        return replace(sight, levels=days.levels(), dropped=drawn(len(train)))

    def sight(self, seen: Panel, places: Indices, ahead: int, like: Sight | None = None) -> Sight:
        """For forecasts from the last tick of `seen`, up to `ahead` ticks into the future.

        Args:
            places: where its stations stand among those of training, int64[station]; -1 for new ones.
            like: sight of another channel's builder, fitted on the same panel, of the same stations: who is whose
                neighbour is taken from it.
        """
        if self.profile is None:
            raise ValueError("the features were not fitted")
        if like is not None:
            self._around = like.panel.stations, like.neighbours, like.place[:2].astype(np.float64)
        first = max(len(seen) - 1 - self.hour, 0)
        future = seen.ticks[-1] + np.arange(1, ahead + 1) * np.timedelta64(seen.step_s, "s")
        local = local_time(np.concatenate([seen.ticks[first:], future]), seen.timezone)
        return self._sight(seen, places, first, local, self.profile.at(local, places))

    def _sight(self, panel: Panel, places: Indices, first: int, local: LocalTime, usual: Floats) -> Sight:
        largest = np.append(self.largest, np.int16(0))[places]
        neighbours, place = self._surroundings(panel.stations, largest > 0)
        known = np.append(self.rate, np.float32(self.rate.mean() if len(self.rate) else 0))[places]
        return Sight(
            panel=panel,
            first=first,
            local=local,
            level=usual[LEVEL],
            change=np.cumsum(usual[CHANGE], axis=0, dtype=np.float64),
            activity=np.cumsum(usual[ACTIVITY], axis=0, dtype=np.float64),
            size=np.maximum(np.maximum(panel.capacity[-1], largest), 1).astype(np.float32),
            neighbours=neighbours,
            place=np.concatenate([place, known[None]]).astype(np.float32),
        )

    def _surroundings(
        self, stations: Stations, trained: npt.NDArray[np.bool_]
    ) -> tuple[Indices, npt.NDArray[np.float64]]:
        """Nearest neighbours, and metres north and east of the middle; kept, as they are asked for at each origin.

        Only stations that training saw are neighbours: one that opens later must not change the others' features.
        """
        if self._around is None or not _same_places(self._around[0], stations):
            lat, lon = stations.lat, stations.lon
            north = distance_m(np.full_like(lat, self.middle[0]), lon, lat, lon) * np.sign(lat - self.middle[0])
            east = distance_m(lat, np.full_like(lon, self.middle[1]), lat, lon) * np.sign(lon - self.middle[1])
            self._around = stations, nearest(lat, lon, NEIGHBOURS, trained), np.stack([north, east])
        return self._around[1:]

    # -- keeping ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What was learned, as arrays by name.

        Raises:
            ValueError: nothing was.
        """
        if self.profile is None:
            raise ValueError("the features were not fitted")
        return {
            "profile": self.profile.values,
            "rate": self.rate,
            "middle": np.array(self.middle),
            "knows_time": np.array([self.knows_time]),
            "largest": self.largest,
            **self.outside.state(),
        }

    @classmethod
    def restored(cls, channel: int, step_min: int, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """A builder that has learned what `state` says.

        Raises:
            KeyError: something is missing in it.
        """
        builder = cls(channel, step_min)
        builder.profile = Profile(state["profile"], step_min)
        builder.rate, builder.largest = state["rate"], state["largest"]
        builder.middle = (float(state["middle"][0]), float(state["middle"][1]))
        builder.knows_time = bool(state["knows_time"][0])
        builder.outside = Outside.restored(state)
        return builder

    # -- rows ------------------------------------------------------------------------------------------------

    def rows(self, sight: Sight, tick: Indices, station: Indices, horizon: Indices) -> Floats:
        """Features, float32[row, feature], of rows given by origin (tick of the panel), station and ticks ahead."""
        present = self._present(sight, tick, station)
        if sight.levels is not None:
            day = sight.local.day[tick + horizon - sight.first]
            beyond = np.flatnonzero(day != sight.local.day[tick - sight.first])
            usual = sight.levels.without(tick[beyond], station[beyond], (tick + horizon)[beyond])
            value = self._value(sight, tick[beyond], station[beyond])
            present[beyond, self._all_names.index("usual_gap")] = usual - value
        return self._kept(sight, tick, horizon, [present, self._ahead(sight, tick, station, horizon)])

    def all_rows(self, sight: Sight, horizons: tuple[int, ...]) -> Floats:
        """Features from the panel's last tick of all stations and horizons, float32[station x horizon, feature]."""
        stations = np.arange(len(sight.size))
        last = np.full(len(stations), len(sight.panel) - 1)
        present = np.repeat(self._present(sight, last, stations), len(horizons), axis=0)
        station, horizon = np.repeat(stations, len(horizons)), np.tile(np.array(horizons), len(stations))
        tick = np.full(len(station), len(sight.panel) - 1)
        return self._kept(sight, tick, horizon, [present, self._ahead(sight, tick, station, horizon)])

    def _kept(self, sight: Sight, tick: Indices, horizon: Indices, own: list[Floats]) -> Floats:
        """The columns of `names`."""
        if not self.knows_time:
            keep = [column for column, name in enumerate(self._all_names) if name not in TIMES]
            own = [np.concatenate(own, axis=1)[:, keep]]
        if not self.outside.names:
            return np.concatenate(own, axis=1)
        panel = sight.panel
        origin = panel.ticks[tick]
        target = origin + horizon * np.timedelta64(panel.step_s, "s")
        dropped = None if sight.dropped is None else sight.dropped[tick]
        return np.concatenate([*own, self.outside.rows(panel, origin, target, dropped)], axis=1)

    def _present(self, sight: Sight, tick: Indices, station: Indices) -> Floats:
        """What is known at the origin, float32[row, feature]."""
        now = [values_at(sight.panel, channel, tick, station) for channel in range(len(CHANNELS))]
        value, size = now[self.channel], sight.size[station]
        near = sight.neighbours[station]  # [row, neighbour]
        with np.errstate(invalid="ignore"):
            hour_ago = self._value(sight, tick - self.hour, station)
            usual_hour = self._usual(sight.change, sight, tick, tick - self.hour, station)
            network, network_usual = self._network(sight, tick)
            near_now, near_before = (self._near(sight, at, near) for at in (tick, tick - self.hour))
            near_usual = self._usual(sight.change, sight, tick[:, None], tick[:, None] - self.hour, near)
            local = tick - sight.first
            columns = [
                value, size - value, value / size, *now, size, size - now[BIKES] - now[DOCKS],
                *(value - self._value(sight, tick - lag // self.step_min, station) for lag in self.lags),
                value - self._value(sight, tick - DAY_MIN // self.step_min, station),
                *(self._moves(sight, tick, station, ticks) for ticks in (self.hour, 4 * self.hour)),
                sight.level[local, station] - value,
                value - hour_ago - usual_hour,
                network,
                network - network_usual,
                mean_of_known(near_now / sight.size[near], near >= 0),
                mean_of_known(near_now - near_before, near >= 0),
                mean_of_known(near_now - near_before - near_usual, near >= 0),
                sight.local.minute[local], sight.local.weekday[local], sight.local.day_type[local],
                *(attribute[station] for attribute in sight.place),
            ]  # fmt: skip
            return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)

    def _ahead(self, sight: Sight, tick: Indices, station: Indices, horizon: Indices) -> Floats:
        """What depends on the horizon, float32[row, feature]."""
        target = tick + horizon
        near = sight.neighbours[station]
        value = self._value(sight, tick, station)
        local = target - sight.first
        lagged = []
        with np.errstate(invalid="ignore"):
            for lag in (DAY_MIN // self.step_min, WEEK_MIN // self.step_min):
                then = self._value(sight, np.where(horizon <= lag, target - lag, -1), station)
                lagged += [then - self._value(sight, tick - lag, station), then - value]
            near_usual = self._usual(sight.change, sight, target[:, None], tick[:, None], near)
            columns = [
                horizon * self.step_min,
                self._usual(sight.change, sight, target, tick, station),
                self._usual(sight.activity, sight, target, tick, station),
                sight.level[local, station] - value,
                mean_of_known(near_usual, near >= 0),
                *lagged,
                sight.local.minute[local], sight.local.day_type[local],
            ]  # fmt: skip
            return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)

    def _value(self, sight: Sight, tick: Indices, station: Indices) -> Floats:
        return values_at(sight.panel, self.channel, tick, station)

    def _near(self, sight: Sight, tick: Indices, near: Indices) -> Floats:
        return values_at(sight.panel, self.channel, tick[:, None], near)

    def _moves(self, sight: Sight, tick: Indices, station: Indices, ticks: int) -> Floats:
        """Moves a tick that were seen in the last `ticks`, float32[row]."""
        back = tick[:, None] - np.arange(ticks, -1, -1)
        moves = np.abs(np.diff(values_at(sight.panel, self.channel, back, station[:, None]), axis=1))
        return mean_of_known(moves, ~np.isnan(moves))

    def _network(self, sight: Sight, tick: Indices) -> tuple[Floats, Floats]:
        """Mean change of all stations in the last hour, and the usual one, float32[row] each."""
        ticks, which = np.unique(tick, return_inverse=True)
        stations = np.arange(len(sight.size))
        found = []
        for at in np.array_split(ticks, max(len(ticks) // 512, 1)):
            here, before = at[:, None], at[:, None] - self.hour
            change = self._value(sight, here, stations) - self._value(sight, before, stations)
            known = ~np.isnan(change)
            usual = self._usual(sight.change, sight, here, before, stations)
            found.append(np.stack([mean_of_known(change, known), mean_of_known(usual, known)], axis=1))
        both = np.concatenate(found)[which]
        return both[:, 0], both[:, 1]

    @staticmethod
    def _usual(summed: npt.NDArray[np.float64], sight: Sight, to: Indices, since: Indices, station: Indices) -> Floats:
        """What is usual between two ticks; before the first tick nothing is known of it, and it counts as 0."""
        first, last = np.maximum(since - sight.first, 0), to - sight.first
        found: Floats = (summed[last, station] - summed[first, station]).astype(np.float32)
        return found


def _same_places(one: Stations, other: Stations) -> bool:
    """Whether these are the same stations, in the same order, at the same positions."""
    if one is other:
        return True
    same = np.array_equal(one.lat, other.lat, equal_nan=True) and np.array_equal(one.lon, other.lon, equal_nan=True)
    return same and one.id == other.id


def values_at(panel: Panel, channel: int, tick: Indices, station: Indices) -> Floats:
    """Counts at (tick, station), NaN where not observed, before the panel or where there is no station (-1)."""
    tick, station = np.broadcast_arrays(tick, station)
    value = panel.counts[np.maximum(tick, 0), station, channel].astype(np.float32)
    there = panel.observed[np.maximum(tick, 0), station, channel] & (tick >= 0) & (station >= 0)
    return np.where(there, value, np.float32(np.nan))


def mean_of_known(values: Floats, use: npt.NDArray[np.bool_]) -> Floats:
    """Mean along the last axis of what is used and known; NaN where that is nothing."""
    known = use & ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, np.float32(0)).sum(axis=-1, dtype=np.float32)
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan)).astype(np.float32)
