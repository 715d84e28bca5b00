"""Forecasts over HTTP: the numbers are those of the issue, at any time; nonsense is refused in words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_api.conftest import (
    CLOSED,
    HOUR,
    MINUTE,
    NEW,
    NOW,
    ORIGIN,
    PLAIN,
    SPEC,
    SYSTEM,
    UNSEEN,
    Api,
)

HALF_ROUNDED = 0.5 / 255
STATION = f"/v1/systems/{SYSTEM}/stations/{PLAIN}/forecast"
NETWORK = f"/v1/systems/{SYSTEM}/forecast"
FORECAST = {
    "station_id", "code", "name", "lat", "lon", "capacity", "issued_at", "observed_at", "model", "model_version",
    "weather", "state", "reason", "now", "forecasts", "meta",
}  # fmt: skip


def time(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    assert value.tzinfo is not None
    return value


def check_numbers(values: dict[str, Any], cdf: npt.NDArray[np.float64], k: int, tolerance: float) -> None:
    """What is said of one target against its distribution before rounding, float64[count]."""
    cdf = cdf[: k + 1]
    assert values["p_ge_1"] == pytest.approx(1 - cdf[0], abs=tolerance + 0.0006)
    assert values["mean"] == pytest.approx((1 - cdf).sum(), abs=k * tolerance + 0.006)
    for name, q in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9)):
        count = values[name]
        assert isinstance(count, int)
        assert 0 <= count <= k
        assert cdf[count] >= q - tolerance - 1e-6
        assert count == 0 or cdf[count - 1] < q + tolerance
    assert values["q10"] <= values["q50"] <= values["q90"]


@pytest.mark.parametrize("station", [PLAIN, "102", "106", UNSEEN])
def test_all_horizons_are_those_of_the_forecast_before_rounding(api: Api, station: str) -> None:
    answer = api.json(f"/v1/systems/{SYSTEM}/stations/{station}/forecast")
    assert set(answer) == FORECAST
    assert [time(point["valid_time"]) for point in answer["forecasts"]] == [ORIGIN + h for h in SPEC.horizons]
    k = int(api.made.issue.k[api.made.place(station)])
    for point in answer["forecasts"]:
        cdf = api.made.cdf(station, time(point["valid_time"]))
        for target, name in enumerate(SPEC.targets):
            check_numbers(point[name], cdf[target], k, HALF_ROUNDED)


def test_the_numbers_are_exactly_those_of_the_stored_issue(api: Api) -> None:
    """p_ge_1 = 1 - F(0), the mean is the sum of P(more than k), quantiles are the first count that reaches them."""
    for station in api.made.panel.stations.id[:-1]:
        answer = api.json(f"/v1/systems/{SYSTEM}/stations/{station}/forecast?min=2")
        for horizon, point in enumerate(answer["forecasts"]):
            for target, name in enumerate(SPEC.targets):
                steps = api.made.issue.cdf[api.made.place(station), horizon, target].astype(np.int64)
                suffix = "_if_open" if station == CLOSED else ""
                assert point[name]["p_ge_1" + suffix] == pytest.approx(1 - steps[0] / 255, abs=0.00051)
                assert point[name]["p_ge_2" + suffix] == pytest.approx(1 - steps[1] / 255, abs=0.00051)
                assert point[name]["mean"] == pytest.approx((255 - steps).sum() / 255, abs=0.0051)
                for column, q in (("q10", 10), ("q50", 50), ("q90", 90)):
                    first = next(count for count, step in enumerate(steps) if 100 * step >= q * 255)
                    assert point[name][column] == first


@pytest.mark.parametrize("ahead", [0, 1, 7.5, 15, 16, 40, 60, 61, 119, 120, 700, 1440])
def test_at_is_the_mixture_of_two_horizons(api: Api, ahead: float) -> None:
    when = ORIGIN + ahead * MINUTE
    for station in (PLAIN, "102", UNSEEN):
        answer = api.json(f"/v1/systems/{SYSTEM}/stations/{station}/forecast", params={"at": when.isoformat()})
        [point] = answer["forecasts"]
        assert time(point["valid_time"]) == when
        cdf, k = api.made.cdf(station, when), int(api.made.issue.k[api.made.place(station)])
        for target, name in enumerate(SPEC.targets):
            check_numbers(point[name], cdf[target], k, HALF_ROUNDED)


def test_at_a_horizon_it_says_the_same_as_the_list(api: Api) -> None:
    for point in api.json(STATION)["forecasts"]:
        assert api.json(STATION, params={"at": point["valid_time"]})["forecasts"] == [point]


def test_at_the_origin_it_is_what_was_there(api: Api) -> None:
    answer = api.json(STATION, params={"at": ORIGIN.isoformat()})
    for name, count in answer["now"].items():
        said = answer["forecasts"][0][name]
        assert (said["q10"], said["q90"], said["mean"]) == (count, count, count)
        assert said["p_ge_1"] == float(count >= 1)


@pytest.mark.parametrize(
    "text",
    [
        "2024-10-27T01:00:00Z",
        "2024-10-27T02:00:00+01:00",
        "2024-10-27T03:00:00%2B02:00",
        "2024-10-27T02:00:00+01:00".replace("+", "%2B"),
        "2024-10-27 02:00:00+01:00",
        "2024-10-27T02:00%2B0100",
    ],
)
def test_one_instant_in_many_spellings(api: Api, text: str) -> None:
    """Also with a "+" that was not escaped, which arrives as a blank."""
    [point] = api.json(f"{STATION}?at={text}")["forecasts"]
    assert time(point["valid_time"]) == datetime(2024, 10, 27, 1, tzinfo=UTC)


@pytest.mark.parametrize("path", [STATION, NETWORK])
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("at=2024-10-27T02:30:00", ["no offset", "2024-10-27T02:30:00Z"]),
        ("at=2024-10-27+02:30", ["no offset"]),
        ("at=2024-10-28T12:00:00Z", ["cannot be forecast", "reach to 1d"]),
        ("at=2024-10-27T00:14:59Z", ["cannot be forecast"]),
        ("at=9999-12-31T23:59:59Z", ["cannot be forecast"]),
        ("at=9999-12-31T23:59:59-12:00", ["outside the years"]),
        ("at=0001-01-01T00:00:00Z", ["cannot be forecast"]),
        ("at=tomorrow", ["'tomorrow' is not a time", "2024-11-05T08:10:00+01:00"]),
        ("at=", ["is not a time"]),
        ("horizon=soon", ["not a duration", "15m"]),
        ("horizon=PT0S", ["not a duration"]),
        ("horizon=-15m", ["not a duration"]),
        ("horizon=25h", ["reach 1d"]),
        ("horizon=999999999d", ["reach 1d"]),
        ("horizon=99999999999999999999d", ["too long"]),
        ("horizon=15m&at=2024-10-27T01:00:00Z", ["give one of them"]),
        ("min=0", ["min", "greater than or equal to 1"]),
        ("min=-3", ["min"]),
        ("min=1000000000", ["min", "less than or equal to 1000"]),
        ("min=1.5", ["min", "integer"]),
        ("min=NaN", ["min", "integer"]),
    ],
)
def test_what_cannot_be_meant_is_refused_with_advice(api: Api, path: str, query: str, words: list[str]) -> None:
    answer = api.get(f"{path}?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    said = answer.json()
    assert (said["status"], said["instance"]) == (422, path)
    assert [word for word in words if word not in said["detail"]] == []


@pytest.mark.parametrize(("horizon", "minutes"), [("15m", 15), ("PT15M", 15), ("1h30m", 90), ("90s", 1.5), ("P1D", 0)])
def test_a_horizon_counts_from_now(api: Api, horizon: str, minutes: float) -> None:
    """The longest one from now would lie just out of reach of an issue that is two minutes old: it is its end."""
    [point] = api.json(STATION, params={"horizon": horizon})["forecasts"]
    assert time(point["valid_time"]) == (NOW + minutes * MINUTE if minutes else ORIGIN + 24 * HOUR)
    assert api.json(STATION, params={"at": point["valid_time"]})["forecasts"] == [point]


@pytest.mark.parametrize("least", [1, 2, 5, 19, 20, 1000])
@pytest.mark.parametrize("query", [{}, {"at": (ORIGIN + 40 * MINUTE).isoformat()}, {"horizon": "1h"}])
def test_min_adds_the_probability_of_so_many(api: Api, least: int, query: dict[str, str]) -> None:
    plain, more = api.json(STATION, params=query), api.json(STATION, params={**query, "min": str(least)})
    for before, after in zip(plain["forecasts"], more["forecasts"], strict=True):
        cdf = api.made.cdf(PLAIN, time(after["valid_time"]))
        for target, name in enumerate(SPEC.targets):
            expected = 1 - cdf[target][least - 1] if least <= cdf.shape[-1] else 0.0
            value = after[name].pop(f"p_ge_{least}")
            assert value == pytest.approx(expected, abs=HALF_ROUNDED + 0.0006)
            if least == 1:
                after[name]["p_ge_1"] = value
        assert after == before


def test_a_station_answers_to_its_id_and_to_its_code(api: Api) -> None:
    code = api.json(STATION)["code"]
    assert code == "00004"
    for place in ("forecast", "forecast?horizon=30m", ""):
        by_id, by_code = (api.json(f"/v1/systems/{SYSTEM}/stations/{key}/{place}".rstrip("/")) for key in (PLAIN, code))
        assert by_id == by_code


# -- the whole network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [{"at": (ORIGIN + 40 * MINUTE).isoformat(), "min": "3"}, {"horizon": "1h"}, {}])
def test_the_network_says_what_each_station_says(api: Api, query: dict[str, str]) -> None:
    whole = api.json(NETWORK, params=query)
    when = time(whole["valid_time"])
    assert when == {0: NOW + 30 * MINUTE, 1: NOW + HOUR, 2: ORIGIN + 40 * MINUTE}[len(query)]
    assert [feature["id"] for feature in whole["features"]] == list(api.made.panel.stations.id)
    for feature in whole["features"]:
        single = api.json(
            f"/v1/systems/{SYSTEM}/stations/{feature['id']}/forecast",
            params={"at": when.isoformat(), "min": query.get("min", "1")},
        )
        properties = feature["properties"]
        [point] = single["forecasts"]
        for name in SPEC.targets:
            flat = {key.removeprefix(f"{name}_"): v for key, v in properties.items() if key.startswith(f"{name}_")}
            assert flat.pop("now") == single["now"][name]
            assert flat == (point[name] or {})
        for key in ("state", "reason", "code", "name", "capacity", "station_id"):
            assert properties[key] == single[key]
    assert whole["issued_at"] == single["issued_at"]
    assert whole["meta"] == single["meta"]


def test_the_network_is_valid_geojson(api: Api) -> None:
    """RFC 7946: longitude before latitude; a station without a place has a null geometry."""
    answer = api.get(NETWORK)
    assert answer.headers["content-type"] == "application/geo+json"
    whole, stations = answer.json(), api.made.panel.stations
    assert whole["type"] == "FeatureCollection"
    for feature, lat, lon in zip(whole["features"], stations.lat, stations.lon, strict=True):
        assert feature["type"] == "Feature"
        if feature["id"] == NEW:
            assert feature["geometry"] is None
        else:
            assert feature["geometry"] == {"type": "Point", "coordinates": [lon, lat]}
            assert (2 < lon < 3, 48 < lat < 49) == (True, True)
        assert not any(isinstance(value, dict | list) for value in feature["properties"].values()), "flat"


def test_the_network_is_asked_by_the_minute(api: Api) -> None:
    whole = api.json(NETWORK, params={"at": (ORIGIN + timedelta(minutes=40, seconds=59)).isoformat()})
    assert time(whole["valid_time"]) == ORIGIN + 40 * MINUTE


# -- times ---------------------------------------------------------------------------------------------------------


def test_times_have_the_offset_of_the_city_also_when_clocks_change(api: Api) -> None:
    answer = api.json(STATION)
    assert answer["issued_at"] == "2024-10-27T02:15:00+02:00"
    assert answer["observed_at"] == "2024-10-27T02:14:40+02:00"
    assert [point["valid_time"] for point in answer["forecasts"]] == [
        "2024-10-27T02:30:00+02:00",
        "2024-10-27T02:15:00+01:00",
        "2024-10-27T03:15:00+01:00",
        "2024-10-28T01:15:00+01:00",
    ]
