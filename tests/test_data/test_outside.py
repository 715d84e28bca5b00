"""Features of weather and special days: a slow reference, no look ahead, drop-out, parity, and known holidays."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_data.test_known_weather import slow
from tests.test_models.panels import small_city
from velib_predictor.config.config import Settings, SystemSettings
from velib_predictor.config.outside import CalendarSettings, EventSettings
from velib_predictor.data import special_days
from velib_predictor.data.feature_engineering import FeatureBuilder
from velib_predictor.data.known_weather import FRESH, HOURS, OLDEST, VARIABLES, KnownWeather, WeatherSource
from velib_predictor.data.outside import DROPPED, EVENT, SCHOOL, TOLD, WEATHER, Outside, drawn
from velib_predictor.data.panel import BIKES, Panel
from velib_predictor.data.special_days import SpecialDays
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Forecaster, forecaster

PARIS = ZoneInfo("Europe/Paris")
EPOCH = date(1970, 1, 1)
AHEAD = (1, 4, 24, 96)
DAYS = 18
RAIN = VARIABLES.index("precipitation_mm")


def forecasts_for(ticks: npt.NDArray[np.datetime64], seed: int = 0) -> KnownWeather:
    """One an hour, 9 minutes after it; a day and a half is missing in the middle, so that they get too old there."""
    random = np.random.default_rng(seed)
    hours = np.arange(ticks[0] - np.timedelta64(3, "h"), ticks[-1], np.timedelta64(1, "h")).astype("datetime64[us]")
    gap = (hours > ticks[len(ticks) // 2]) & (hours < ticks[len(ticks) // 2] + np.timedelta64(36, "h"))
    issued = hours[~gap] + np.timedelta64(9, "m")
    values = random.uniform(0, 20, (len(issued), HOURS, len(VARIABLES))).astype(np.float32)
    values[..., RAIN] *= random.random(values.shape[:2]) < 0.2
    return KnownWeather(issued, values)


@pytest.fixture(scope="module")
def town() -> Panel:
    """Eighteen days from 2024-10-23 in zone C, whose autumn holidays end on 2024-11-03, with an event."""
    panel = small_city(3, DAYS, 6)
    days = SpecialDays("C", ((date(2024, 10, 29), date(2024, 10, 30)), (date(2024, 11, 9), date(2024, 11, 9))))
    return replace(panel, weather=forecasts_for(panel.ticks), special_days=days)


@pytest.fixture(scope="module")
def train(town: Panel) -> Panel:
    return town.between(0, 96 * 16)


def fitted_on(train: Panel) -> FeatureBuilder:
    builder = FeatureBuilder(BIKES, 15)
    builder.fit(train)
    return builder


def slow_row(panel: Panel, tick: int, ahead: int) -> dict[str, float]:
    """The columns by name, from their meaning."""
    origin = panel.ticks[tick].astype("datetime64[us]")
    target = origin + ahead * np.timedelta64(15, "m")
    now, _ = slow(panel.weather, origin, origin)
    then, until = slow(panel.weather, origin, target)
    day = datetime.fromtimestamp(int(target.astype(np.int64)) / 1e6, UTC).astimezone(PARIS).date()
    return {
        **{name: now[VARIABLES.index(name)] for name in TOLD},
        **{f"{name}_at_target": then[VARIABLES.index(name)] for name in TOLD},
        "precipitation_mm_until_target": until,
        "school_holiday_at_target": float(day <= date(2024, 11, 3)),
        "event_at_target": float(day in (date(2024, 10, 29), date(2024, 10, 30), date(2024, 11, 9))),
    }


def assert_columns(builder: FeatureBuilder, found: npt.NDArray[np.float32], wanted: list[dict[str, float]]) -> None:
    for name in (*WEATHER, *SCHOOL, *EVENT):
        column = found[:, builder.names.index(name)]
        np.testing.assert_allclose(column, [row[name] for row in wanted], rtol=2e-4, atol=1e-4, err_msg=name)


def test_rows_of_training_are_those_of_a_slow_loop(train: Panel) -> None:
    """What came later than the origin is in the panel, and not in the rows: the slow loop takes what was issued."""
    builder = FeatureBuilder(BIKES, 15)
    sight = builder.fit(train)
    random = np.random.default_rng(5)
    shown = np.flatnonzero(~drawn(len(train))[:-96])
    tick, ahead = random.choice(shown, 200), random.choice(AHEAD, 200)
    found = builder.rows(sight, tick, random.integers(0, 6, 200), ahead)
    assert_columns(builder, found, [slow_row(train, *map(int, pair)) for pair in zip(tick, ahead, strict=True)])
    gone = np.isnan(found[:, builder.names.index("temperature_c")])
    assert 0.01 < gone.mean() < 0.2, "in the gap"


@pytest.mark.parametrize("origin", [96 * 16 + 33, 96 * 17 - 1])
def test_rows_of_a_forecast_are_those_of_a_slow_loop(town: Panel, train: Panel, origin: int) -> None:
    builder = fitted_on(train)
    seen = town.between(0, origin + 1)
    found = builder.all_rows(builder.sight(seen, np.arange(6), 96), AHEAD)
    assert_columns(builder, found, [slow_row(town, origin, ahead) for _ in range(6) for ahead in AHEAD])


def test_a_share_of_the_origins_of_training_is_shown_no_weather(train: Panel) -> None:
    dropped = drawn(len(train))
    assert DROPPED - 0.03 < dropped.mean() < DROPPED + 0.03
    whole = replace(train, weather=replace(train.weather, issued=train.weather.issued))
    tick = np.arange(20, 600)
    for channel in (BIKES, 3):
        builder = FeatureBuilder(channel, 15)
        sight = builder.fit(whole)
        found = builder.rows(sight, tick, np.zeros_like(tick), np.full_like(tick, 4))
        hidden = np.isnan(found[:, [builder.names.index(name) for name in WEATHER]])
        np.testing.assert_array_equal(hidden.all(axis=1), dropped[tick])
        assert not hidden[~dropped[tick]].any()
        assert not np.isnan(found[:, builder.names.index(SCHOOL[0])]).any(), "the others are shown"


def test_what_training_says_too_little_of_is_not_told(train: Panel) -> None:
    assert {*WEATHER, *SCHOOL, *EVENT} < set(fitted_on(train).names)
    week = KnownWeather(train.weather.issued[-7 * 24 :], train.weather.values[-7 * 24 :])
    assert not set(WEATHER) & set(fitted_on(replace(train, weather=week)).names)
    assert not set(WEATHER) & set(fitted_on(replace(train, weather=KnownWeather.none())).names)
    for days, gone in (
        (SpecialDays(None, train.special_days.events), SCHOOL),
        (SpecialDays("C"), EVENT),
        (SpecialDays("C", ((date(2020, 1, 1), date(2030, 1, 1)),)), EVENT),
    ):
        assert not set(gone) & set(fitted_on(replace(train, special_days=days)).names)
    after = train.between(96 * 12, len(train))  # from 4 November on, there is school
    assert not set(SCHOOL) & set(fitted_on(after).names)


def test_a_builder_that_is_kept_says_the_same_and_an_old_one_knows_nothing(town: Panel, train: Panel) -> None:
    builder = fitted_on(train)
    again = FeatureBuilder.restored(BIKES, 15, builder.state())
    nothing = replace(town, weather=KnownWeather.none())
    for seen in (town, nothing):
        rows = [one.all_rows(one.sight(seen, np.arange(6), 96), AHEAD) for one in (builder, again)]
        np.testing.assert_array_equal(rows[0], rows[1])
    old = {name: value for name, value in builder.state().items() if name not in Outside.nothing().state()}
    before = FeatureBuilder.restored(BIKES, 15, old)
    assert set(builder.names) - set(before.names) == {*WEATHER, *SCHOOL, *EVENT}
    rows = [one.all_rows(one.sight(town, np.arange(6), 96), AHEAD) for one in (builder, before)]
    np.testing.assert_array_equal(rows[0][:, : rows[1].shape[1]], rows[1])


# -- what stands in ------------------------------------------------------------------------------------------


def test_the_usual_weather_is_the_median_of_that_hour_and_month(train: Panel) -> None:
    usual = Outside.fit(train).usual
    weather = train.weather
    hours = weather.issued.astype("datetime64[h]")
    for month, hour in ((9, 5), (10, 17)):
        here = (hours.astype("datetime64[M]").astype(int) % 12 == month) & (hours.astype(int) % 24 == hour)
        assert here.sum() >= 3
        wanted = [weather.values[here, 1 if name == "precipitation_mm" else 0, VARIABLES.index(name)] for name in TOLD]
        np.testing.assert_allclose(usual[month, hour], np.median(wanted, axis=1), rtol=1e-6)
    assert np.isnan(usual[:9]).all()
    assert np.isnan(usual[11]).all()


def aged(panel: Panel, age: timedelta) -> Panel:
    """The panel's newest forecast is so old at its last tick."""
    weather = panel.weather.until(panel.ticks[-1:])
    issued = weather.issued[-1:] - (weather.issued[-1] - panel.ticks[-1].astype("datetime64[us]")) - np.timedelta64(age)
    return replace(panel, weather=KnownWeather(issued, weather.values[-1:]))


