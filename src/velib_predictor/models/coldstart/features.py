"""Features of the cold-start model: what a panel shows by itself, of any city, with nothing learned of it.

A row is (origin, station, horizon), for all targets at once. Counts are told as shares of the station's size, moves as
logarithms of bikes an hour, times as hours of the local day: two cities with the same state give the same numbers. What
a panel does not reach back to is NaN, so the first poll of a system is an origin like any other.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import FREE_DAY, local_time
from velib_predictor.data.feature_engineering import mean_of_known, values_at
from velib_predictor.data.panel import BIKES, CHANNELS, DOCKS, EBIKES, Panel
from velib_predictor.models.coldstart.places import Floats, Places

Indices = npt.NDArray[np.int64]
CHANGES_MIN = (15, 30, 60, 120, 240)
HOUR_S, DAY_S, DAYS = 3_600, 86_400, 7
HOURS_SHORT, HOURS_LONG = 4, 24
HARMONICS = 4
_LAGGED = tuple(CHANNELS[channel] for channel in (BIKES, EBIKES))
_LONGEST_H = 24.0

PRESENT = (
    *(f"{name}_share" for name in CHANNELS), "out_of_order", "log_size",
    *(f"change_{lag}m" for lag in CHANGES_MIN), "ebikes_change_60m", "change_1d",
    "log_moves_4h", "log_moves_24h", "ebikes_log_moves_24h", "share_24h", "share_gap_24h",
    "network_share", "network_ebikes", "network_change_60m",
    "network_log_moves_15m", "network_log_moves_4h", "network_log_moves_24h",
    "near_share", "wide_share", "near_change_60m", "wide_change_60m", "near_ebikes",
    "log_from_middle", "log_neighbours", "from_middle",
)  # fmt: skip
"""Columns that are known at the origin."""
AHEAD = (
    "log_horizon", "horizon", "root_horizon",
    *(f"{name}_{column}" for name in _LAGGED for column in (
        "yesterday_change", "last_week_change", "yesterday_gap", "usual_change", "usual_change_same_kind",
        "usual_gap", "log_usual_moves",
    )),
    "days_known",
    *(f"{wave}_{number + 1}_{at}" for at in ("now", "then") for number in range(HARMONICS) for wave in ("sin", "cos")),
    *(f"{name}_{at}" for at in ("now", "then") for name in ("free_day", "saturday")),
)  # fmt: skip
"""Columns that depend on the horizon too."""
NAMES = (*PRESENT, *AHEAD)
OF_EBIKES = tuple(n for n in NAMES if "ebikes" in n or n == "mechanical_share")
OF_DOCKS = ("docks_share", "out_of_order")
OF_PLACE = ("near_share", "wide_share", "near_change_60m", "wide_change_60m", "near_ebikes", *PRESENT[-3:])
"""Columns that a system without e-bikes, without docks or without positions does not have."""


def lookback(step_s: int) -> int:
    """Ticks before an origin that its features read; a grid that days do not lie on has no yesterday."""
    return (DAYS * DAY_S + HOUR_S) // step_s if step_s >= 60 and not DAY_S % step_s else 0


def typical_change(size: Floats, horizon_s: npt.NDArray[np.integer]) -> Floats:
    """The unit in which changes are told, in counts, float32[row]: a share of the size that grows with the horizon.

    Nothing of it is learned: a quarter of the docks in the long run, and at first as the root of time.
    """
    hours = horizon_s.astype(np.float32) / np.float32(HOUR_S)
    unit: Floats = np.maximum(np.float32(0.25) * size * np.sqrt(hours / (hours + 4)), np.float32(0.3))
    return unit


def sizes(panel: Panel) -> npt.NDArray[np.int16]:
    """Docks in all as they are known at each tick alone, int16[tick, station], at least 1."""
    most = np.maximum(panel.totals(), panel.counts.max(axis=-1))
    docks: npt.NDArray[np.int16] = np.maximum(np.maximum(panel.capacity, most), np.int16(1))
    return docks


@dataclass(frozen=True, eq=False)
class View:
    """A panel, made ready for rows of it.

    Attributes:
        size: docks in all, float32[tick, station].
        network: of all stations together, float32[tick, column]: bikes and e-bikes by docks, change in an hour by
            docks, and moves of a station in an hour, seen each hour and each quarter of an hour.
    """

    panel: Panel
    places: Places
    size: Floats
    network: Floats

    @classmethod
    def of(cls, panel: Panel, places: Places, size: npt.NDArray[np.integer]) -> Self:
        """Of a panel whose stations are that large, [tick, station]."""
        docks = np.broadcast_to(size, panel.counts.shape[:2]).astype(np.float32)
        bikes = _masked(panel, BIKES)
        hour, quarter = (_change(bikes, _ticks(panel, seconds)) for seconds in (HOUR_S, 900))
        columns = [
            _ratio(bikes, docks),
            _ratio(_masked(panel, EBIKES), docks),
            _ratio(hour, docks),
            mean_of_known(np.abs(hour), ~np.isnan(hour)),
            mean_of_known(np.abs(quarter) * 4, ~np.isnan(quarter)),
        ]
        return cls(panel, places, docks, np.stack(columns, axis=1))

    # -- rows ------------------------------------------------------------------------------------------------

    def rows(self, tick: Indices, station: Indices, ahead: Indices, reach: Indices, wide_reach: Indices) -> Floats:
        """Features, float32[row, feature], of rows given by origin (tick of the panel), station and ticks ahead.

        Args:
            reach, wide_reach: ticks before the origin that are told of the station, and of all others, int64[row].
        """
        return np.concatenate(
            [self._present(tick, station, reach, wide_reach), self._ahead(tick, station, ahead, reach)], axis=1
        )

    def all_rows(self, horizons: tuple[int, ...]) -> Floats:
        """Features from the last tick, of all stations and horizons, float32[station x horizon, feature]."""
        last, stations = len(self.panel) - 1, np.arange(len(self.panel.stations))
        whole = np.full(len(stations), last)
        present = np.repeat(self._present(whole, stations, whole, whole), len(horizons), axis=0)
        station, ahead = np.repeat(stations, len(horizons)), np.tile(np.array(horizons), len(stations))
        whole = np.full(len(station), last)
        return np.concatenate([present, self._ahead(whole, station, ahead, whole)], axis=1)

    def _present(self, tick: Indices, station: Indices, reach: Indices, wide_reach: Indices) -> Floats:
        size = self.size[tick, station]
        now = [values_at(self.panel, channel, tick, station) for channel in range(len(CHANNELS))]

        def since(channel: int, seconds: int) -> Floats:
            return now[channel] - self._back(channel, tick, station, seconds, reach)

        ago = [hours * HOUR_S for hours in range(HOURS_LONG + 1)]
        hourly = [
            np.stack([self._back(channel, tick, station, seconds, reach) for seconds in ago], axis=1)
            for channel in (BIKES, EBIKES)
        ]  # [row, hours ago]
        moves = [np.abs(np.diff(values, axis=1)) for values in hourly]
        day = _all_mean(hourly[0])
        columns = [
            *(value / size for value in now),
            (size - now[BIKES] - now[DOCKS]) / size,
            np.log(size),
            *(since(BIKES, lag * 60) / size for lag in CHANGES_MIN),
            since(EBIKES, HOUR_S) / size,
            since(BIKES, DAY_S) / size,
            _log(_all_mean(moves[0][:, :HOURS_SHORT])),
            *(_log(_all_mean(part)) for part in moves),
            day / size,
            _all_mean(np.abs(hourly[0] - day[:, None])) / size,
            *self._of_network(tick, wide_reach),
            *self._of_neighbours(tick, station, wide_reach),
            *(attribute[station] for attribute in self.places.place),
        ]
        return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)

    def _of_network(self, tick: Indices, reach: Indices) -> list[Floats]:
        def back(column: int, seconds: int) -> Floats:
            at = _reached(tick, _ticks(self.panel, seconds), reach)
            return np.where(at >= 0, self.network[np.maximum(at, 0), column], np.float32(np.nan))

        def moves(column: int, seconds: list[int], of: int) -> Floats:
            """Moves that were seen so long ago; the count before, `of` seconds earlier, must be told, too."""
            earlier = _ticks(self.panel, of)
            lags = [_both(_ticks(self.panel, ago), earlier) for ago in seconds]
            told = np.stack([_reached(tick, lag, reach) >= 0 for lag in lags], axis=1)
            return _log(_all_mean(np.where(told, np.stack([back(column, ago) for ago in seconds], axis=1), np.nan)))

        hour_ago = _reached(tick, _ticks(self.panel, HOUR_S), reach) >= 0
        return [
            back(0, 0),
            back(1, 0),
            np.where(hour_ago, back(2, 0), np.float32(np.nan)),
            moves(4, [quarter * 900 for quarter in range(4)], 900),
            moves(3, [hour * HOUR_S for hour in range(HOURS_SHORT)], HOUR_S),
            moves(3, [hour * HOUR_S for hour in range(HOURS_LONG)], HOUR_S),
        ]

    def _of_neighbours(self, tick: Indices, station: Indices, reach: Indices) -> list[Floats]:
        ticks, which = np.unique(tick, return_inverse=True)
        stations = np.arange(len(self.panel.stations))
        size = self.size[ticks]  # [tick, station]

        def shares(channel: int, at: Indices) -> Floats:
            return values_at(self.panel, channel, at[:, None], stations) / size

        now = shares(BIKES, ticks)
        hour = _ticks(self.panel, HOUR_S)
        before = shares(BIKES, ticks - hour) if hour >= 0 else np.full_like(now, np.nan)
        told = _reached(tick, hour, reach) >= 0
        occupied, changed = self.places.around(now), self.places.around(now - before)
        electric = self.places.around(shares(EBIKES, ticks))[:1]
        return [
            *(part[which, station] for part in occupied),
            *(np.where(told, part[which, station], np.float32(np.nan)) for part in changed),
            *(part[which, station] for part in electric),
        ]

    def _ahead(self, tick: Indices, station: Indices, ahead: Indices, reach: Indices) -> Floats:
        step_s = self.panel.step_s
        hours = np.minimum(ahead * step_s / HOUR_S, _LONGEST_H)
        columns = [np.log(hours), hours / _LONGEST_H, np.sqrt(hours / _LONGEST_H)]
        day = _ticks(self.panel, DAY_S)
        free, calendar = self._calendar(tick, ahead)
        lags = np.arange(1, DAYS + 1) * day if day >= 0 else np.full(DAYS, -1)
        then = tick[:, None] + ahead[:, None] - lags  # [row, day]
        usable = (lags >= ahead[:, None]) & (lags >= 0)
        same = usable & (free[np.where(usable, np.maximum(then, 0), 0)] == free[tick + ahead][:, None])
        for channel in (BIKES, EBIKES):
            value = values_at(self.panel, channel, tick, station)[:, None]
            size = self.size[tick, station][:, None]
            before = np.where(usable, tick[:, None] - lags, -1)
            here = values_at(self.panel, channel, _told(before, tick, reach), station[:, None])
            there = values_at(self.panel, channel, _told(np.where(usable, then, -1), tick, reach), station[:, None])
            change, gap = (there - here) / size, (there - value) / size
            known = ~np.isnan(change)
            columns += [
                change[:, 0], change[:, -1], gap[:, 0],
                mean_of_known(change, usable), mean_of_known(change, same), mean_of_known(gap, usable),
                _log(mean_of_known(np.abs(there - here), usable)),
            ]  # fmt: skip
            if channel == BIKES:
                days = known.mean(axis=1)
        return np.stack([np.asarray(column, dtype=np.float32) for column in [*columns, days, *calendar]], axis=1)

    def _calendar(self, tick: Indices, ahead: Indices) -> tuple[npt.NDArray[np.bool_], list[npt.NDArray[np.floating]]]:
        """Whether days are free, of the panel's ticks and on to the last target, bool[tick]; and the rows' columns."""
        panel = self.panel
        beyond = int((tick + ahead).max(initial=0)) + 1
        ticks = panel.ticks[0] + np.arange(max(beyond, len(panel))) * np.timedelta64(panel.step_s, "s")
        local = local_time(ticks, panel.timezone)
        free = local.day_type == FREE_DAY
        waves, days = [], []
        for at in (tick, tick + ahead):
            angle = local.minute[at] * np.float32(2 * np.pi / 1440)
            for number in range(1, HARMONICS + 1):
                waves += [np.sin(number * angle), np.cos(number * angle)]
            days += [free[at].astype(np.float32), (local.weekday[at] == 5).astype(np.float32)]
        return free, [*waves, *days]

    def _back(self, channel: int, tick: Indices, station: Indices, seconds: int, reach: Indices) -> Floats:
        """The count so long ago, float32[row]; NaN where the grid has no such tick or it is not told."""
        return values_at(self.panel, channel, _reached(tick, _ticks(self.panel, seconds), reach), station)


def _ticks(panel: Panel, seconds: int) -> int:
    """So many seconds in ticks; -1 where they are no whole number of ticks."""
    return -1 if seconds % panel.step_s else seconds // panel.step_s


def _both(one: int, other: int) -> int:
    return -1 if min(one, other) < 0 else one + other


def _reached(tick: Indices, lag: int, reach: Indices) -> Indices:
    """The tick that lies `lag` before each; -1 where it is not told, or there is no such lag."""
    return np.where((lag >= 0) & (lag <= reach), tick - lag, -1)


def _told(at: Indices, tick: Indices, reach: Indices) -> Indices:
    """Ticks [row, ...] that are told at the origins `tick`; -1 for others."""
    return np.where(at >= (tick - reach)[:, None], at, -1)


def _masked(panel: Panel, channel: int) -> Floats:
    """Counts, NaN where not observed, float32[tick, station]."""
    return np.where(panel.observed[:, :, channel], panel.counts[:, :, channel], np.nan).astype(np.float32)


def _change(values: Floats, lag: int) -> Floats:
    """Change since `lag` ticks ago, float32[tick, station]; NaN at first, and everywhere for a lag of -1."""
    changed = np.full_like(values, np.nan)
    if 0 < lag < len(values):
        changed[lag:] = values[lag:] - values[:-lag]
    return changed


def _ratio(values: Floats, docks: Floats) -> Floats:
    """All stations' values by all their docks, of those that are known, float32[tick]."""
    known = ~np.isnan(values)
    whole = np.where(known, docks, np.float32(0)).sum(axis=1)
    total = np.where(known, values, np.float32(0)).sum(axis=1)
    return np.where(whole > 0, total / np.maximum(whole, 1), np.float32(np.nan)).astype(np.float32)


def _all_mean(values: npt.NDArray[np.floating]) -> Floats:
    """Mean of what is known along the last axis."""
    return mean_of_known(values.astype(np.float32), ~np.isnan(values))


def _log(moves: Floats) -> Floats:
    """Moves an hour as a logarithm that knows 0."""
    return np.asarray(np.log(moves + np.float32(0.05)))
