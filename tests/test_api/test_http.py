"""HTTP as people expect it: caching, compression, methods, problems, the OpenAPI document, metrics and the page."""

import gzip
import json
import re
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.test_api.conftest import MINUTE, ORIGIN, PLAIN, SYSTEM, Api, add_issue, make
from velib_predictor.api.app import WEB, create_app
from velib_predictor.api.caching import Body, accepts_gzip
from velib_predictor.api.served import numbers
from velib_predictor.api.service import Service

HERE = f"/v1/systems/{SYSTEM}"
FORECAST = f"{HERE}/stations/{PLAIN}/forecast"
CACHED = ["/v1/systems", HERE, f"{HERE}/stations", f"{HERE}/stations/{PLAIN}", FORECAST, f"{FORECAST}?horizon=30m",
          f"{HERE}/forecast", f"{HERE}/scores"]  # fmt: skip
ALL = [*CACHED, "/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"]


def raw(api: Api, path: str, **headers: str) -> httpx.Response:
    """The answer as it came: httpx would ask for gzip by itself."""
    return api.get(path, headers={"Accept-Encoding": "identity", **headers})


# -- ETag ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CACHED)
def test_what_the_client_has_is_not_sent_again(api: Api, path: str) -> None:
    first = raw(api, path)
    again = raw(api, path, **{"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    for name in ("etag", "cache-control", "vary", "access-control-allow-origin"):
        assert again.headers[name] == first.headers[name]


def test_each_encoding_has_a_tag_of_its_own(api: Api) -> None:
    plain, packed = raw(api, FORECAST), raw(api, FORECAST, **{"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert plain.headers["etag"] != packed.headers["etag"]
    for mine, other, encoding in ((plain, packed, "identity"), (packed, plain, "gzip")):
        for tag, status in ((mine, 304), (other, 200)):
            asked = {"If-None-Match": tag.headers["etag"], "Accept-Encoding": encoding}
            assert raw(api, FORECAST, **asked).status_code == status


@pytest.mark.parametrize(
    ("form", "status"),
    [("{}", 304), ("W/{}", 304), ('"a", {} ,"b"', 304), ('"a",W/{}', 304), ("*", 304), ('"a"', 200),
     ("", 200), ("garbage", 200), ('"', 200)],
)  # fmt: skip
def test_tags_are_compared_weakly_and_may_be_many(api: Api, form: str, status: int) -> None:
    tag = raw(api, FORECAST).headers["etag"]
    assert raw(api, FORECAST, **{"If-None-Match": form.format(tag)}).status_code == status


def test_the_tag_changes_with_the_issue_and_only_with_what_is_said(own: Api) -> None:
    own.service.refresh()
    tags = {raw(own, FORECAST).headers["etag"]}
    own.service.refresh()
    tags.add(raw(own, FORECAST).headers["etag"])
    assert len(tags) == 1
    add_issue(own.database, replace(make().issue, issued_at=ORIGIN + 15 * MINUTE))
    own.service.refresh()
    tags.add(raw(own, FORECAST).headers["etag"])
    assert len(tags) == 2


# -- compression and caching ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [FORECAST, f"{HERE}/forecast", f"{HERE}/stations"])
def test_gzip_is_the_same_bytes_made_smaller(api: Api, path: str) -> None:
    plain = raw(api, path)
    with api.client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert gzip.decompress(packed) == plain.content
    assert len(packed) < len(plain.content) / 2
    assert int(answer.headers["content-length"]) == len(packed)
    assert plain.headers["vary"] == answer.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [("gzip", True), ("gzip, deflate, br", True), ("br;q=1.0, GZIP;q=0.5", True), ("*", True), ("gzip;q=1", True),
     ("gzip;q=0", False), ("gzip; q=0.000", False), ("identity", False), ("", False), ("br", False), ("*;q=0", False),
     ("gzip;q=0, *", False), ("gzipped", False)],
)  # fmt: skip
def test_gzip_only_for_those_who_take_it(accepted: str, expected: bool) -> None:
    assert accepts_gzip(accepted) is expected


@pytest.mark.parametrize(
    ("after_s", "whole", "counting_from_now"),
    [(0, 900, 30), (120, 780, 30), (890, 10, 10), (899.5, 1, 1), (900, 1, 1), (5000, 1, 1)],
)
def test_an_answer_is_kept_until_the_next_issue_is_due(
    own: Api, after_s: float, whole: int, counting_from_now: int
) -> None:
    own.service.refresh()
    own.clock.time = ORIGIN + timedelta(seconds=after_s)
    ages = {
        FORECAST: whole,
        f"{FORECAST}?at=2024-10-27T01:00:00Z": whole,
        f"{HERE}/forecast?at=2024-10-27T01:00:00Z": whole,
        f"{FORECAST}?horizon=1h": counting_from_now,
        f"{HERE}/forecast": counting_from_now,
        f"{HERE}/stations": 15,
    }
    for path, age in ages.items():
        said = own.get(path).headers["cache-control"]
        assert said == f"public, max-age={age}, stale-while-revalidate=60, stale-if-error=600", path


def test_the_first_issue_is_kept_until_the_next_one_on_the_grid(own: Api) -> None:
    """It was made when the feed was first heard, five minutes after a quarter."""
    at = ORIGIN + timedelta(minutes=5)
    add_issue(own.database, replace(make().issue, issued_at=at, made_at=at))
    own.clock.time = at + timedelta(minutes=1)
    own.service.refresh()
    assert "max-age=540," in own.get(f"{FORECAST}?at=2024-10-27T01:00:00Z").headers["cache-control"]


def test_in_a_fast_city_answers_are_kept_for_less(own: Api) -> None:
    own.service.refresh()
    own.clock.speed = 60.0
    assert "max-age=13," in own.get(FORECAST).headers["cache-control"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_what_the_process_says_of_itself_is_never_kept(api: Api, path: str) -> None:
    assert api.get(path).headers["cache-control"] == "no-store"


# -- methods -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL)
def test_head_is_get_without_a_body(api: Api, path: str) -> None:
    get, head = raw(api, path), api.client.head(path, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    names = {"content-type", "etag", "cache-control", "vary", *(["content-length"] if path != "/metrics" else [])}
    assert {n: head.headers.get(n) for n in names} == {n: get.headers.get(n) for n in names}


def test_head_of_nothing_is_404_and_of_what_is_known_304(api: Api) -> None:
    assert api.client.head("/nowhere").status_code == 404
    tag = raw(api, FORECAST).headers["etag"]
    known = api.client.head(FORECAST, headers={"Accept-Encoding": "identity", "If-None-Match": tag})
    assert known.status_code == 304


@pytest.mark.parametrize("path", [FORECAST, "/"])
def test_a_browser_may_ask_from_anywhere(api: Api, path: str) -> None:
    asked = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "if-none-match",
    }
    first = api.client.options(path, headers=asked)
    assert (first.status_code, first.content) == (204, b"")
    assert first.headers["access-control-allow-origin"] == "*"
    assert "GET" in first.headers["access-control-allow-methods"]
    assert first.headers["access-control-allow-headers"] == "*"
    assert first.headers["allow"] == "GET, HEAD, OPTIONS"
    assert api.client.options(path).status_code == 204


@pytest.mark.parametrize("path", [FORECAST, "/nowhere", f"{FORECAST}?min=0"])
@pytest.mark.parametrize("origin", [{}, {"Origin": "https://example.org"}])
def test_shared_caches_get_what_every_browser_may_read(api: Api, path: str, origin: dict[str, str]) -> None:
    answer = api.get(path, headers=origin)
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert "ETag" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_written(api: Api, method: str) -> None:
    answer = api.client.request(method, FORECAST, content=b"x" * 1000)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"{method} is not possible here" in answer.json()["detail"]


# -- problems ------------------------------------------------------------------------------------------------------


def test_a_problem_has_all_that_the_standard_asks_for(api: Api) -> None:
    answer = api.get(f"{FORECAST}?min=0&horizon=1h")
    said = answer.json()
    [error] = said.pop("errors")
    detail = said.pop("detail")
    assert said == {"type": "about:blank", "title": HTTPStatus(422).phrase, "status": 422, "instance": FORECAST}
    assert (error["parameter"], error["given"]) == ("min", "0")
    assert detail == f"min: {error['detail']}"


@pytest.mark.parametrize("host", ["[", "a/b", "", "evil.example:99999"])
def test_a_broken_host_breaks_nothing(api: Api, host: str) -> None:
    for path in ("/nowhere", "/v1/systems/x"):
        answer = api.get(path, headers={"Host": host})
        assert answer.status_code in (400, 404)


def test_a_mistake_in_the_program_is_a_problem_too(own: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    own.service.refresh()

    def broken(*_: object) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Service, "forecasts", broken)
    answer = own.get(FORECAST)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert own.get("/healthz").status_code == 200


# -- JSON ----------------------------------------------------------------------------------------------------------


def strict(text: str) -> Any:
    """JSON as the standard has it: neither NaN nor Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_no_nan_or_infinity_gets_out(own: Api) -> None:
    made = make()
    stations = made.issue.stations
    lat, lon = stations.lat.copy(), stations.lon.copy()
    lat[:3], lon[:3] = [np.nan, np.inf, 48.85], [2.35, 2.35, -np.inf]
    issue = replace(made.issue, stations=replace(stations, lat=lat, lon=lon), made_at=ORIGIN + MINUTE)
    add_issue(own.database, issue)
    own.service.refresh()
    known = own.service.systems[SYSTEM]
    table = known.current.stations
    for name, bad in ((stations.id[3], np.nan), (stations.id[4], np.inf)):
        table[name] = table[name]._replace(lat=bad)
    features = strict(own.get(f"{HERE}/forecast").text)["features"]
    assert [feature["geometry"] is None for feature in features[:4]] == [True, True, True, False]
    listed = strict(own.get(f"{HERE}/stations?format=geojson").text)["features"]
    assert [feature["geometry"] is None for feature in listed[2:6]] == [False, True, True, False]
    assert strict(own.get(f"{HERE}/stations?bbox=-180,-90,180,90").text)["stations"]
    assert strict(own.get(f"{HERE}/stations/{stations.id[4]}").text)["lat"] is None


def test_no_minus_zero_gets_out(api: Api) -> None:
    """Shares of a mixture add up to 1 within rounding only: above K, 1 - F must not become -0.0."""
    for seconds in range(7, 3600, 601):
        when = (ORIGIN + timedelta(seconds=seconds)).isoformat()
        for least in ("1", "8", "20", "28"):
            for path in (FORECAST, f"{HERE}/forecast"):
                assert "-0.0" not in api.get(path, params={"at": when, "min": least}).text


def test_a_share_that_rounding_pushed_above_one_is_no_negative_probability() -> None:
    above_one = np.nextafter(np.float32(1), np.float32(2))
    table = numbers(np.array([[[0.5, above_one, above_one, 1.0]]], dtype=np.float32), 3)
    assert [str(table[name][0, 0]) for name in ("mean", "p_ge_1", "p_ge_3")] == ["0.5", "0.5", "0.0"]


def test_a_body_is_the_same_whenever_it_is_made() -> None:
    content = {"a": [1.5, None, "é"] * 300}
    first, again = Body.of(content), Body.of(content)
    assert first == again
    assert first.packed is not None
    assert Body.of({"a": 1}).packed is None, "not worth it"


# -- what describes itself -----------------------------------------------------------------------------------------


def test_the_openapi_document_tells_every_route(api: Api) -> None:
    described = api.json("/openapi.json")
    assert described["openapi"].startswith("3.1")
    paths = described["paths"]
    assert set(paths) == {
        "/v1/systems", "/v1/systems/{system}", "/v1/systems/{system}/stations",
        "/v1/systems/{system}/stations/{station}", "/v1/systems/{system}/stations/{station}/forecast",
        "/v1/systems/{system}/forecast", "/v1/systems/{system}/scores", "/healthz", "/readyz",
    }  # fmt: skip
    for path, methods in paths.items():
        assert set(methods) == {"get"}
        assert methods["get"]["summary"], path
        assert methods["get"]["description"], path
        kinds = {"application/json", "application/geo+json"}
        kinds -= {"application/json"} if path.endswith("/{system}/forecast") else set()
        kinds -= set() if path.endswith(("/{system}/forecast", "/stations")) else {"application/geo+json"}
        assert set(methods["get"]["responses"]["200"]["content"]) == kinds, path
        for status in ("404", "422", "503"):
            assert list(methods["get"]["responses"][status]["content"]) == ["application/problem+json"], path
        for parameter in methods["get"].get("parameters", []):
            assert parameter["in"] == "path" or parameter["description"], (path, parameter["name"])


def test_the_page_refers_only_to_what_there_is(api: Api) -> None:
    page = api.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == (WEB / "index.html").read_bytes()
    linked = set(re.findall(r'(?:href|src)="([^"]+)"', page.text))
    assert {"/docs", "/openapi.json", "/v1/systems", "/healthz", "/readyz", "/metrics"} <= linked
    assert [address for address in linked if not address.startswith("/")] == [], "nothing from elsewhere"
    assert {address: api.get(address).status_code for address in linked} == dict.fromkeys(linked, 200)
    fetched = re.findall(r"get\(`(/v1/[^`]+)`\)", page.text) + re.findall(r'get\("(/v1/[^"]+)"\)', page.text)
    assert len(fetched) == 2
    for address in fetched:
        real = re.sub(r"\$\{encodeURIComponent\((\w+)\)\}", lambda m: {"system": SYSTEM, "id": PLAIN}[m[1]], address)
        assert api.get(real).status_code == 200, address


def test_the_page_reads_only_what_is_answered(api: Api) -> None:
    script = (WEB / "index.html").read_text(encoding="utf-8")
    station, system = api.json(FORECAST), api.json(HERE)
    read = {name: set(re.findall(rf"\b{name}\.(\w+)", script)) for name in ("data", "point", "system", "forecast")}
    assert read["data"] <= set(station)
    assert read["point"] <= set(station["forecasts"][0])
    assert read["system"] <= set(system)
    assert read["forecast"] <= set(system["forecast"])
    assert all(read.values())
    assert set(re.findall(r"point\.\w+\??\.(\w+)", script)) <= set(station["forecasts"][0]["bikes"])


def samples(api: Api) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(api.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_metrics_count_by_route_and_not_by_station(own: Api) -> None:
    own.service.refresh()
    name = (
        "velib_http_requests_total",
        (("route", "/v1/systems/{system}/stations/{station}/forecast"), ("status", "200")),
    )
    own.get(FORECAST)
    before = samples(own)
    assert before[name] == 1
    for station in make().panel.stations.id:
        assert own.get(f"{HERE}/stations/{station}/forecast").status_code == 200
        own.get(f"/nowhere/{station}")
    own.get("/nowhere")
    one_missing = samples(own)
    for number in range(20):
        own.get(f"/other/{number}")
        own.get(f"{HERE}/stations/{PLAIN}/forecast?horizon={number + 1}m")
    after = samples(own)
    assert after[name] == 1 + len(make().panel.stations) + 20
    assert set(after) == set(one_missing), "nobody can make them grow"
    assert after["velib_issue_age_seconds", (("system", SYSTEM),)] == 120
    assert after["velib_feed_age_seconds", (("system", SYSTEM),)] == 140
    assert after["velib_stations", (("system", SYSTEM),)] == len(make().panel.stations)
    assert after["velib_issue_fresh", (("system", SYSTEM),)] == 1


def test_an_application_is_made_without_a_look_at_the_database(own: Api) -> None:
    """So that a port answers at once."""
    app = create_app(Service(own.service.settings, own.database, own.clock))
    assert app.state.service.systems == {}
