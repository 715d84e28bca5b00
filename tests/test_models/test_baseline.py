"""Persistence, its distribution of changes, and climatology, against slow loops and worked examples."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_models.panels import bare_panel, small_city, with_new_station
from velib_predictor.data.panel import BIKES, DOCKS, EBIKES, MECHANICAL, Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import Forecaster
from velib_predictor.models.baseline import climatology, persistence
from velib_predictor.models.baseline.climatology import Climatology, rescaling
from velib_predictor.models.baseline.persistence import Persistence, PersistenceDelta
from velib_predictor.models.baseline.shrinkage import drawn

SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(minutes=45)))
END = datetime(2025, 1, 1, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")


def steady(ticks: int, capacities: list[int], bikes: npt.NDArray[np.integer] | list[int], **changes: Any) -> Panel:
    """Stations with these bikes [tick, station] (or [station], always the same), none of them electric."""
    counts = np.zeros((ticks, len(capacities), 4), dtype=np.int16)
    counts[:, :, BIKES] = counts[:, :, MECHANICAL] = bikes
    counts[:, :, DOCKS] = np.array(capacities) - counts[:, :, BIKES]
    return bare_panel(counts, np.array(capacities), **changes)


def last(model: Forecaster, panel: Panel, place: int = -1) -> Forecast:
    """The forecast from one tick."""
    return next(model.predict(panel, panel.ticks[place, None]))


def fitted(cls: type[Forecaster], panel: Panel, spec: ForecastSpec = SPEC) -> Any:
    model = cls(spec)
    model.fit(panel, END)
    return model


# -- persistence ---------------------------------------------------------------------------------------------


def test_persistence_is_certain_of_what_there_is_now() -> None:
    panel = small_city()
    forecast = last(fitted(Persistence, panel), panel)
    observed, counts = panel.observed[-1], panel.counts[-1]  # [station, target]
    np.testing.assert_array_equal(forecast.known[0], observed)
    for horizon in range(2):
        np.testing.assert_array_equal(forecast.median()[0, :, horizon][observed], counts[observed])
        np.testing.assert_array_equal(forecast.mean()[0, :, horizon][observed], counts[observed])
    assert set(np.unique(forecast.pmf)) == {0.0, 1.0}


# -- the distribution of changes -----------------------------------------------------------------------------


def slow_table(panel: Panel, spec: ForecastSpec) -> npt.NDArray[np.float64]:
    """What `PersistenceDelta` learns, by one loop over everything, [hour, target, level, horizon, change]."""
    edges = [-1, 0, 1, 2, 5, 10, 20, 10_000]  # the greatest count of each bucket
    bucket = {count: place - 1 for place in range(1, 8) for count in range(edges[place - 1] + 1, edges[place] + 1)}
    shape = (24, len(spec.targets), 49, len(spec.horizons), persistence.WIDTH)
    counts = np.zeros(shape)
    totals = panel.totals()
    for station in range(len(panel.stations)):
        largest = max(
            [0] + [int(t) for t, fine in zip(totals[:, station], panel.trusted[:, station], strict=True) if fine]
        )
        for tick, (target, channel), (place, ahead) in product(
            range(len(panel)), enumerate(spec.channels), enumerate(spec.horizon_ticks)
        ):
            then = tick + ahead
            if then >= len(panel) or not panel.open[tick, station]:
                continue
            if not all(panel.observed[t, station, channel] and panel.trusted[t, station] for t in (tick, then)):
                continue
            now = int(panel.counts[tick, station, channel])
            most = max(largest, int(panel.capacity[tick, station]), int(totals[tick, station]))
            taken = now if channel == DOCKS else max(now, int(panel.counts[tick, station, BIKES]))
            room = max(most - taken, 0)
            change = int(panel.counts[then, station, channel]) - now
            change = max(-persistence.REACH, min(persistence.REACH, change)) + persistence.REACH
            instant = datetime.fromtimestamp(int(panel.ticks[tick].astype(np.int64)), UTC)
            counts[instant.astimezone(PARIS).hour, target, 7 * bucket[now] + bucket[room], place, change] += 1
    table = np.zeros(shape)
    for target, place in product(range(len(spec.targets)), range(len(spec.horizons))):
        here = counts[:, target, :, place]  # [hour, level, change]
        nothing = np.eye(persistence.WIDTH)[persistence.REACH]
        everywhere = (here.sum(axis=(0, 1)) + nothing) / (here.sum() + 1)
        for level in range(49):
            of_level = here[:, level].sum(axis=0)
            by_level = (of_level + 150 * everywhere) / (of_level.sum() + 150)
            for hour in range(24):
                own = here[hour, level]
                table[hour, target, level, place] = (own + 150 * by_level) / (own.sum() + 150)
    return table


@pytest.mark.parametrize("seed", [0, 1])
def test_the_table_of_changes_is_that_of_a_slow_loop(seed: int) -> None:
    panel = small_city(seed, days=6, stations=5).between(300, 560)  # the night in which clocks go back is in it
    model = fitted(PersistenceDelta, panel)
    np.testing.assert_allclose(model.table, slow_table(panel, SPEC), atol=1e-7)
    np.testing.assert_allclose(model.table.sum(axis=-1), 1, atol=1e-5)


def test_a_worked_example_of_changes() -> None:
    """20 stations with 3 of 9 bikes; all of them lose one in each quarter of 10 h UTC (12 o'clock in Paris), once."""
    bikes = np.full((96, 20), 7)
    bikes[41:] = 3  # from 10:15 on
    panel = steady(96, [9] * 20, bikes)
    model = fitted(PersistenceDelta, panel, ForecastSpec(horizons=(timedelta(minutes=15),), targets=("bikes",)))
    assert model.report.rows == 95 * 20
    level = 7 * 4 + 2  # 7 bikes: 6-10; room for 2
    table = model.table[:, 0, level, 0]  # [hour, change]
    everywhere = (20 + 0) / (95 * 20 + 1)  # a loss of 4, over all hours and levels
    by_level = (20 + 150 * everywhere) / (41 * 20 + 150)
    at_noon = (20 + 150 * by_level) / (20 + 150)  # of 12 o'clock, only 12:00 is on this level
    at_eleven = (0 + 150 * by_level) / (80 + 150)
    assert table[12, persistence.REACH - 4] == pytest.approx(at_noon, rel=1e-5)
    assert table[11, persistence.REACH - 4] == pytest.approx(at_eleven, rel=1e-5)
    at_ten_utc = last(model, panel, 40)  # K is 9
    assert at_ten_utc.pmf[0, 0, 0, 0, 3] == pytest.approx(at_noon, rel=1e-5)
    assert at_ten_utc.pmf[0, 0, 0, 0, 7] == pytest.approx(1 - at_noon, rel=1e-5)


@pytest.mark.parametrize(("before", "after"), [(45, 0), (5, 50)])
def test_the_end_bins_mean_at_least_that_many(before: int, after: int) -> None:
    bikes = np.full((96, 4), before)
    bikes[48:] = after
    panel = steady(96, [50] * 4, bikes)
    pmf = last(fitted(PersistenceDelta, panel), panel, 47).pmf[0, 0, 0, 0]
    np.testing.assert_array_equal(np.flatnonzero(pmf > 0.001), sorted([before, 15 if after == 0 else 35]))


def test_without_any_row_of_a_target_it_is_persistence() -> None:
    panel = steady(96, [20, 20], [5, 7])
    observed = panel.observed.copy()
    observed[:-1, :, EBIKES] = False
    forecast = last(fitted(PersistenceDelta, replace(panel, observed=observed)), panel)
    assert (forecast.pmf[0, :, :, EBIKES, 0] == 1).all()


@pytest.mark.parametrize("left_out", ["closed origins", "mistrusted origins", "mistrusted truths", "missing"])
def test_rows_that_say_nothing_are_left_out(left_out: str) -> None:
    """All stations jump at ticks 20 and 21, and only rows that must not be read say so."""
    bikes = np.full((96, 3), 6)
    bikes[20] = 9
    panel = steady(96, [12] * 3, bikes)
    masks = {name: getattr(panel, name).copy() for name in ("open", "trusted", "observed")}
    if left_out == "closed origins":
        bikes[19:21] = 9
        panel = steady(96, [12] * 3, bikes)
        masks["open"][18:21] = False
    elif left_out == "missing":
        masks["observed"][20] = False
    else:
        masks["trusted"][20] = False
    spec = ForecastSpec(horizons=(timedelta(minutes=15),), targets=("bikes",))
    model = fitted(PersistenceDelta, replace(panel, **masks), spec)
    assert (model.table[..., persistence.REACH] == 1).all()
    assert fitted(PersistenceDelta, panel, spec).table[..., persistence.REACH].max() < 1


def test_ebikes_find_room_where_bikes_do() -> None:
    """A station full of mechanical bikes has no room for e-bikes."""
    panel = steady(96, [10, 10], [10, 2])
    rooms = np.array([0, 4])  # buckets of room for 0 and 8
    level = persistence._levels(panel.counts[-1, :, EBIKES], panel.counts[-1, :, BIKES], panel.capacity[-1], EBIKES)
    np.testing.assert_array_equal(level, 0 * 7 + rooms)
    level = persistence._levels(panel.counts[-1, :, DOCKS], panel.counts[-1, :, BIKES], panel.capacity[-1], DOCKS)
    np.testing.assert_array_equal(level, [0 * 7 + 4, 4 * 7 + 2])  # none of 10 docks, and 8 of 10
    model = fitted(PersistenceDelta, panel)
    model.table[:] = 0
    for room, change in zip(rooms, (1, 2), strict=True):  # what is said of each level is another change
        model.table[:, EBIKES, room, :, persistence.REACH + change] = 1
    np.testing.assert_array_equal(model._predict(panel).mean()[0, :, 0, EBIKES], [1, 2])


def test_changes_learned_on_a_random_walk_beat_persistence() -> None:
    from velib_predictor.training.metrics import rps

    city = small_city(4, days=10, stations=12)
    until = datetime(2024, 10, 30, tzinfo=UTC)
    places = np.arange(city.before(until), len(city) - 4, 5)
    scores = {}
    for cls in (Persistence, PersistenceDelta, Climatology):
        model = cls(SPEC)
        model.fit(city, until)
        found = []
        for place, forecast in zip(places, model.predict(city, city.ticks[places]), strict=True):
            truth = np.clip(city.counts[place + 3, :, BIKES], 0, forecast.k[0]).astype(np.int64)
            use = city.observed[place, :, BIKES] & city.observed[place + 3, :, BIKES]
            found.append(rps(forecast.cdf()[0, :, 1, 0], truth)[use])
        scores[cls.name] = float(np.concatenate(found).mean())
    assert scores["persistence_delta"] < 0.85 * scores["persistence"]
    assert scores["persistence_delta"] < scores["climatology"]  # 45 minutes ahead the present says most


# -- climatology ---------------------------------------------------------------------------------------------


def slow_climatology(
    panel: Panel, spec: ForecastSpec, station: int, origin: int, k: int, similar: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """What `Climatology` says of bikes at a station, by loops over its ticks: [horizon, count]."""
    local = [datetime.fromtimestamp(int(t), UTC).astimezone(PARIS) for t in panel.ticks.astype(np.int64)]
    free_days = {date(2024, 11, 1)}  # All Saints' Day
    seen: dict[tuple[bool, int], npt.NDArray[np.float64]] = {}
    for tick, instant in enumerate(local):
        if panel.observed[tick, station, BIKES] and panel.trusted[tick, station] and panel.open[tick, station]:
            free = instant.weekday() >= 5 or instant.date() in free_days
            cell = seen.setdefault((free, instant.hour), np.zeros(len(similar)))
            cell[min(panel.counts[tick, station, BIKES], k)] += 1
    none = np.zeros(len(similar))
    found = []
    for horizon in spec.horizons:
        instant = (datetime.fromtimestamp(int(panel.ticks[origin].astype(np.int64)), UTC) + horizon).astimezone(PARIS)
        free = instant.weekday() >= 5 or instant.date() in free_days
        everything = sum(seen.values(), none)
        of_kind = sum((cell for (kind, _), cell in seen.items() if kind == free), none)
        at_hour = none.copy()
        for hour in range(24):
            apart = abs(instant.hour * 60 + instant.minute - hour * 60 - 22.5)
            weight = max(0.0, 1 - min(apart, 1440 - apart) / 120)
            at_hour += weight * seen.get((free, hour), none)
        usual = (everything + 0.5 * 96 * similar) / (everything.sum() + 0.5 * 96)
        usual = (of_kind + 0.5 * 96 * usual) / (of_kind.sum() + 0.5 * 96)
        found.append((at_hour + 4 * 4 * usual) / (at_hour.sum() + 4 * 4))
    return np.array(found)


def test_climatology_is_that_of_a_slow_loop() -> None:
    panel = small_city(3, days=11)
    spec = ForecastSpec(horizons=tuple(timedelta(minutes=m) for m in (15, 60, 720, 1440)), targets=("bikes",))
    model = fitted(Climatology, panel, spec)
    for origin in (-1, 4 * 96 - 20, 500):  # the second one looks across the change of the clocks
        forecast = last(model, panel, origin)
        for station in (0, 2, 5):
            k = int(forecast.k[0, station])
            similar = model._similar(np.array([k]), k + 1)[0, 0]
            expected = slow_climatology(panel, spec, station, origin, k, similar)
            np.testing.assert_allclose(forecast.pmf[0, station, :, 0, : k + 1], expected, atol=1e-5)


def test_hour_and_kind_of_day_are_local() -> None:
    """Eight weeks in Paris: 9 bikes on workdays from 8 to 12 o'clock, 1 at all other times."""
    ticks = 8 * 7 * 96
    panel = steady(ticks, [10], [1], timezone="Europe/Paris")
    instants = [datetime.fromtimestamp(int(t), UTC).astimezone(PARIS) for t in panel.ticks.astype(np.int64)]
    busy = np.array([8 <= t.hour < 12 and t.weekday() < 5 for t in instants])
    panel = steady(ticks, [10], np.where(busy, 9, 1)[:, None])
    model = fitted(Climatology, panel, ForecastSpec(horizons=(timedelta(hours=2),)))
    for text, most in (
        ("2024-12-10T10:00+01:00", 9),
        ("2024-12-10T15:00+01:00", 1),
        ("2024-12-14T10:00+01:00", 1),  # a Saturday
        ("2024-10-25T10:00+02:00", 9),  # in summer time
        ("2024-10-25T06:00+02:00", 1),
    ):
        origin = datetime.fromisoformat(text) - timedelta(hours=2)
        forecast = last(model, panel, panel.before(origin))
        assert int(forecast.pmf[0, 0, 0, 0].argmax()) == most, text
        assert forecast.pmf[0, 0, 0, 0, most] > 0.65, text


def test_neighbouring_hours_count_by_their_distance_around_midnight_too() -> None:
    hours = dict(climatology._hours(8 * 60 + 30, 15))  # the ticks of an hour are 0, 15, 30, 45: 22.5 on average
    assert {hour: round(float(weight) * 120, 1) for hour, weight in hours.items()} == {
        7: 120 - 67.5,
        8: 120 - 7.5,
        9: 120 - 52.5,
        10: 120 - 112.5,
    }
    assert sorted(dict(climatology._hours(0, 60))) == [0, 1, 23]
    assert dict(climatology._hours(0, 60))[0] == 1
    assert dict(climatology._hours(0, 60))[23] == dict(climatology._hours(0, 60))[1] == 0.5
    for minute in range(0, 1440, 15):  # every tick is informed as much as any other, but for interpolation
        assert sum(weight for _, weight in climatology._hours(minute, 15)) == pytest.approx(2, abs=0.05)


def test_climatology_does_not_ask_what_is_there_now() -> None:
    panel = small_city(days=9)
    model = fitted(Climatology, panel)
    emptied, silent = panel.counts.copy(), panel.observed.copy()
    emptied[-1] = -1
    silent[-1] = False
    blind = replace(panel, counts=emptied, observed=silent, open=panel.open & silent[:, :, BIKES])
    with_eyes, without = last(model, panel), last(model, blind)
    published = np.ones((7, 4), dtype=bool)
    published[1, [MECHANICAL, EBIKES]] = published[4, DOCKS] = False  # they never told these
    np.testing.assert_array_equal(with_eyes.known[0], published)
    np.testing.assert_array_equal(without.known[0], published)
    same = with_eyes.k == without.k
    assert same.mean() > 0.5
    np.testing.assert_array_equal(with_eyes.pmf[same], without.pmf[same])


def test_a_new_station_is_like_others_of_its_size() -> None:
    """Small stations are empty, large ones half full; a new one of 12 or 60 docks is like its like."""
    small, large = [10, 11, 12, 13], [56, 58, 60, 62]
    panel = steady(96, small + large, [0] * 4 + [size // 2 for size in large])
    model = fitted(Climatology, panel)
    wider = with_new_station(panel)
    for capacity, centre in ((12, 0), (60, 30)):
        wider.capacity[:, -1] = capacity
        silent = replace(wider, observed=np.zeros_like(wider.observed), counts=np.full_like(wider.counts, -1))
        forecast = last(model, silent)
        assert forecast.k[0, -1] == capacity
        assert forecast.known[0, -1].all()
        assert forecast.mean()[0, -1, 0, 0] == pytest.approx(centre, abs=1.5)


def test_there_is_no_forecast_without_a_size_or_of_what_was_never_published() -> None:
    panel = with_new_station(steady(96, [20, 20, 20], [5, 7, 9]), silent=True)
    observed = panel.observed.copy()
    observed[:, :, EBIKES] = False
    forecast = last(fitted(Climatology, replace(panel, observed=observed)), panel)
    assert (forecast.known[0] == np.array([True, True, False, True]) & np.array([[True]] * 3 + [[False]])).all()


def test_counts_above_k_count_as_k() -> None:
    """A station of 5 docks that never says how many are free held 9 bikes once, in a spell that was not trusted."""
    panel = steady(96, [5, 5], [2, 2])
    counts, observed = panel.counts.copy(), panel.observed.copy()
    counts[:48, 0, BIKES] = 9
    observed[:, :, DOCKS] = False
    model = fitted(Climatology, replace(panel, counts=counts, observed=observed))
    model.largest[:] = 5  # as if it had been smaller
    forecast = last(model, replace(panel, observed=observed))
    assert forecast.k.tolist() == [[5, 5]]
    assert forecast.pmf[0, 0, 0, BIKES, 5] == pytest.approx(0.4, abs=0.1)
    assert forecast.pmf[0, 0, 0, BIKES].sum() == pytest.approx(1)
    occupancy = climatology._occupancy(np.array([[[0, 0, 3, 0, 0, 0, 0, 1]]], np.float32), np.array([5]), np.array([]))
    assert occupancy[0, 0, -1] == pytest.approx(0.25)


def test_a_long_history_outweighs_what_it_is_drawn_towards() -> None:
    few, many = (steady(96 * days, [20] * 9, [18] * 8 + [4]) for days in (1, 30))
    shares = [last(fitted(Climatology, panel), panel).pmf[0, -1, 0, 0, 4] for panel in (few, many)]
    assert 0.5 < shares[0] < shares[1] < 1
    assert shares[1] > 0.97


def test_the_state_is_small_for_a_city_of_1500_stations(tmp_path: Path) -> None:
    panel = steady(96 * 4, [60] * 100, [20] * 100)
    model = fitted(Climatology, panel)
    model.save(tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    counted = 21 * 2 * 24 * 4  # counts up to 20 bikes, and 40 docks
    assert size * 15 < 60e6
    assert model.counts.dtype == np.uint8
    assert model.counts.nbytes >= 100 * counted


def test_counts_beyond_the_smallest_type_are_kept() -> None:
    panel = steady(30_000, [6, 6], [2, 2])
    second = np.timedelta64(1, "s")
    by_second = replace(panel, ticks=panel.ticks[0] + np.arange(len(panel)) * second, step=timedelta(seconds=1))
    model = fitted(Climatology, by_second, ForecastSpec(step=timedelta(seconds=1), horizons=(timedelta(minutes=1),)))
    assert model.counts.dtype == np.uint16
    assert model.counts.max() == 3600
    assert model.counts.sum() == model.report.rows == 30_000 * 2 * 4


# -- rescaling and shrinkage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "other"), [(2, 2), (2, 41), (41, 2), (3, 8), (8, 3), (41, 41), (41, 77), (77, 41)])
def test_rescaling_keeps_all_mass_both_ends_and_the_order(size: int, other: int) -> None:
    matrix = rescaling(size, other)
    assert matrix.shape == (size, other)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    assert matrix[0, 0] == matrix[-1, -1] == 1
    cdf = matrix.cumsum(axis=1)
    for lower, upper in pairwise(cdf):  # more stays more
        assert (lower >= upper - 1e-6).all()
    if size == other:
        np.testing.assert_allclose(matrix, np.eye(size), atol=1e-6)


def test_a_worked_example_of_rescaling() -> None:
    """Of 0..4 the counts 1, 2, 3 lie between; of 0..3 the counts 1, 2: one and a half each."""
    expected = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64)
    np.testing.assert_allclose(rescaling(5, 4), expected, atol=1e-6)


def test_shares_are_drawn_as_if_more_rows_had_been_seen() -> None:
    towards = np.array([0.5, 0.25, 0.25])
    expected = np.array([[5 / 8, 2 / 8, 1 / 8], towards])
    np.testing.assert_allclose(drawn(np.array([[3, 1], [0, 0]]), towards, 4), expected)
    assert drawn(np.zeros((2, 3), dtype=np.uint8), towards.astype(np.float32), 1.0).dtype == np.float32
