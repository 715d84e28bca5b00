"""The city's weather forecast, as issued at any moment, in the form of the Open-Meteo API (/v1/forecast)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from velib_predictor.simulation.weather import Climate, Hours, Weather
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import from_micros, to_micros

_HOUR_US = 3_600_000_000
_DAY_H = 24
_UTC = ("utc", "gmt", "etc/utc", "")
UNITS = {
    "temperature_2m": "°C",
    "apparent_temperature": "°C",
    "precipitation": "mm",
    "rain": "mm",
    "snowfall": "cm",
    "wind_speed_10m": "km/h",
    "wind_gusts_10m": "km/h",
    "cloud_cover": "%",
    "is_day": "",
}
_OF_THE_HOUR_BEFORE = ("precipitation", "rain", "snowfall", "wind_gusts_10m")
_PREVIOUS = "_previous_day"
_GUSTS = 1.8


def forecast(climate: Climate, query: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """The answer to a query, as issued at `now` (UTC).

    Takes latitude, longitude, hourly, forecast_days (1 to 16), past_days (0 to 92), timeformat and timezone (UTC
    alone). A variable with `_previous_dayN` is as it was forecast N days before each hour, as in the Previous Runs API.

    Raises:
        UsageError: the query cannot be answered; the message is the API's `reason`.
    """
    latitude, longitude = _number(query, "latitude", 90), _number(query, "longitude", 180)
    ahead, back = _days(query, "forecast_days", 7, 1, 16), _days(query, "past_days", 0, 0, 92)
    if query.get("timezone", "").lower() not in _UTC:
        raise UsageError("Invalid timezone: this city's weather is given in UTC alone")
    this_hour = to_micros(now) // _HOUR_US
    midnight = this_hour - this_hour % _DAY_H
    hours = np.arange(midnight - back * _DAY_H, midnight + ahead * _DAY_H)
    units = {"time": "unixtime" if query.get("timeformat") == "unixtime" else "iso8601"}
    hourly: dict[str, list[Any]] = {"time": _times(hours, units["time"])}
    for asked in filter(None, query.get("hourly", "").split(",")):
        name, _, days = asked.partition(_PREVIOUS)
        if name not in UNITS or (asked != name and days not in "1234567"):
            raise UsageError(f"Cannot initialize hourly variable from invalid String value {asked}.")
        issued = np.minimum(hours - _DAY_H * int(days), this_hour) if days else np.full_like(hours, this_hour)
        hourly[asked] = variable(climate, name, hours, issued)
        units[asked] = UNITS[name]
    return {
        "latitude": latitude,
        "longitude": longitude,
        "generationtime_ms": 0.1,
        "utc_offset_seconds": 0,
        "timezone": "GMT",
        "timezone_abbreviation": "GMT",
        "elevation": 40.0,
        "hourly_units": units,
        "hourly": hourly,
    }


def _number(query: Mapping[str, str], name: str, most: float) -> float:
    try:
        value = float(query[name])
    except (KeyError, ValueError):
        raise UsageError(f"Parameter '{name}' must be given as a number.") from None
    if not -most <= value <= most:
        raise UsageError(f"{name.capitalize()} must be in range of -{most} to {most}°. Given: {value}.")
    return value


def _days(query: Mapping[str, str], name: str, usual: int, low: int, high: int) -> int:
    text = query.get(name, str(usual))
    if not text.isdecimal() or not low <= int(text) <= high:
        raise UsageError(f"Parameter '{name}' is invalid. Allowed range {low} to {high}. Given: {text}.")
    return int(text)


def _times(hours: Hours, form: str) -> list[Any]:
    if form == "unixtime":
        return [int(hour) * 3_600 for hour in hours]
    return [f"{from_micros(int(hour) * _HOUR_US):%Y-%m-%dT%H:%M}" for hour in hours]


def variable(climate: Climate, name: str, hours: Hours, issued: Hours) -> list[float] | list[int]:
    """What was said of each hour, in the hour `issued`: of rain, snow and gusts, of the hour before it."""
    before = 1 if name in _OF_THE_HOUR_BEFORE else 0
    return _values(name, hours, climate.forecast(hours - before, issued))


def _values(name: str, hours: Hours, weather: Weather) -> list[float] | list[int]:
    cold = weather.temperature_c <= 0.5
    match name:
        case "temperature_2m":
            values = weather.temperature_c
        case "apparent_temperature":
            values = weather.temperature_c - 0.08 * weather.wind_kmh
        case "precipitation":
            values = weather.rain_mm
        case "rain":
            values = np.where(cold, 0.0, weather.rain_mm)
        case "snowfall":
            values = np.where(cold, 0.7 * weather.rain_mm, 0.0)
        case "wind_speed_10m":
            values = weather.wind_kmh
        case "wind_gusts_10m":
            values = _GUSTS * weather.wind_kmh
        case "cloud_cover":
            return [int(value) for value in np.rint(weather.cloud_percent)]
        case _:  # is_day; by the sun of Paris at an equinox, in UTC
            return [int(6 <= hour % _DAY_H < 18) for hour in hours]
    return [round(float(value), 2 if name in ("precipitation", "rain", "snowfall") else 1) for value in values]
