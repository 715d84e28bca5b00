"""Weather without memory, forecasts whose error grows with the lead, and the Open-Meteo API around both."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from tests.test_simulation.small import START, city
from velib_predictor.simulation.open_meteo import UNITS, forecast
from velib_predictor.simulation.weather import ISSUED_EVERY_H, Climate
from velib_predictor.utils.errors import UsageError

HOURS = np.arange(490_000, 490_000 + 2 * 8_766)
QUERY = {"latitude": "48.85", "longitude": "2.35", "timeformat": "unixtime", "timezone": "UTC"}
NOW = int(START.timestamp()) // 3600


def test_the_weather_of_an_hour_is_always_the_same() -> None:
    climate = Climate.make(3)
    whole = climate.actual(HOURS[:100])
    part = Climate.make(3).actual(HOURS[40:41])
    assert [series[40] for series in whole] == [series[0] for series in part]
    assert not np.array_equal(Climate.make(4).actual(HOURS[:100]).rain_mm, whole.rain_mm)


def test_it_is_like_the_weather_of_paris() -> None:
    years = Climate.make(1).actual(HOURS)
    assert 0.07 < (years.rain_mm > 0).mean() < 0.2
    assert 400 < years.rain_mm.sum() / 2 < 1_100, "mm a year; Paris has about 640"
    assert 10 < years.temperature_c.mean() < 15
    month = (HOURS / 8_766 % 1 * 12).astype(int)
    july, january = years.temperature_c[month == 6].mean(), years.temperature_c[month == 0].mean()
    assert 17 < july < 24
    assert 1 < january < 8


def test_the_error_of_a_forecast_grows_with_its_lead() -> None:
    climate = city().climate
    actual = climate.actual(HOURS)
    error = []
    for lead in (0, 3, 12, 48):
        said = climate.forecast(HOURS, HOURS - lead)
        error.append(np.sqrt(np.mean((said.temperature_c - actual.temperature_c) ** 2)))
    assert error[0] == 0, "what is now is known"
    assert 0.3 < error[1] < error[2] < error[3]
    assert error[3] < np.sqrt(2) * actual.temperature_c.std()
    wet = actual.rain_mm > 0.2
    day, week = climate.forecast(HOURS, HOURS - 24), climate.forecast(HOURS, HOURS - 168)
    assert (day.rain_mm[wet] > 0).mean() > 1.4 * (week.rain_mm[wet] > 0).mean(), "and still says something"
    assert (day.rain_mm[wet] > 0).mean() > 2 * (day.rain_mm[~wet] > 0).mean()


def test_a_forecast_stands_until_the_next_is_issued() -> None:
    climate = city().climate
    first = NOW - NOW % ISSUED_EVERY_H
    ahead = np.arange(first + 6, first + 80)
    one = climate.forecast(ahead, first)
    np.testing.assert_array_equal(one.rain_mm, climate.forecast(ahead, first + ISSUED_EVERY_H - 1).rain_mm)
    other = climate.forecast(ahead, first + ISSUED_EVERY_H)
    assert not np.array_equal(one.temperature_c, other.temperature_c)
    assert np.corrcoef(one.temperature_c, other.temperature_c)[0, 1] > 0.9, "which is not quite another one"


def ask(**more: str) -> dict[str, Any]:
    return forecast(city().climate, QUERY | more, START)


def test_the_shape_is_that_of_open_meteo() -> None:
    answer = ask(hourly=",".join(UNITS), forecast_days="2", past_days="1")
    times = answer["hourly"]["time"]
    assert len(times) == 72
    assert times[0] == datetime(2026, 10, 5, tzinfo=UTC).timestamp()
    assert set(np.diff(times)) == {3600}
    assert set(answer["hourly"]) == {"time", *UNITS} == set(answer["hourly_units"])
    assert all(len(series) == 72 for series in answer["hourly"].values())
    assert (answer["utc_offset_seconds"], answer["hourly_units"]["time"]) == (0, "unixtime")
    assert ask(timeformat="iso8601")["hourly"]["time"][1] == "2026-10-06T01:00"
    assert len(ask()["hourly"]["time"]) == 7 * 24


def test_it_says_what_was_known_at_the_time() -> None:
    hourly = ask(hourly="temperature_2m,temperature_2m_previous_day1", past_days="2")["hourly"]
    hours = np.array(hourly["time"]) // 3600
    climate = city().climate
    np.testing.assert_allclose(hourly["temperature_2m"], climate.forecast(hours, NOW).temperature_c, atol=0.051)
    before = climate.forecast(hours, np.minimum(hours - 24, NOW)).temperature_c
    np.testing.assert_allclose(hourly["temperature_2m_previous_day1"], before, atol=0.051)
    past = hours <= NOW
    np.testing.assert_allclose(
        np.array(hourly["temperature_2m"])[past], climate.actual(hours[past]).temperature_c, atol=0.051
    )


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"latitude": "91"}, "Latitude must be in range"),
        ({"longitude": "east"}, "longitude"),
        ({"hourly": "temperature_2m,fog"}, "fog"),
        ({"hourly": "rain_previous_day9"}, "rain_previous_day9"),
        ({"forecast_days": "17"}, "Allowed range 1 to 16"),
        ({"timezone": "Europe/Paris"}, "timezone"),
    ],
)
def test_a_query_that_cannot_be_answered(wrong: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ask(**wrong)
