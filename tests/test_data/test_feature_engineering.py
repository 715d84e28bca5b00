"""Features against a slow reference written from the meaning of each column; what they may not see; what they equal."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_models.panels import CELLS, bare_panel, disturbed, selected, small_city, with_new_station
from velib_predictor.data.calendar import public_holidays
from velib_predictor.data.feature_engineering import LEAST_DAYS, NEIGHBOURS, TIMES, FeatureBuilder, Sight
from velib_predictor.data.panel import BIKES, CHANNELS, DOCKS, EBIKES, MISSING, Panel
from velib_predictor.data.profiles import ACTIVITY, CHANGE, LEVEL, Days, Profile
from velib_predictor.utils.spatial import distance_m

PARIS = ZoneInfo("Europe/Paris")
HOLIDAYS = public_holidays("Europe/Paris", range(2024, 2026))
AHEAD = (1, 4, 24, 96, 120)
"""Ticks of 15 minutes; the last reaches further than the lag of a day."""
Usual = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
NAN = math.nan


# -- the slow reference --------------------------------------------------------------------------------------


@cache
def clock(panel: Panel) -> list[datetime]:
    """Paris time of the ticks, and of some after the panel's end."""
    first: datetime = panel.ticks[0].astype("datetime64[s]").item()
    return [(first.replace(tzinfo=UTC) + tick * panel.step).astimezone(PARIS) for tick in range(len(panel) + 200)]


def local(panel: Panel, tick: int) -> datetime:
    return clock(panel)[tick]


@cache
def free(day: date) -> bool:
    return day.weekday() >= 5 or day in HOLIDAYS


def slot(panel: Panel, tick: int) -> int:
    at = local(panel, tick)
    return (at.hour * 60 + at.minute) // int(panel.step.total_seconds() // 60)