def test_the_source_is_the_best_that_there_is(town: Panel, train: Panel) -> None:
    outside = fitted_on(train).outside
    second = timedelta(seconds=1)
    assert outside.source(aged(town, FRESH)) is WeatherSource.FORECAST
    assert outside.source(aged(town, FRESH + second)) is WeatherSource.CACHE
    assert outside.source(aged(town, OLDEST)) is WeatherSource.CACHE
    assert outside.source(aged(town, OLDEST + second)) is WeatherSource.CLIMATOLOGY
    december = replace(town, ticks=town.ticks + np.timedelta64(40, "D"), weather=KnownWeather.none())
    assert outside.source(december) is WeatherSource.NONE, "of December nothing is known"
    assert Outside.nothing().source(town) is WeatherSource.NONE


# -- models --------------------------------------------------------------------------------------------------

SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=6)), targets=("bikes",))


@pytest.fixture(scope="module", params=["linear", "xgboost"])
def model(request: pytest.FixtureRequest, train: Panel) -> Iterator[Forecaster]:
    made = forecaster(request.param)(SPEC)
    made.most_rows = 12_000  # type: ignore[attr-defined]
    made.fit(train, train.ticks[-1].astype("datetime64[s]").item().replace(tzinfo=UTC))
    return made  # type: ignore[return-value]


