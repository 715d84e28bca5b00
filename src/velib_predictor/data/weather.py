"""The weather forecast of a place, from Open-Meteo or a server of its form: asked at most hourly, checked, kept.

The answer is believed as a whole or not at all. What was last believed is kept beside the time at which it came, and
stands in, until it is a day old, where the server cannot be reached or says what cannot be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import numpy as np

from velib_predictor.data.fields import without_query
from velib_predictor.data.known_weather import HOURS, OLDEST, VARIABLES, KnownWeather
from velib_predictor.data.tidy import WEATHER_SPANS
from velib_predictor.data.transport import FetchError, Transport
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger
from velib_predictor.utils.temporal import format_time, parse_time, to_micros

EVERY = timedelta(hours=1)
SLACK = timedelta(minutes=5)
"""So much earlier it may be asked all the same: jobs are not punctual."""
_FROZEN_AFTER = timedelta(hours=24)
"""An answer begins with its day's first hour, so one that stays the same for longer is not made anew."""
_DAYS = 4
"""That are asked for, with today: at its last minute the hours that are kept reach into the fourth."""
_HOUR_S = 3_600
_NAMES: Mapping[str, tuple[str, str]] = {
    "temperature_c": ("temperature_2m", "°C"),
    "apparent_c": ("apparent_temperature", "°C"),
    "precipitation_mm": ("precipitation", "mm"),
    "rain_mm": ("rain", "mm"),
    "snowfall_cm": ("snowfall", "cm"),
    "wind_kmh": ("wind_speed_10m", "km/h"),
    "gusts_kmh": ("wind_gusts_10m", "km/h"),
    "cloud_percent": ("cloud_cover", "%"),
}
"""Open-Meteo's names and units."""
_log = get_logger(__name__)


class WeatherError(VelibError):
    """An answer that is not believed; the message says what is wrong with it."""


class Place(NamedTuple):
    """Degrees north and east."""

    lat: float
    lon: float


class _Kept(msgspec.Struct, frozen=True):
    """A believed answer on disk: what was asked, when it came, since when it has been the same, and its body."""

    asked: str
    fetched_at: str
    since: str
    body: msgspec.Raw

    @property
    def weather(self) -> KnownWeather:
        """The forecast in it."""
        return parse(bytes(self.body), parse_time(self.fetched_at))


@dataclass(frozen=True)
class OpenMeteo:
    """Forecasts of one place.

    Args:
        url: of the forecast API, such as https://api.open-meteo.com/v1/forecast.
        cache: file in which the last answer is kept.
    """

    url: str
    place: Place
    transport: Transport
    cache: Path

    def latest(self, now: datetime) -> KnownWeather | None:
        """The newest forecast that is to be had and not older than a day; None: there is none, and the log says why.

        The server is asked if the last answer is an hour old.
        """
        kept = self._read()
        if kept and timedelta(0) <= now - parse_time(kept.fetched_at) < EVERY - SLACK:
            return kept.weather
        try:
            return self._fetch(kept)
        except (FetchError, WeatherError) as error:
            # What has stayed the same says no more than when it was new.
            stands_in = kept if kept and timedelta(0) <= now - parse_time(kept.since) <= OLDEST else None
            instead = stands_in.fetched_at if stands_in else "none"
            _log.warning("no new weather forecast", reason=str(error), instead=instead)
            return stands_in.weather if stands_in else None

    @property
    def query(self) -> str:
        """The whole address that is asked."""
        names = ",".join(name for name, _ in _NAMES.values())
        asked = {
            "latitude": f"{self.place.lat:.3f}", "longitude": f"{self.place.lon:.3f}", "hourly": names,
            "forecast_days": _DAYS, "timeformat": "unixtime", "timezone": "UTC",
        }  # fmt: skip
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(asked, safe=',')}"

    def _fetch(self, kept: _Kept | None) -> KnownWeather:
        answer = self.transport.get(self.query)
        weather = parse(answer.body, answer.fetched_at, without_query(self.url))
        came = format_time(answer.fetched_at)
        since = came
        if kept and _hourly(bytes(kept.body)) == _hourly(answer.body):
            since = kept.since
            if answer.fetched_at - parse_time(since) > _FROZEN_AFTER:
                raise WeatherError(f"{without_query(self.url)} has said the same since {since}: it is frozen")
        self._write(_Kept(self._asked, came, since, msgspec.Raw(answer.body)))
        return weather

    @property
    def _asked(self) -> str:
        return self.query.partition("?")[2].partition("apikey=")[0]  # a key is nothing to be kept

    def _read(self) -> _Kept | None:
        try:
            kept = msgspec.json.decode(self.cache.read_bytes(), type=_Kept)
            kept.weather, parse_time(kept.since)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, VelibError) as error:
            _log.warning("the kept weather forecast cannot be used", file=str(self.cache), reason=str(error))
            return None
        return kept if kept.asked == self._asked else None

    def _write(self, kept: _Kept) -> None:
        partial = self.cache.with_name(f".{self.cache.name}.partial")
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(kept))
            partial.replace(self.cache)
        except OSError as error:
            _log.warning("the weather forecast could not be kept", file=str(self.cache), reason=str(error))


