"""The provider of weather forecasts against a real server of Open-Meteo's form, and all that one can do wrong."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_simulation.small import START, city, living
from velib_predictor.config.config import CollectorSettings
from velib_predictor.data.known_weather import HOURS, VARIABLES, KnownWeather
from velib_predictor.data.transport import Fetched, HttpTransport
from velib_predictor.data.weather import OpenMeteo, Place, WeatherError, parse
from velib_predictor.simulation.clock import Clock
from velib_predictor.simulation.open_meteo import UNITS, forecast
from velib_predictor.simulation.server import CityServer

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
PARIS = Place(48.857, 2.347)
NOW = START + 25 * MINUTE


class Counting:
    """The real transport, and how often it was asked."""

    def __init__(self, clock: Clock) -> None:
        settings = CollectorSettings(attempts=2, total_timeout=timedelta(seconds=5))
        self._transport = HttpTransport(settings, clock=clock.now, backoff_s=0.001)
        self.asked: list[str] = []

    def get(self, url: str, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
        self.asked.append(url)
        return self._transport.get(url, etag=etag, last_modified=last_modified)


@pytest.fixture
def server() -> Iterator[CityServer]:
    with CityServer(living(), Clock(NOW, 0)) as server:
        yield server


@pytest.fixture
def transport(server: CityServer) -> Counting:
    return Counting(server.clock)


@pytest.fixture
def provider(server: CityServer, transport: Counting, tmp_path: Path) -> OpenMeteo:
    return OpenMeteo(server.weather_url, PARIS, transport, tmp_path / "weather" / "city.json")


def issued(weather: KnownWeather | None) -> datetime:
    assert weather is not None
    assert len(weather) == 1
    return datetime.fromisoformat(f"{weather.issued[0]}+00:00")


def later(server: CityServer, ahead: timedelta) -> datetime:
    """Let so much time pass."""
    server.clock.set(server.clock.now() + ahead)
    return server.clock.now()


def test_it_is_the_forecast_as_the_city_issued_it(provider: OpenMeteo, server: CityServer) -> None:
    year = int(NOW.timestamp()) // 3600 + np.arange(8_766)
    wet = int(np.argmax(city().climate.actual(year[:2_000]).rain_mm))
    now = later(server, (wet - 3) * HOUR)
    weather = provider.latest(now)
    assert issued(weather) == now
    assert weather is not None
    hours = int(now.timestamp()) // 3600 + np.arange(HOURS - 1)
    said = city().climate.forecast(hours, int(hours[0]))
    origin = np.full(len(hours), np.datetime64(now.replace(tzinfo=None)))
    found = weather.at(origin, (hours * 3600 + 1800).astype("datetime64[s]"))
    for name, wanted, rounding in (
        ("temperature_c", said.temperature_c, 0.051),
        ("wind_kmh", said.wind_kmh, 0.051),
        ("precipitation_mm", said.rain_mm, 0.0051),  # in the hour in which the target lies
        ("cloud_percent", said.cloud_percent, 0.51),
    ):
        np.testing.assert_allclose(found[:, VARIABLES.index(name)], wanted, atol=rounding, err_msg=name)
    assert (said.rain_mm > 0).any(), "else the hour of the rain is not tested"


def test_it_asks_once_an_hour(provider: OpenMeteo, server: CityServer, transport: Counting) -> None:
    first = provider.latest(NOW)
    assert issued(provider.latest(later(server, 50 * MINUTE))) == NOW
    again = OpenMeteo(provider.url, PARIS, transport, provider.cache)  # a program that is started anew
    assert again.latest(server.clock.now()).same(first)  # type: ignore[union-attr, arg-type]
    assert len(transport.asked) == 1
    assert issued(provider.latest(later(server, 10 * MINUTE))) == NOW + HOUR
    assert len(transport.asked) == 2
    assert "latitude=48.857&longitude=2.347" in transport.asked[0]


@pytest.mark.parametrize(
    "faults", [{"status": 500}, {"status": 429}, {"refuse": True}, {"cut": True}, {"truncate": 0.3}]
)
def test_what_was_said_last_stands_in_for_a_day(
    provider: OpenMeteo, server: CityServer, faults: dict[str, Any]
) -> None:
    first = provider.latest(NOW)
    assert first is not None
    server.weather_faults.set(**faults)
    for ahead in (HOUR, 22 * HOUR):
        assert first.same(provider.latest(later(server, ahead)))  # type: ignore[arg-type]
    assert provider.latest(later(server, 2 * HOUR)) is None
    server.weather_faults.clear()
    assert issued(provider.latest(server.clock.now())) == NOW + 25 * HOUR


@pytest.mark.parametrize("faults", [{"status": 503}, {"refuse": True}])
def test_without_an_answer_ever_there_is_none(provider: OpenMeteo, server: CityServer, faults: dict[str, Any]) -> None:
    server.weather_faults.set(**faults)
    assert provider.latest(NOW) is None
    assert not provider.cache.exists()


def test_a_server_that_is_gone_or_silent_costs_a_time_out_only(tmp_path: Path, server: CityServer) -> None:
    import socket

    settings = CollectorSettings(attempts=1, read_timeout=timedelta(seconds=0.3), total_timeout=timedelta(seconds=1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        transport = HttpTransport(settings, clock=server.clock.now)
        provider = OpenMeteo(f"http://127.0.0.1:{port}/v1/forecast", PARIS, transport, tmp_path / "w.json")
        assert provider.latest(NOW) is None
    assert provider.latest(NOW) is None  # nobody listens there any more


def test_a_server_that_repeats_itself_is_believed_for_a_day(provider: OpenMeteo, server: CityServer) -> None:
    provider.latest(NOW)
    server.weather_faults.set(freeze=True)
    first = provider.latest(later(server, HOUR))
    server.weather_faults.set(freeze=True)
    assert issued(first) == NOW + HOUR
    assert issued(provider.latest(later(server, 22 * HOUR))) == NOW + 23 * HOUR
    assert provider.latest(later(server, 2 * HOUR)) is None, "it says what it said 25 hours ago"
    server.weather_faults.clear()
    assert issued(provider.latest(server.clock.now())) == NOW + 25 * HOUR


@pytest.mark.parametrize("damage", [b"", b"{", b'{"asked": 1}', b"\xff\xfe"])
def test_a_damaged_cache_is_as_none(provider: OpenMeteo, server: CityServer, damage: bytes) -> None:
    provider.latest(NOW)
    provider.cache.write_bytes(damage)
    assert issued(provider.latest(later(server, MINUTE))) == NOW + MINUTE
    server.weather_faults.set(status=500)
    provider.cache.write_bytes(damage)
    assert provider.latest(later(server, HOUR)) is None


def test_the_cache_is_of_one_question_and_keeps_no_key(server: CityServer, transport: Counting, tmp_path: Path) -> None:
    cache = tmp_path / "city.json"
    keyed = OpenMeteo(f"{server.weather_url}?apikey=hunter2", PARIS, transport, cache)
    assert issued(keyed.latest(NOW)) == NOW
    assert "apikey=hunter2&latitude" in transport.asked[0]
    assert "hunter2" not in cache.read_text()
    kept = json.loads(cache.read_text())
    assert kept["fetched_at"] == "2026-10-06T05:25:00Z"
    assert set(kept["body"]["hourly"]) == {"time", *UNITS} - {"is_day"}
    other = OpenMeteo(server.weather_url, Place(45.76, 4.84), transport, cache)
    server.weather_faults.set(status=500)
    assert other.latest(later(server, MINUTE)) is None, "the weather of Paris is not that of Lyon"


def test_a_cache_that_cannot_be_written_costs_nothing_else(provider: OpenMeteo) -> None:
    provider.cache.parent.write_text("a file where a folder should be")
    assert issued(provider.latest(NOW)) == NOW


# -- answers that are not believed ---------------------------------------------------------------------------


def answer() -> dict[str, Any]:
    query = {"latitude": "48.9", "longitude": "2.3", "timeformat": "unixtime", "forecast_days": "4"}
    return forecast(city().climate, query | {"hourly": ",".join(UNITS)}, NOW)


def test_an_answer_in_order_is_believed_and_null_is_not_known() -> None:
    document = answer()
    document["hourly"]["rain"][7] = None  # an hour after START
    weather = parse(json.dumps(document).encode(), NOW)
    rain = weather.values[0, :, VARIABLES.index("rain_mm")]
    assert np.flatnonzero(np.isnan(rain)).tolist() == [2]
    assert not np.isnan(weather.values[0, :, VARIABLES.index("wind_kmh")]).any()


def hourly(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda document: change(document["hourly"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: d.clear() or d.update(error=True, reason="Daily limit exceeded"), "Daily limit exceeded"),
        (lambda d: d.pop("hourly"), "no hourly values"),
        (lambda d: d.update(hourly=[1, 2]), "no hourly values"),
        (lambda d: d.pop("hourly_units"), "no hourly values and units"),
        (hourly(lambda h: h.pop("time")), "no times"),
        (hourly(lambda h: h.update(time=[])), "no times"),
        (hourly(lambda h: h.update(time=["2026-10-06T00:00"] * 96)), "no times"),
        (hourly(lambda h: h["time"].__setitem__(5, h["time"][5] + 60)), "not whole hours"),
        (hourly(lambda h: h["time"].reverse()), "not whole hours"),
        (hourly(lambda h: h.update(time=[t + 1800 for t in h["time"]])), "not whole hours"),
        (hourly(lambda h: h.update(time=[t - 7 * 86_400 for t in h["time"]])), "does not speak of now"),
        (hourly(lambda h: h.update(time=[t + 86_400 for t in h["time"]])), "does not speak of now"),
        (hourly(lambda h: h.pop("precipitation")), "precipitation has not one value"),
        (hourly(lambda h: h["rain"].pop()), "rain has not one value"),
        (hourly(lambda h: h.update(rain={"0": 1})), "rain has not one value"),
        (hourly(lambda h: h["temperature_2m"].__setitem__(3, 900.0)), "temperature_2m cannot be 900"),
        (hourly(lambda h: h["precipitation"].__setitem__(3, -0.1)), "precipitation cannot be -0.1"),
        (hourly(lambda h: h["cloud_cover"].__setitem__(3, "80")), "cloud_cover cannot be '80'"),
        (hourly(lambda h: h["cloud_cover"].__setitem__(3, True)), "cloud_cover cannot be True"),
        (hourly(lambda h: h.update(rain=[None] * len(h["rain"]))), "rain is not known for any hour"),
        (lambda d: d["hourly_units"].update(temperature_2m="°F"), "temperature_2m is in '°F'"),
        (lambda d: d["hourly_units"].update(wind_speed_10m="m/s"), "wind_speed_10m is in 'm/s'"),
        (lambda d: d["hourly_units"].update(time="iso8601"), "not seconds since 1970"),
        (lambda d: d.update(utc_offset_seconds=7200), "not seconds since 1970"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_as_a_whole(spoil: Callable[[dict[str, Any]], object], said: str) -> None:
    document = answer()
    parse(json.dumps(document).encode(), NOW)
    spoil(document)
    with pytest.raises(WeatherError, match=said):
        parse(json.dumps(document).encode(), NOW)


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"null", b'{"hourly": NaN}'])
def test_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(WeatherError, match="is no weather forecast"):
        parse(body, NOW)


def test_not_a_number_is_refused() -> None:
    document = answer()
    document["hourly"]["rain"][8] = float("nan")
    with pytest.raises(WeatherError, match="no JSON"):
        parse(json.dumps(document).encode(), NOW)