@cache
def slow_usual(train: Panel, channel: int, left_out: frozenset[date] = frozenset()) -> Usual:
    """Usual level, change and activity, [quantity, day_type, slot, station], of the days that are not left out.

    A change belongs to the day of its later tick, and is not known where either day is left out.
    """
    step = int(train.step.total_seconds() // 60)
    slots, stations, reach = -(-1440 // step), len(train.stations), 45 // step
    sums, weights = np.zeros((2, 3, 2, slots, stations))
    days = [local(train, tick).date() for tick in range(len(train))]
    share = {shift: 1 - abs(shift) / (reach + 1) for shift in range(-reach, reach + 1)}
    total = sum(share.values())
    for station in range(stations):
        values = []
        for tick in range(len(train)):
            usable = train.observed[tick, station, channel] and train.trusted[tick, station]
            usable = usable and train.open[tick, station] and days[tick] not in left_out
            values.append(float(train.counts[tick, station, channel]) if usable else NAN)
        for tick, now in enumerate(values):
            change = now - values[tick - 1] if tick else NAN
            kind, at = int(free(days[tick])), slot(train, tick)
            for quantity, seen in enumerate((now, change, abs(change))):
                for shift, weight in share.items():
                    if not math.isnan(seen) and 0 <= at + shift < slots:
                        sums[quantity, kind, at + shift, station] += weight / total * seen
                        weights[quantity, kind, at + shift, station] += weight / total
    usual = np.full(sums.shape, NAN)
    for quantity, kind, at, station in np.ndindex(*sums.shape):
        of_station = weights[quantity, :, :, station].sum()
        own = sums[quantity, :, :, station].sum() / of_station if of_station > 1e-3 else NAN
        if quantity == CHANGE:
            own = 0.0
        if quantity == ACTIVITY and math.isnan(own):
            own = 0.0
        all_days = (sums[quantity, :, at, station].sum() + own) / (weights[quantity, :, at, station].sum() + 1)
        found = (sums[quantity, kind, at, station] + all_days) / (weights[quantity, kind, at, station] + 1)
        if quantity == LEVEL and weights[quantity, :, at, station].sum() <= 1e-3:
            found = NAN
        usual[quantity, kind, at, station] = found
    return usual


@dataclass
class Slow:
    """Features of one row at a time: of training where there is no profile, else of forecasts with that profile."""

    train: Panel
    panel: Panel
    channel: int
    places: list[int]
    profile: Usual | None

    def __post_init__(self) -> None:
        self.step = int(self.panel.step.total_seconds() // 60)
        self.largest = []
        for station in range(len(self.train.stations)):
            sizes = [0]
            for tick in range(len(self.train)):
                if self.train.trusted[tick, station]:
                    bikes, docks = (int(self.train.counts[tick, station, channel]) for channel in (BIKES, DOCKS))
                    seen = [bool(self.train.observed[tick, station, channel]) for channel in (BIKES, DOCKS)]
                    sizes += [bikes + docks] if all(seen) else []
                    sizes += [int(count) for count in self.train.counts[tick, station]]
            self.largest.append(max(sizes))
        known = [lat for lat in self.train.stations.lat if not math.isnan(lat)]
        self.lat = sorted(known)
        self.rates = [self._rate(station) for station in range(len(self.train.stations))]

    def _rate(self, station: int) -> float:
        moves = []
        for tick in range(1, len(self.train)):
            both = [
                self.train.observed[at, station, self.channel]
                and self.train.trusted[at, station]
                and self.train.open[at, station]
                for at in (tick - 1, tick)
            ]
            if all(both):
                before, after = (int(self.train.counts[at, station, self.channel]) for at in (tick - 1, tick))
                # Spread over a day's slots, what lies near its ends counts for less there.
                weight = self._kept(slot(self.train, tick))
                moves.append((abs(after - before) * weight, weight))
        return sum(move for move, _ in moves) / max(sum(weight for _, weight in moves), 1)

    def _kept(self, at: int) -> float:
        reach, slots = 45 // self.step, -(-1440 // self.step)
        share = {shift: 1 - abs(shift) / (reach + 1) for shift in range(-reach, reach + 1)}
        return sum(part for shift, part in share.items() if 0 <= at + shift < slots) / sum(share.values())

    def usual(self, quantity: int, tick: int, station: int, also: date | None = None) -> float:
        """What is usual at a tick; for training, of all days but its own (and another one)."""
        at = local(self.panel, tick)
        if self.profile is None:
            left_out = frozenset({at.date()} | ({also} if also else set()))
            profile, place = slow_usual(self.train, self.channel, left_out), station
        else:
            profile, place = self.profile, self.places[station]
        here = profile[quantity, int(free(at.date())), slot(self.panel, tick)]
        if place >= 0:
            return float(here[place])
        return NAN if quantity == LEVEL else float(np.mean(here))

    def between(self, quantity: int, since: int, to: int, station: int) -> float:
        """Sum of what is usual at the ticks after `since` up to `to`; nothing is known before the panel."""
        return sum(self.usual(quantity, tick, station) for tick in range(max(since, 0) + 1, to + 1))

    def value(self, tick: int, station: int, channel: int | None = None) -> float:
        channel = self.channel if channel is None else channel
        if tick < 0 or not self.panel.observed[tick, station, channel]:
            return NAN
        return float(self.panel.counts[tick, station, channel])

    def size(self, station: int) -> float:
        place = self.places[station]
        return max(float(self.panel.capacity[-1, station]), float(self.largest[place]) if place >= 0 else 0.0, 1.0)

    def neighbours(self, station: int) -> list[int]:
        table = self.panel.stations
        far = []
        for other in range(len(table)):
            place = self.places[other]
            if other != station and place >= 0 and self.largest[place] > 0:
                one = distance_m(table.lat[station], table.lon[station], table.lat[other], table.lon[other])
                far += [] if np.isnan(one) else [(float(one), other)]
        return [other for _, other in sorted(far)[:NEIGHBOURS]]

    def row(self, tick: int, station: int, ahead: int) -> dict[str, float]:
        """Features by name."""
        hour, day, week = 60 // self.step, 1440 // self.step, 10080 // self.step
        target = tick + ahead
        now, size, near = self.value(tick, station), self.size(station), self.neighbours(station)
        here, there = local(self.panel, tick), local(self.panel, target)
        everyone = range(len(self.panel.stations))
        training = self.profile is None
        moved = {s: self.value(tick, s) - self.value(tick - hour, s) for s in everyone}
        usual_hour = {s: self.between(CHANGE, tick - hour, tick, s) for s in everyone}
        expected = {s: self.between(CHANGE, tick, target, s) for s in near}
        found = {
            "value": now,
            "room": size - now,
            "occupancy": now / size,
            **{name: self.value(tick, station, channel) for channel, name in enumerate(CHANNELS)},
            "size": size,
            "out_of_order": size - self.value(tick, station, BIKES) - self.value(tick, station, DOCKS),
            "change_1d": now - self.value(tick - day, station),
            "usual_gap": self.usual(
                LEVEL, tick, station, there.date() if training and there.date() != here.date() else None
            )
            - now,
            "surprise_60m": moved[station] - usual_hour[station],
            "network_change_60m": known_mean(moved.values()),
            "network_surprise_60m": known_mean(moved.values())
            - known_mean(usual_hour[s] for s in everyone if not math.isnan(moved[s])),
            "neighbours_occupancy": known_mean(self.value(tick, s) / self.size(s) for s in near),
            "neighbours_change_60m": known_mean(moved[s] for s in near),
            "neighbours_surprise_60m": known_mean(moved[s] - usual_hour[s] for s in near),
            "minute_of_day": here.hour * 60 + here.minute,
            "weekday": here.weekday(),
            "free_day": free(here.date()),
            "north_m": self.offset("lat", station),
            "east_m": self.offset("lon", station),
            "moves_a_tick": self.rates[self.places[station]] if self.places[station] >= 0 else known_mean(self.rates),
            "horizon_min": ahead * self.step,
            "usual_change": self.between(CHANGE, tick, target, station),
            "usual_activity": self.between(ACTIVITY, tick, target, station),
            "usual_gap_at_target": self.usual(LEVEL, target, station) - now,
            "neighbours_usual_change": known_mean(expected.values()),
            "minute_of_day_at_target": there.hour * 60 + there.minute,
            "free_day_at_target": free(there.date()),
        }
        for lag in (15, 30, 60, 120, 240):
            if lag % self.step == 0:
                found[f"change_{lag}m"] = now - self.value(tick - lag // self.step, station)
        for minutes, ticks in ((60, hour), (240, 4 * hour)):
            moves = [
                abs(self.value(at, station) - self.value(at - 1, station)) for at in range(tick - ticks + 1, tick + 1)
            ]
            found[f"activity_{minutes}m"] = known_mean(moves)
        for name, lag in (("yesterday", day), ("last_week", week)):
            then = self.value(target - lag, station) if ahead <= lag else NAN
            found[f"{name}_change"] = then - self.value(tick - lag, station)
            found[f"{name}_gap"] = then - now
        return found

    def offset(self, axis: str, station: int) -> float:
        """Metres north (east) of the middle of the stations of training."""
        middle = float(np.nanmedian(getattr(self.train.stations, axis)))
        table = self.panel.stations
        place = {"lat": table.lat[station], "lon": table.lon[station]}
        start = {**place, axis: middle}
        metres = distance_m(
            np.array(start["lat"]), np.array(start["lon"]), np.array(place["lat"]), np.array(place["lon"])
        )
        return float(metres) * float(np.sign(place[axis] - middle))


def known_mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else NAN


# -- a city --------------------------------------------------------------------------------------------------


def city(days: int = 8, seed: int = 0) -> Panel:
    """The small city with ten stations in no order, one of which stands nobody knows where."""
    panel = small_city(seed, days, 10)
    random = np.random.default_rng(7)
    lat, lon = 48.85 + 0.01 * random.standard_normal((2, 10))
    lat[6] = lon[6] = np.nan
    return replace(panel, stations=replace(panel.stations, lat=lat, lon=lon - 46.5))


@pytest.fixture(scope="module")
def town() -> Panel:
    return city()


@pytest.fixture(scope="module")
def train(town: Panel) -> Panel:
    return town.between(0, 96 * 7)


def fitted(train: Panel, channel: int = BIKES) -> tuple[FeatureBuilder, Sight]:
    builder = FeatureBuilder(channel, train.step_s // 60)
    return builder, builder.fit(train)


def rows_of(panel: Panel, count: int, seed: int = 0, ahead: tuple[int, ...] = AHEAD) -> list[tuple[int, int, int]]:
    """Rows at random, whose targets lie in the panel: (tick, station, ticks ahead)."""
    random = np.random.default_rng(seed)
    drawn = zip(
        random.integers(0, len(panel) - max(ahead), count),
        random.integers(0, len(panel.stations), count),
        random.choice(ahead, count),
        strict=True,
    )
    return [(int(tick), int(station), int(ticks)) for tick, station, ticks in drawn]


def assert_rows(names: list[str], found: npt.NDArray[np.float32], slow: list[dict[str, float]]) -> None:
    assert found.shape == (len(slow), len(names))
    assert set(names) <= set(slow[0])
    for column, name in enumerate(names):
        wanted = np.array([row[name] for row in slow])
        np.testing.assert_allclose(found[:, column], wanted, rtol=2e-4, atol=2e-3, err_msg=name)
        assert np.isfinite(wanted).any() or name.startswith("last_week"), name


def columns(rows: list[tuple[int, int, int]]) -> tuple[Places, Places, Places]:
    tick, station, ahead = np.array(rows).T
    return tick, station, ahead


# -- oracle --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", [BIKES, DOCKS])
def test_rows_of_training_are_those_of_a_slow_loop(train: Panel, channel: int) -> None:
    builder, sight = fitted(train, channel)
    rows = rows_of(train, 150, channel)
    slow = Slow(train, train, channel, list(range(10)), None)
    assert_rows(builder.names, builder.rows(sight, *columns(rows)), [slow.row(*row) for row in rows])
    assert [*slow.row(*rows[0])] != builder.names  # told apart by their names, not by their places
    assert sorted(slow.row(*rows[0])) == sorted(builder.names)


@pytest.mark.parametrize(("origin", "channel"), [(96 * 7 + 30, BIKES), (96 * 8 - 3, DOCKS), (96 * 4 + 1, EBIKES)])
def test_rows_of_a_forecast_are_those_of_a_slow_loop(town: Panel, train: Panel, origin: int, channel: int) -> None:
    """Stations that training did not know are among them; one of the origins is followed by 25 hours of Sunday."""
    builder, _ = fitted(train, channel)
    seen = with_new_station(town, silent=False).between(0, origin + 1)
    places = seen.stations.positions_in(train.stations.id)
    assert places.tolist() == [*range(10), -1]
    found = builder.all_rows(builder.sight(seen, places, AHEAD[-1]), AHEAD)
    slow = Slow(train, seen, channel, places.tolist(), slow_usual(train, channel))
    assert not np.isnan(found[:, builder.names.index("last_week_change")]).all() or origin < 672
    assert_rows(builder.names, found, [slow.row(origin, station, ahead) for station in range(11) for ahead in AHEAD])


def coarser(panel: Panel, ticks: int) -> Panel:
    """Every so many ticks of a panel."""
    by_tick = {name: getattr(panel, name)[::ticks] for name in ("ticks", *CELLS)}
    return replace(panel, step=ticks * panel.step, tolerance=ticks * panel.step, **by_tick)


def test_hourly_rows_are_those_of_a_slow_loop(town: Panel) -> None:
    hourly = coarser(town, 4)
    builder, sight = fitted(hourly)
    assert [name for name in builder.names if name.startswith("change_")] == [
        "change_60m", "change_120m", "change_240m", "change_1d",
    ]  # fmt: skip
    rows = rows_of(hourly, 120, ahead=(1, 6, 24, 30))
    slow = Slow(hourly, hourly, BIKES, list(range(10)), None)
    assert_rows(builder.names, builder.rows(sight, *columns(rows)), [slow.row(*row) for row in rows])


# -- lags are of time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [timedelta(minutes=15), timedelta(hours=1)])
def test_a_lag_is_a_time_and_a_masked_tick_has_no_value(step: timedelta) -> None:
    """Counts are the hours since the start, so each change says how far back it reaches."""
    ticks = timedelta(days=9) // step
    hours = np.arange(ticks) * (step // timedelta(minutes=15))
    counts = np.repeat(hours[:, None, None], 4, axis=2).repeat(2, axis=1).astype(np.int16)
    start = np.datetime64("2024-10-23", "s")
    panel = bare_panel(
        counts,
        np.array([20, 20]),
        ticks=start + np.arange(ticks) * np.timedelta64(int(step.total_seconds()), "s"),
        step=step,
        tolerance=step,
    )
    builder, sight = fitted(panel)
    origin, quarters = ticks - 30, {"60m": 4, "120m": 8, "240m": 16, "1d": 96}
    row = dict(zip(builder.names, one_row(builder, sight, origin), strict=True))
    for lag, back in quarters.items():
        assert row[f"change_{lag}"] == back
    assert row["yesterday_change"] == row["last_week_change"] == step // timedelta(minutes=15)
    for lag, back in quarters.items():
        observed = panel.observed.copy()
        observed[origin - back * timedelta(minutes=15) // step, 0] = False
        masked_panel = replace(panel, observed=observed)
        masked = dict(zip(builder.names, one_row(builder, replace(sight, panel=masked_panel), origin), strict=True))
        lost = {name for name in row if math.isnan(masked[name]) and not math.isnan(row[name])}
        assert f"change_{lag}" in lost
        assert not lost & {f"change_{other}" for other in quarters if other != lag}
        assert ("yesterday_change" in lost) == (lag == "1d")


def one_row(builder: FeatureBuilder, sight: Sight, tick: int, ahead: int = 1) -> list[float]:
    found: list[float] = builder.rows(sight, np.array([tick]), np.array([0]), np.array([ahead]))[0].tolist()
    return found


def test_targets_beyond_a_day_and_a_week_have_no_count_of_yesterday_and_last_week(town: Panel, train: Panel) -> None:
    builder, _ = fitted(train)
    places = np.arange(10)
    ahead = (96, 97, 672, 673)
    found = builder.all_rows(builder.sight(town, places, ahead[-1]), ahead).reshape(10, 4, -1)
    for name, reach in (("yesterday_gap", 1), ("last_week_gap", 3)):
        known = ~np.isnan(found[:, :, builder.names.index(name)])
        assert known[:, :reach].any()
        assert not known[:, reach:].any()


def test_a_short_history_has_no_time_of_day() -> None:
    """The first day in Paris begins two hours before the first day of the panel ends in Greenwich."""
    for days in (LEAST_DAYS - 2, LEAST_DAYS - 1, LEAST_DAYS):
        panel = small_city(days=days)
        builder, sight = fitted(panel)
        local_days = len({local(panel, tick).date() for tick in range(len(panel))})
        assert local_days == days + 1
        assert (set(TIMES) & set(builder.names) == set()) == (local_days < LEAST_DAYS)
        rows = columns(rows_of(panel, 20))
        assert builder.rows(sight, *rows).shape == (20, len(builder.names))
        timed, without = FeatureBuilder(BIKES, 15), builder
        timed.fit(panel)
        timed.knows_time, without.knows_time = True, False
        every = timed.rows(sight, *rows)
        kept = [column for column, name in enumerate(timed.names) if name not in TIMES]
        np.testing.assert_array_equal(every[:, kept], without.rows(sight, *rows))
        assert len(kept) == len(timed.names) - len(TIMES)


# -- leakage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_forecast_rows_do_not_move_when_what_comes_after_the_origin_changes(
    town: Panel, train: Panel, seed: int
) -> None:
    builder, _ = fitted(train)
    for origin in (96 * 4 + 3, 96 * 7 + 30):
        for panel in (disturbed(town, origin + 1, seed), town.between(0, origin + 1)):
            seen = panel.between(0, origin + 1)
            here, other = (
                builder.all_rows(builder.sight(one, np.arange(10), AHEAD[-1]), AHEAD)
                for one in (town.between(0, origin + 1), seen)
            )
            assert here.tobytes() == other.tobytes()
        moved = disturbed(town, origin, seed).between(0, origin + 1)
        assert builder.all_rows(builder.sight(moved, np.arange(10), 4), AHEAD[:2]).tobytes() != here.tobytes()


def test_forecast_rows_do_not_read_what_hindsight_trusts_or_what_is_open(town: Panel, train: Panel) -> None:
    builder, _ = fitted(train)
    flipped = replace(town, trusted=~town.trusted, open=~town.open)
    one, other = (builder.all_rows(builder.sight(panel, np.arange(10), 96), AHEAD[:3]) for panel in (town, flipped))
    assert one.tobytes() == other.tobytes()


def test_a_fit_reads_nothing_after_the_end_of_training(town: Panel, train: Panel) -> None:
    other = disturbed(town, len(train)).between(0, len(train))
    rows = columns(rows_of(train, 300))
    (one, one_sight), (two, two_sight) = fitted(train), fitted(other)
    assert one.rows(one_sight, *rows).tobytes() == two.rows(two_sight, *rows).tobytes()
    assert one.profile is not None
    assert two.profile is not None
    assert one.profile.values.tobytes() == two.profile.values.tobytes()


def test_rows_of_training_know_nothing_of_a_target_on_the_next_day() -> None:
    """Counts stay as they are from midnight to midnight and are drawn anew each day: of the next nothing is known.

    Were the target's day in what is usual at the origin, and not in what is usual at the target, their difference would
    be a share of the answer.
    """
    days, stations = 14, 60
    random = np.random.default_rng(0)
    levels = np.repeat(random.integers(2, 28, (days + 1, stations)), 96, axis=0)[8 : 8 + days * 96]
    counts = np.stack([levels, levels, 0 * levels, 30 - levels], axis=2).astype(np.int16)
    panel = bare_panel(counts, np.full(stations, 30))
    builder, sight = fitted(panel)
    tick, station = (grid.ravel() for grid in np.meshgrid(np.arange(96, 12 * 96, 5), np.arange(stations)))
    features = builder.rows(sight, tick, station, np.full_like(tick, 96)).astype(np.float64)
    change = counts[tick + 96, station, BIKES].astype(float) - counts[tick, station, BIKES]

    def error(*names: str) -> float:
        design = np.stack([np.ones(len(tick)), *(features[:, builder.names.index(name)] for name in names)], axis=1)
        return float(np.std(change - design @ np.linalg.lstsq(design, change, rcond=None)[0]))

    alone = error("value", "usual_gap_at_target")
    assert error("value", "usual_gap", "usual_gap_at_target") > 0.99 * alone
    told = replace(sight, levels=None)  # as if the target's day were left in
    features = builder.rows(told, tick, station, np.full_like(tick, 96)).astype(np.float64)
    assert error("value", "usual_gap", "usual_gap_at_target") < 0.97 * alone


# -- without its own day -------------------------------------------------------------------------------------


def day_ticks(panel: Panel, day: date) -> npt.NDArray[np.bool_]:
    return np.array([local(panel, tick).date() == day for tick in range(len(panel))])


def with_day_changed(panel: Panel, ticks: npt.NDArray[np.bool_]) -> Panel:
    random = np.random.default_rng(5)
    counts = panel.counts.copy()
    counts[ticks] = random.integers(0, 60, counts[ticks].shape)
    observed, opened = panel.observed.copy(), panel.open.copy()
    observed[ticks] ^= random.random(observed[ticks].shape) < 0.3
    opened[ticks] ^= random.random(opened[ticks].shape) < 0.3
    counts[~observed] = MISSING
    return replace(panel, counts=counts, observed=observed, open=opened)


def spring() -> Panel:
    """The small city in spring: on its fifth day, 2024-03-31, clocks in Paris go forward."""
    panel = city()
    return replace(panel, ticks=panel.ticks - (panel.ticks[0] - np.datetime64("2024-03-27", "s")))


@pytest.mark.parametrize("season", ["autumn", "spring"])
def test_the_usual_values_of_a_day_are_those_of_a_panel_without_it(season: str) -> None:
    panel = city() if season == "autumn" else spring()
    usual = Days.of(panel, BIKES).leave_one_out()  # [quantity, tick, station]
    lengths = []
    for day in sorted({local(panel, tick).date() for tick in range(len(panel))}):
        ticks = np.flatnonzero(day_ticks(panel, day))
        lengths.append(len(ticks))
        slow = slow_usual(panel, BIKES, frozenset({day}))
        for tick in ticks.tolist():
            wanted = slow[:, int(free(day)), slot(panel, tick)]
            np.testing.assert_allclose(usual[:, tick], wanted, rtol=1e-4, atol=2e-4)
    assert (100 if season == "autumn" else 92) in lengths


@pytest.mark.parametrize("season", ["autumn", "spring"])
def test_the_usual_values_of_a_day_do_not_move_when_the_day_changes(season: str) -> None:
    panel = city() if season == "autumn" else spring()
    days = Days.of(panel, BIKES)
    before, in_sample = days.leave_one_out(), Profile.fit(days)
    all_days = sorted({local(panel, tick).date() for tick in range(len(panel))})
    for day in all_days:
        ticks = day_ticks(panel, day)
        other = Days.of(with_day_changed(panel, ticks), BIKES)
        after = other.leave_one_out()
        np.testing.assert_allclose(after[:, ticks], before[:, ticks], rtol=1e-4, atol=3e-4)
        assert np.abs(np.nan_to_num(after - before)[:, ~ticks]).max() > 0.5  # the others are told
        assert np.abs(np.nan_to_num(Profile.fit(other).values - in_sample.values)).max() > 0.5


def test_usual_counts_without_two_days_are_those_of_a_panel_without_them(train: Panel) -> None:
    levels = Days.of(train, BIKES).levels()
    for tick, station, ahead in rows_of(train, 100, 3, (10, 60, 96, 200)):
        pair = frozenset({local(train, tick).date(), local(train, tick + ahead).date()})
        found = levels.without(np.array([tick]), np.array([station]), np.array([tick + ahead]))
        wanted = slow_usual(train, BIKES, pair)[LEVEL, int(free(local(train, tick).date())), slot(train, tick), station]
        np.testing.assert_allclose(found, [wanted], rtol=1e-4, atol=2e-4)


def test_a_profile_is_that_of_a_slow_loop(train: Panel) -> None:
    for channel in (BIKES, DOCKS):
        profile = Profile.fit(Days.of(train, channel))
        np.testing.assert_allclose(profile.values, slow_usual(train, channel), rtol=1e-4, atol=1e-4)


# -- parity --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hourly", [False, True])
@pytest.mark.parametrize("origin", [96 * 7 + 36, 96 * 8 - 4])
def test_a_panel_that_begins_where_features_look_back_to_gives_the_same_rows(
    town: Panel, hourly: bool, origin: int
) -> None:
    panel, place = (coarser(town, 4), origin // 4) if hourly else (town, origin)
    ahead = (1, 6, 24, 30) if hourly else AHEAD
    builder, _ = fitted(panel.between(0, place - 20))
    whole, short = panel.between(0, place + 1), panel.between(place - builder.lookback, place + 1)
    assert len(short) == builder.lookback + 1
    one, other = (builder.all_rows(builder.sight(seen, np.arange(10), ahead[-1]), ahead) for seen in (whole, short))
    assert one.tobytes() == other.tobytes()
    assert not np.isnan(one[:, builder.names.index("last_week_change")]).all()


def test_neighbours_found_before_or_by_another_channel_are_those_found_anew(town: Panel, train: Panel) -> None:
    (bikes, _), (docks, _), (alone, _) = fitted(train), fitted(train, DOCKS), fitted(train, DOCKS)
    moved = replace(town.stations, lat=town.stations.lat[::-1].copy())
    for stations in (town.stations, replace(town.stations), moved, town.stations):
        seen = replace(town, stations=stations)
        like = bikes.sight(seen, np.arange(10), AHEAD[-1])
        one = docks.sight(seen, np.arange(10), AHEAD[-1], like)
        alone._around = None
        other = alone.sight(seen, np.arange(10), AHEAD[-1])
        assert one.neighbours.tobytes() == other.neighbours.tobytes()
        assert one.place.tobytes() == other.place.tobytes()
        assert docks.all_rows(one, AHEAD).tobytes() == alone.all_rows(other, AHEAD).tobytes()


def test_single_rows_are_those_of_all_at_once(town: Panel, train: Panel) -> None:
    builder, _ = fitted(train)
    sight = builder.sight(town, np.arange(10), AHEAD[-1])
    every = builder.all_rows(sight, AHEAD).reshape(10, len(AHEAD), -1)
    for station in range(10):
        for place, ahead in enumerate(AHEAD):
            row = builder.rows(sight, np.array([len(town) - 1]), np.array([station]), np.array([ahead]))[0]
            assert row.tobytes() == every[station, place].tobytes()


def test_stations_in_another_order_have_the_same_rows(town: Panel, train: Panel) -> None:
    order = np.random.default_rng(3).permutation(10)
    builder, _ = fitted(train)
    one = builder.all_rows(builder.sight(town, np.arange(10), AHEAD[-1]), AHEAD).reshape(10, len(AHEAD), -1)
    shuffled = selected(town, order)
    places = shuffled.stations.positions_in(train.stations.id)
    other = builder.all_rows(builder.sight(shuffled, places, AHEAD[-1]), AHEAD).reshape(10, len(AHEAD), -1)
    same = [column for column, name in enumerate(builder.names) if name != "network_surprise_60m"]
    np.testing.assert_array_equal(other[:, :, same], one[order][:, :, same])
    np.testing.assert_allclose(other, one[order], rtol=1e-5, atol=1e-6)  # a sum over all stations is rounded
    refitted, _ = fitted(selected(train, order))
    other = refitted.all_rows(refitted.sight(shuffled, np.arange(10), AHEAD[-1]), AHEAD).reshape(one.shape)
    np.testing.assert_allclose(other, one[order], rtol=1e-5, atol=1e-6)


def test_a_station_that_appears_after_the_origin_changes_nobodys_features(town: Panel, train: Panel) -> None:
    """It stands in the middle of them all, and is there, but silent, at the origin."""
    builder, _ = fitted(train)
    one = builder.all_rows(builder.sight(town, np.arange(10), AHEAD[-1]), AHEAD)
    wider = with_new_station(town, silent=True)
    table = replace(wider.stations, lat=wider.stations.lat.copy(), lon=wider.stations.lon.copy())
    table.lat[-1], table.lon[-1] = builder.middle
    wider = replace(wider, stations=table)
    places = wider.stations.positions_in(train.stations.id)
    other = builder.all_rows(builder.sight(wider, places, AHEAD[-1]), AHEAD)
    same = [column for column, name in enumerate(builder.names) if name != "network_surprise_60m"]
    np.testing.assert_array_equal(other[: len(one), same], one[:, same])
    np.testing.assert_allclose(other[: len(one)], one, rtol=1e-5, atol=1e-6)


def test_a_second_fit_forgets_the_first(town: Panel, train: Panel) -> None:
    """Stations without a count in training are nobody's neighbours, whatever an earlier fit has seen."""
    silenced = {name: getattr(train, name).copy() for name in ("counts", "observed", "open", "capacity")}
    for name, nothing in (("counts", MISSING), ("observed", False), ("open", False), ("capacity", 0)):
        silenced[name][:, 2] = nothing
    quiet = replace(train, **silenced)
    again, _ = fitted(train)
    again.fit(quiet)
    once, _ = fitted(quiet)
    one, other = (builder.all_rows(builder.sight(town, np.arange(10), 4), (1, 4)) for builder in (once, again))
    assert one.tobytes() == other.tobytes()


def test_features_that_were_not_fitted_are_refused(town: Panel) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        FeatureBuilder(BIKES, 15).sight(town, np.arange(10), 4)