def said(model: Forecaster, panel: Panel, places: list[int]) -> npt.NDArray[np.float32]:
    return np.concatenate([one.pmf for one in model.predict(panel, panel.ticks[places])])


PLACES = [96 * 16 + 7, 96 * 17 + 50]


def test_no_forecast_moves_when_weather_that_is_issued_later_changes(model: Forecaster, town: Panel) -> None:
    before = said(model, town, PLACES)
    other = forecasts_for(town.ticks, seed=99)
    for place, expected in zip(PLACES, before, strict=True):
        known = town.weather.issued <= town.ticks[place].astype("datetime64[us]")
        values = np.where(known[:, None, None], town.weather.values, other.values)
        changed = replace(town, weather=KnownWeather(town.weather.issued, values))
        np.testing.assert_array_equal(said(model, changed, [place])[0], expected)
    assert not np.array_equal(said(model, replace(town, weather=other), PLACES), before), "it does read the weather"


def test_a_fit_reads_no_weather_that_is_issued_after_its_end(town: Panel, train: Panel) -> None:
    until = train.ticks[-1].astype("datetime64[s]").item().replace(tzinfo=UTC)
    told = []
    for seed in (0, 99):
        late = town.weather.issued > train.ticks[-1].astype("datetime64[us]")
        values = np.where(late[:, None, None], forecasts_for(town.ticks, seed).values, town.weather.values)
        made = forecaster("linear")(SPEC)
        made.fit(replace(town, weather=KnownWeather(town.weather.issued, values)), until)
        told.append(said(made, town, PLACES))
    np.testing.assert_array_equal(told[0], told[1])


