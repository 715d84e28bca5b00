"""A city is made from its seed alone, looks like Vélib's, and its rates follow the calendar and the weather."""

from dataclasses import fields
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_simulation.small import city
from velib_predictor.simulation.city import City, CityConfig
from velib_predictor.simulation.demand import FROM, MINUTE, SATURDAY, SUNDAY, TO, WORKDAY
from velib_predictor.simulation.layout import USES, Stations
from velib_predictor.simulation.profiles import PURPOSES
from velib_predictor.utils.errors import UsageError

PARIS = ZoneInfo("Europe/Paris")


def minutes(day: date, first_hour: int = 0, hours: int = 24) -> tuple[int, int]:
    """First and last minute since 1970 of local hours."""
    first = int(datetime(day.year, day.month, day.day, first_hour, tzinfo=PARIS).timestamp()) // 60
    return first, first + hours * 60


def riders_of(of: City, day: date, purpose: int | None = None) -> float:
    """Expected riders of a local day in dry mild weather."""
    kind, local = of.demand.local(np.arange(*minutes(day)))
    rates = of.demand.profile[kind, :, local]
    return float(rates.sum() if purpose is None else rates[:, purpose].sum())


def same(one: Stations, other: Stations) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Stations))


def test_the_seed_makes_the_city() -> None:
    one, again, other = (City.make(CityConfig(stations=20, seed=seed)) for seed in (7, 7, 8))
    assert same(one.stations, again.stations)
    assert np.array_equal(one.demand.destination, again.demand.destination)
    assert not same(one.stations, other.stations)


def test_it_looks_like_velib() -> None:
    stations = city(200).stations
    assert 26 <= np.median(stations.capacity) <= 33
    assert stations.capacity.min() >= 10
    assert stations.capacity.max() <= 75
    assert len(set(stations.id.tolist())) == len(set(stations.code)) == 200
    assert stations.id.max() > 2**32 > stations.id.min(), "ids go beyond 32 bits, as Vélib's"
    assert all(code.isdecimal() and len(code) in (4, 5) and code[0] != "0" for code in stations.code)
    assert np.abs(stations.lat - 48.8566).max() < 0.05
    np.testing.assert_allclose(stations.land.sum(axis=1), 1.0)
    gaps = stations.distance_m + np.diag(np.full(200, np.inf))
    assert gaps.min() > 100, "no two stations on one spot"
    assert (stations.near[:, 0] == np.arange(200)).all()
    assert (stations.near[:, 1] == gaps.argmin(axis=1)).all()


@pytest.mark.parametrize(
    ("day", "kind"),
    [
        (date(2026, 10, 6), WORKDAY),
        (date(2026, 10, 10), SATURDAY),
        (date(2026, 10, 11), SUNDAY),
        (date(2026, 7, 14), SUNDAY),
        (date(2026, 5, 14), SUNDAY),
        (date(2027, 5, 17), SUNDAY),
    ],
    ids=["tuesday", "saturday", "sunday", "bastille day", "ascension", "whit monday 2027"],
)
def test_kinds_of_day(day: date, kind: int) -> None:
    kinds, local = city().demand.local(np.arange(*minutes(day)))
    assert (kinds == kind).all()
    assert local.tolist() == list(range(1440))


def test_the_clock_change_is_followed() -> None:
    _, local = city().demand.local(np.arange(*minutes(date(2026, 10, 24), 12, 30)))
    assert local[13 * 60] == 60, "13 hours after noon it is 1:00"
    assert local[15 * 60] == 120, "and, two hours on, 2:00 for the second time"


def test_people_commute_on_workdays_only() -> None:
    commute, leisure = 0, 2
    tuesday, sunday, holiday = date(2026, 10, 6), date(2026, 10, 11), date(2026, 7, 14)
    assert riders_of(city(), tuesday, commute) > 4 * riders_of(city(), sunday, commute)
    assert riders_of(city(), tuesday, leisure) < riders_of(city(), date(2026, 10, 10), leisure)
    assert riders_of(city(), holiday) == pytest.approx(riders_of(city(), sunday))
    assert riders_of(city(), tuesday) == pytest.approx(80 * 30), "as configured"


def test_the_morning_goes_to_the_offices() -> None:
    many = city(120)
    hour = minutes(date(2026, 10, 6), 8, 1)
    riders, starts = many.demand.riders(*hour, 20, np.random.default_rng(0))
    land = many.stations.land
    start, end = (land[riders[field] % 120].mean(axis=0) for field in (FROM, TO))
    home, office = USES.index("home"), USES.index("office")
    assert start[home] > 1.2 * end[home]
    assert end[office] > 1.3 * start[office]
    assert (np.diff(riders[MINUTE]) >= 0).all()
    assert (riders[MINUTE, starts[:-1][np.diff(starts) > 0]] == np.arange(*hour)[np.diff(starts) > 0]).all()
    assert (riders[FROM] // 120 == riders[TO] // 120).all(), "nobody leaves a copy of the city"
    assert (riders[FROM] != riders[TO]).all()


def test_drawn_riders_are_as_many_as_the_rates_say() -> None:
    hour = minutes(date(2026, 10, 6), 17, 2)
    expected = city().demand.rates(*hour).sum()
    riders, _ = city().demand.riders(*hour, 50, np.random.default_rng(0))
    assert riders.shape[1] / 50 == pytest.approx(expected, abs=4 * np.sqrt(expected / 50))


def test_rain_and_cold_keep_people_at_home() -> None:
    demand = city().demand
    hours = np.arange(490_000, 500_000)
    weather, factor = demand.climate.actual(hours), demand.weather_factor(hours)  # [hour, purpose]
    wet, mild = weather.rain_mm > 0.5, weather.temperature_c > 10
    assert factor[~wet & mild].mean() > 1.4 * factor[wet & mild].mean()
    dry = weather.rain_mm == 0
    assert np.allclose(factor[dry & mild], 1.0)
    assert factor[dry & (weather.temperature_c < 3)].mean() < 0.9
    park, commute = (next(i for i, p in enumerate(PURPOSES) if p.end == end) for end in ("park", "office"))
    assert factor[wet, park].mean() < factor[wet, commute].mean()
    assert factor.min() > 0


@pytest.mark.parametrize("wrong", [{"stations": 1}, {"fill": 0.0}, {"ebikes": 1.5}, {"riders_a_station": -1.0}])
def test_what_makes_no_city_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        CityConfig(**wrong)  # type: ignore[arg-type]


def test_rates_do_not_depend_on_where_they_are_cut() -> None:
    first, last = minutes(date(2026, 10, 6), 7, 3)
    whole: npt.NDArray[np.float64] = city().demand.rates(first, last)
    parts = np.concatenate([city().demand.rates(first, first + 77), city().demand.rates(first + 77, last)])
    np.testing.assert_array_equal(whole, parts)
    assert datetime.fromtimestamp(first * 60, UTC).hour == 5
