"""Systems, stations and scores: what is there now, in JSON and GeoJSON, filtered by place and name."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from tests.test_api.conftest import (
    ATTRIBUTION,
    CLOSED,
    HOUR,
    LICENCE,
    NEW,
    NO_EBIKES,
    ORIGIN,
    PLAIN,
    SPEC,
    SYSTEM,
    UNSEEN,
    Api,
    add_issue,
    fill,
    make,
)
from velib_predictor.data import schema
from velib_predictor.data.panel import CHANNELS

STATIONS = f"/v1/systems/{SYSTEM}/stations"
FIELDS = {
    "station_id", "code", "name", "lat", "lon", "capacity", "observed_at", "bikes", "mechanical", "ebikes", "docks",
    "is_installed", "is_renting", "is_returning",
}  # fmt: skip


def ids(answer: dict[str, Any]) -> list[str]:
    return [row["station_id"] for row in answer["stations"]]


def test_the_list_of_stations_is_what_is_stored(api: Api) -> None:
    answer, panel = api.json(STATIONS), api.made.panel
    assert ids(answer) == sorted(panel.stations.id)
    for row in answer["stations"]:
        assert set(row) == FIELDS
        place = panel.stations.id.index(row["station_id"])
        for channel, name in enumerate(CHANNELS):
            seen = panel.observed[-1, place, channel]
            assert row[name] == (int(panel.counts[-1, place, channel]) if seen else None)
        assert row["is_renting"] == bool(panel.open[-1, place])
        assert row["observed_at"] == "2024-10-27T02:14:40+02:00"
        assert row == {k: v for k, v in api.json(f"{STATIONS}/{row['station_id']}").items() if k != "meta"}


def test_the_list_as_geojson(api: Api) -> None:
    answer = api.get(STATIONS, params={"format": "geojson"})
    assert answer.headers["content-type"] == "application/geo+json"
    plain = {row["station_id"]: row for row in api.json(STATIONS)["stations"]}
    for feature in answer.json()["features"]:
        row = plain[feature["id"]]
        if feature["id"] == NEW:
            assert feature["geometry"] is None
        else:
            assert feature["geometry"] == {"type": "Point", "coordinates": [row["lon"], row["lat"]]}
        assert feature["properties"] == {key: value for key, value in row.items() if key not in ("lat", "lon")}


def test_a_box_holds_its_edges_and_none_without_a_place(api: Api) -> None:
    table = {row["station_id"]: row for row in api.json(STATIONS)["stations"]}
    corner = table[PLAIN]
    edge = f"{corner['lon']},{corner['lat']},{corner['lon']},{corner['lat']}"
    assert ids(api.json(STATIONS, params={"bbox": edge})) == [PLAIN]
    west, south, east, north = 2.349, 48.853, 2.356, 48.859
    inside = [
        name
        for name, row in table.items()
        if name != NEW and west <= row["lon"] <= east and south <= row["lat"] <= north
    ]
    assert 0 < len(inside) < len(table)
    assert ids(api.json(STATIONS, params={"bbox": f"{west},{south},{east},{north}"})) == inside
    assert NEW not in ids(api.json(STATIONS, params={"bbox": "-180,-90,180,90"}))
    assert ids(api.json(STATIONS, params={"bbox": "0,0,1,1"})) == []
    boxed = api.json(STATIONS, params={"bbox": edge, "format": "geojson"})
    assert [feature["id"] for feature in boxed["features"]] == [PLAIN]


@pytest.mark.parametrize(
    "box",
    ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "2.4,48.8,2.2,48.9", "2.2,48.9,2.4,48.8", "nan,0,1,1", "0,0,inf,1",
     "-inf,-90,180,90", "-181,0,1,1", "0,0,1,91", ",,,", "1;2;3;4", "0,0,1,1,", "\x00", "1e400,0,1,1"],
)  # fmt: skip
def test_a_box_that_cannot_be_meant_is_refused(api: Api, box: str) -> None:
    answer = api.get(STATIONS, params={"bbox": box})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"bbox={box!r}")


@pytest.mark.parametrize(
    ("text", "found"),
    [("Station 3", [PLAIN]), ("sTaTiOn 3", [PLAIN]), ("00004", [PLAIN]), ("103", [PLAIN]), ("new", [NEW]), ("zzz", [])],
)
def test_stations_are_found_by_name_code_and_id(api: Api, text: str, found: list[str]) -> None:
    assert ids(api.json(STATIONS, params={"q": text})) == found


def test_filters_are_combined(api: Api) -> None:
    everywhere = {"bbox": "-180,-90,180,90", "q": "station"}
    assert ids(api.json(STATIONS, params=everywhere)) == [CLOSED, NO_EBIKES, "102", PLAIN, "104", UNSEEN, "106"]
    assert ids(api.json(STATIONS, params={**everywhere, "bbox": "0,0,1,1"})) == []


def test_an_unknown_format_is_refused_with_what_there_is(api: Api) -> None:
    answer = api.get(STATIONS, params={"format": "csv"})
    assert answer.status_code == 422
    assert "'json' or 'geojson'" in answer.json()["detail"]


def test_a_system_tells_its_newest_forecast_and_where_things_are(api: Api) -> None:
    [system] = api.json("/v1/systems")["systems"]
    assert system == api.json(f"/v1/systems/{SYSTEM}")
    assert (system["system_id"], system["name"], system["timezone"]) == (SYSTEM, "Small Town", "Europe/Paris")
    assert system["stations"] == len(api.made.panel.stations)
    assert system["heard_at"] == "2024-10-27T02:14:40+02:00"
    assert system["forecast"]["horizons"] == ["15m", "1h", "2h", "1d"]
    assert system["forecast"]["targets"] == list(SPEC.targets)
    assert system["forecast"]["issued_at"] == "2024-10-27T02:15:00+02:00"
    for address in system["links"].values():
        assert api.get(address.replace("{id}", PLAIN)).status_code == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/systems/atlantis", ["no system 'atlantis'", "there are: small"]),
        ("/v1/systems/atlantis/stations", ["there are: small"]),
        ("/v1/systems/atlantis/stations/100/forecast", ["there are: small"]),
        ("/v1/systems/atlantis/forecast", ["there are: small"]),
        ("/v1/systems/atlantis/scores", ["there are: small"]),
        (f"{STATIONS}/999", ["no station '999'", f"{STATIONS} lists them"]),
        (f"{STATIONS}/999/forecast", ["no station '999'", f"{STATIONS} lists them"]),
        (f"{STATIONS}/%00/forecast", ["no station"]),
        (f"{STATIONS}/%F0%9F%9A%B2", ["no station"]),
        ("/v2", ["nothing at /v2", "/ lists what there is"]),
    ],
)
def test_what_does_not_exist_is_404_and_says_what_does(api: Api, path: str, words: list[str]) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert [word for word in words if word not in answer.json()["detail"]] == []


def test_a_long_name_is_not_echoed_at_length(api: Api) -> None:
    assert len(api.get(f"{STATIONS}/{'x' * 5000}/forecast").json()["detail"]) < 300


def test_every_answer_names_licence_and_attribution(api: Api) -> None:
    for path in (
        f"/v1/systems/{SYSTEM}",
        STATIONS,
        f"{STATIONS}?format=geojson",
        f"{STATIONS}/{PLAIN}",
        f"{STATIONS}/{PLAIN}/forecast",
        f"{STATIONS}/{PLAIN}/forecast?horizon=30m",
        f"{STATIONS}/{PLAIN}/forecast?min=3",
        f"/v1/systems/{SYSTEM}/forecast",
        f"/v1/systems/{SYSTEM}/scores",
    ):
        meta = api.json(path)["meta"]
        assert (meta["licence"], meta["attribution"], meta["system_id"]) == (LICENCE, ATTRIBUTION, SYSTEM), path
    assert [system["meta"]["licence"] for system in api.json("/v1/systems")["systems"]] == [LICENCE]


def test_what_a_system_does_not_state_is_said_to_be_unstated(own: Api) -> None:
    with own.database.write() as connection:
        connection.execute(update(schema.System).values(licence=None, attribution=None))
    own.service.refresh()
    meta = own.json(f"{STATIONS}/{PLAIN}/forecast")["meta"]
    assert (meta["licence"], meta["attribution"]) == ("not stated by the system", "Small Town")


def test_scores_are_means_over_the_days_that_were_asked_for(own: Api) -> None:
    sums = {"rows": 10, "fallback": 2, "rps": 5.0, "rps_persistence": 10.0, "brier": 1.0, "error": 4.0, "covered_80": 9}
    with own.database.write() as connection:
        key = connection.execute(select(schema.System.key)).scalar_one()
        for days in (1, 3):
            when = ORIGIN - timedelta(days=days)
            row = {"system_key": key, "issued_at": when, "target": "bikes", "horizon_s": 900, "model": "xgboost"}
            connection.execute(insert(schema.Score), [{**row, **sums}])
    own.service.refresh()
    [row] = own.json(f"/v1/systems/{SYSTEM}/scores")["scores"]
    assert (row["issues"], row["rows"], row["rps"], row["rps_persistence"], row["skill_rps"]) == (2, 20, 0.5, 1.0, 0.5)
    [row] = own.json(f"/v1/systems/{SYSTEM}/scores?days=2")["scores"]
    assert (row["issues"], row["rows"]) == (1, 10)
    assert own.get(f"/v1/systems/{SYSTEM}/scores?days=0").status_code == 422


def test_a_station_that_is_newer_than_the_forecast_can_be_asked_for_soon(own: Api) -> None:
    made = make()
    first = replace(made.issue, stations=replace(made.issue.stations, id=(*made.issue.stations.id[:-1], "other")))
    add_issue(own.database, first)
    own.service.refresh()
    assert own.get(f"{STATIONS}/{NEW}").status_code == 200
    answer = own.get(f"{STATIONS}/{NEW}/forecast")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert "the next forecast speaks of it" in answer.json()["detail"]


def test_what_is_there_now_follows_the_polls(own: Api) -> None:
    own.service.refresh()
    before = {row["station_id"]: row for row in own.json(STATIONS)["stations"]}
    at = ORIGIN + timedelta(minutes=1)
    with own.database.write() as connection:
        station = connection.execute(select(schema.Station.key).where(schema.Station.station_id == PLAIN)).scalar_one()
        system = connection.execute(select(schema.System.key)).scalar_one()
        connection.execute(insert(schema.StationStatus), [{"station_key": station, "observed_at": at, "bikes": 0}])
        connection.execute(insert(schema.Poll), [{"system_key": system, "polled_at": at, "outcome": "ok"}])
    own.service.refresh()
    row = own.json(f"{STATIONS}/{PLAIN}")
    listed = {row["station_id"]: row for row in own.json(STATIONS)["stations"]}
    assert (before[PLAIN]["bikes"], listed[PLAIN]["bikes"]) == (2, 0), "the finished list is made anew with each poll"
    assert (row["bikes"], row["docks"], row["observed_at"]) == (0, None, "2024-10-27T02:16:00+02:00")
    assert own.json(f"{STATIONS}/{PLAIN}/forecast")["now"]["bikes"] > 0, "the forecast stays that of its issue"


def test_a_system_without_a_known_zone_speaks_utc(own: Api) -> None:
    with own.database.write() as connection:
        connection.execute(update(schema.System).values(timezone=None))
    own.service.refresh()
    assert datetime.fromisoformat(own.json(f"/v1/systems/{SYSTEM}")["heard_at"]).utcoffset() == timedelta(0)


def test_two_systems_are_kept_apart(own: Api) -> None:
    fill(own.database, system="other")
    issue = replace(make().issue, system_id="other", issued_at=ORIGIN - HOUR, stations=make().issue.stations)
    add_issue(own.database, issue)
    own.service.refresh()
    assert [system["system_id"] for system in own.json("/v1/systems")["systems"]] == ["other", SYSTEM]
    assert own.json("/v1/systems/other/forecast?at=2024-10-27T00:30:00Z")["issued_at"] == "2024-10-27T01:15:00+02:00"
    assert own.json(f"/v1/systems/{SYSTEM}/forecast")["issued_at"] == "2024-10-27T02:15:00+02:00"