def test_a_model_that_knows_weather_answers_without_it(model: Forecaster, town: Panel) -> None:
    """From what is usual; where that is not known either, from none; an answer is whole in any case, and it is said."""
    nothing = replace(town, weather=KnownWeather.none())
    assert model.weather_of(nothing) is WeatherSource.CLIMATOLOGY
    usual = said(model, nothing, PLACES)
    builder = model.targets[0].builder  # type: ignore[attr-defined]
    learned = builder.outside
    builder.outside = replace(learned, usual=Outside.nothing().usual)
    try:
        assert model.weather_of(nothing) is WeatherSource.NONE
        none = said(model, nothing, PLACES)
        stale = aged(town, OLDEST + timedelta(seconds=1))
        np.testing.assert_array_equal(said(model, stale, [len(town) - 1]), said(model, nothing, [len(town) - 1]))
    finally:
        builder.outside = learned
    for pmf in (usual, none):
        np.testing.assert_allclose(pmf.sum(axis=-1), 1, atol=1e-4)
    assert not np.array_equal(usual, none)
    assert not np.array_equal(said(model, town, PLACES), none)


# -- special days --------------------------------------------------------------------------------------------


def number(day: date) -> int:
    return (day - EPOCH).days


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2021, 12, 18), date(2022, 1, 2)),
        (date(2024, 10, 19), date(2024, 11, 3)),
        (date(2024, 12, 21), date(2025, 1, 5)),
        (date(2025, 2, 15), date(2025, 3, 2)),
        (date(2026, 10, 17), date(2026, 11, 1)),
        (date(2027, 2, 6), date(2027, 2, 21)),
    ],
)
def test_holidays_of_zone_c_begin_and_end_as_decreed(first: date, last: date) -> None:
    days = np.arange(number(first) - 1, number(last) + 2)
    np.testing.assert_array_equal(SpecialDays("C").school(days), [0, *[1] * (len(days) - 2), 0])


def test_zones_differ_and_other_countries_have_none() -> None:
    february = np.arange(number(date(2025, 2, 1)), number(date(2025, 3, 20)))
    zones = [SpecialDays(zone).school(february) for zone in "ABC"]
    assert len({tuple(zone) for zone in zones}) == 3
    assert all(zone.sum() == 16 for zone in zones)
    for nowhere in (SpecialDays().within("Europe/Oslo"), SpecialDays("none").within("Europe/Paris")):
        assert np.isnan(nowhere.school(february)).all()
    np.testing.assert_array_equal(SpecialDays().within("Europe/Paris").school(february), zones[2])


def test_years_that_are_not_covered_are_not_known() -> None:
    far = np.arange(number(date(2031, 7, 1)), number(date(2031, 7, 10)))
    assert np.isnan(SpecialDays("C").school(far)).all()
    both = SpecialDays("C").school(np.array([number(date(2024, 12, 25)), number(date(2031, 7, 14))]))
    np.testing.assert_array_equal(both, [1, np.nan])
    assert np.isnan(SpecialDays("C").school(np.array([number(date(1980, 1, 1))]))).all()


def test_without_the_package_holidays_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "vacances_scolaires_france", None)
    special_days._school_days.cache_clear()
    try:
        assert np.isnan(SpecialDays("C").school(np.array([number(date(2024, 12, 25))]))).all()
    finally:
        special_days._school_days.cache_clear()


def test_events_and_zone_come_from_the_settings() -> None:
    events = tuple(
        EventSettings.model_validate(said)
        for said in ({"name": "Music", "date": "2026-06-21"}, {"name": "T", "from": "2026-07-04", "to": "2026-07-06"})
    )
    system = SystemSettings(url="u", calendar=CalendarSettings(school_zone="B", events=events))
    days = SpecialDays.of(Settings(systems={"town": system}), "town")
    assert days.school_zone == "B"
    june = np.arange(number(date(2026, 6, 20)), number(date(2026, 7, 9)))
    on = [day for day, event in zip(june, days.event(june), strict=True) if event]
    assert [EPOCH + timedelta(days=int(day)) for day in on] == [
        date(2026, 6, 21), date(2026, 7, 4), date(2026, 7, 5), date(2026, 7, 6),
    ]  # fmt: skip
    assert SpecialDays.of(Settings(), "elsewhere") == SpecialDays()
    assert SpecialDays.of(Settings(), "velib").school_zone == "C"