def parse(body: bytes, fetched_at: datetime, where: str = "the answer") -> KnownWeather:
    """An answer as a forecast that was known from `fetched_at` on.

    Raises:
        WeatherError: it has another shape or unit, its times are not whole hours one after the other or do not begin by
            now, or a value is none that weather can have.
    """

    def doubt(what: str) -> WeatherError:
        return WeatherError(f"{where} is no weather forecast: {what}")

    try:
        document: Any = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise doubt(f"it is no JSON ({error})") from None
    if not isinstance(document, dict):
        raise doubt("it is no JSON object")
    hourly, units = document.get("hourly"), document.get("hourly_units")
    if not isinstance(hourly, dict) or not isinstance(units, dict):
        raise doubt(f"it has no hourly values and units ({str(document.get('reason', ''))[:200] or 'nor a reason'})")
    times = hourly.get("time")
    if units.get("time") != "unixtime" or document.get("utc_offset_seconds", 0) != 0:
        raise doubt("its times are not seconds since 1970 UTC, which were asked for")
    if not isinstance(times, list) or not times or not all(type(time) is int for time in times):
        raise doubt("it has no times")
    if times[0] % _HOUR_S or any(after - before != _HOUR_S for before, after in pairwise(times)):
        raise doubt("its times are not whole hours, one after the other")
    begun = to_micros(fetched_at) // 1_000_000 // _HOUR_S * _HOUR_S
    if not times[0] <= begun < times[-1]:
        raise doubt(f"it does not speak of now: its hours are {times[0]} to {times[-1]}, now is {begun}")
    first = (begun - times[0]) // _HOUR_S
    values = np.full((1, HOURS, len(VARIABLES)), np.nan, dtype=np.float32)
    for column, name in enumerate(VARIABLES):
        theirs, unit = _NAMES[name]
        if units.get(theirs) != unit:
            raise doubt(f"{theirs} is in {units.get(theirs)!r}, expected {unit!r}")
        series = hourly.get(theirs)
        if not isinstance(series, list) or len(series) != len(times):
            raise doubt(f"{theirs} has not one value for each of the {len(times)} hours")
        least, most = WEATHER_SPANS[name]
        for value in series:
            if value is not None and (type(value) not in (int, float) or not least <= value <= most):
                raise doubt(f"{theirs} cannot be {value!r}; expected {least:g} to {most:g} {unit}, or null")
        told = series[first : first + HOURS]
        values[0, : len(told), column] = np.array(told, dtype=np.float32)  # null becomes NaN
        if np.isnan(values[0, :, column]).all():
            raise doubt(f"{theirs} is not known for any hour from now on")
    return KnownWeather(np.array([to_micros(fetched_at)], dtype="datetime64[us]"), values)


def _hourly(body: bytes) -> Any:
    return msgspec.json.decode(body)["hourly"]
