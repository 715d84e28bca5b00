"""What a forecast rests on: fresh, stale, degraded or closed, and why."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from tests.test_api.conftest import (
    CLOSED,
    HOUR,
    MINUTE,
    NEW,
    NO_DOCKS,
    NO_EBIKES,
    ORIGIN,
    PLAIN,
    SPEC,
    SYSTEM,
    UNSEEN,
    Api,
    Made,
    add_issue,
    make,
)
from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.inference.issue import Issue, Source, State

USUAL = "what is usual there at that hour stands in for the model"


def forecast(api: Api, station: str, query: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = api.json(f"/v1/systems/{SYSTEM}/stations/{station}/forecast{query}")
    return answer


def restored(api: Api, **changes: Any) -> Made:
    """The issue stored anew with something changed, and taken over."""
    made = make()
    issue: Issue = replace(made.issue, made_at=made.issue.made_at + timedelta(seconds=1), **changes)
    add_issue(api.database, issue)
    api.service.refresh()
    return replace(made, issue=issue)


def test_a_station_in_order_is_fresh(api: Api) -> None:
    answer = forecast(api, PLAIN)
    assert (answer["state"], answer["reason"]) == ("fresh", None)
    assert (answer["model"], answer["model_version"]) == ("persistence_delta", "20241026T120000Z")


@pytest.mark.parametrize("query", ["", "?min=3", "?horizon=1h", "?at=2024-10-27T00:50:00Z&min=3"])
def test_nobody_finds_a_bike_at_a_closed_station(api: Api, query: str) -> None:
    answer = forecast(api, CLOSED, query)
    assert answer["state"] == "closed"
    assert "out of order" in answer["reason"]
    for point in answer["forecasts"]:
        for name in SPEC.targets:
            chances = {key: value for key, value in point[name].items() if key.startswith("p_")}
            asked = ["p_ge_1", *(["p_ge_3"] if "min" in query else [])]
            assert set(chances) == {*asked, *(f"{key}_if_open" for key in asked)}
            assert [chances[key] for key in asked] == [0.0] * len(asked)
    bikes, origin = answer["forecasts"][-1]["bikes"], api.made.cdf(CLOSED, ORIGIN + 24 * HOUR)[0]
    if not query:
        assert bikes["p_ge_1_if_open"] == pytest.approx(1 - origin[0], abs=0.0026)
        assert bikes["p_ge_1_if_open"] > 0


def test_a_station_that_was_not_seen_is_stale_and_says_what_stands_in(api: Api) -> None:
    answer = forecast(api, UNSEEN)
    assert answer["state"] == "stale"
    assert answer["reason"] == f"the station was not seen in the last poll; {USUAL}"
    assert answer["now"] == dict.fromkeys(SPEC.targets)
    assert all(point["bikes"]["p_ge_1"] >= 0 for point in answer["forecasts"])


def test_a_station_of_which_nothing_is_known_has_no_numbers(api: Api) -> None:
    answer = forecast(api, NEW)
    assert answer["state"] == "stale"
    assert answer["reason"].endswith("nothing has been seen there within a day")
    assert [point[name] for point in answer["forecasts"] for name in SPEC.targets] == [None] * 16
    assert (answer["lat"], answer["lon"], answer["capacity"]) == (None, None, None)


def test_where_another_stands_in_for_some_targets_these_are_named(api: Api) -> None:
    assert api.made.source[api.made.place(NO_EBIKES)].tolist() == [0, 1, 1, 0], "the premise of this test"
    assert forecast(api, NO_EBIKES)["state"] == "degraded"
    assert forecast(api, NO_EBIKES)["reason"] == f"for mechanical and ebikes, {USUAL}"
    assert forecast(api, NO_DOCKS)["reason"] == f"for docks, {USUAL}"
    assert forecast(api, PLAIN)["state"] == "fresh"


def test_a_target_that_is_never_published_degrades_nothing(own: Api) -> None:
    """Most systems tell no e-bikes apart: there the model answers for bikes and docks, and that is all there is."""
    source = make().source.copy()
    source[:-1] = [Source.MODEL, Source.NONE, Source.NONE, Source.MODEL]
    restored(own, source=source)
    answer = forecast(own, PLAIN)
    assert (answer["state"], answer["reason"]) == ("fresh", None)
    assert [answer["forecasts"][0][name] is None for name in SPEC.targets] == [False, True, True, False]
    [feature] = [f for f in own.json(f"/v1/systems/{SYSTEM}/forecast")["features"] if f["id"] == PLAIN]
    assert "ebikes_mean" not in feature["properties"]


@pytest.mark.parametrize(
    ("source", "words"),
    [(Source.CLIMATOLOGY, "what is usual there"), (Source.PERSISTENCE, "what was last seen there")],
)
def test_a_fallback_is_said(own: Api, source: Source, words: str) -> None:
    restored(own, source=np.full_like(make().source, source))
    answer = forecast(own, PLAIN)
    assert answer["state"] == "degraded"
    assert words in answer["reason"]


STANDS_IN = "the cold-start model, which was trained on other systems, stands in"


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ([Source.COLDSTART] * 4, f"the station is new to the model; {STANDS_IN}"),
        ([Source.COLDSTART, Source.CLIMATOLOGY, Source.NONE, Source.COLDSTART], USUAL),  # what is trusted least
    ],
)
def test_a_station_that_is_new_to_the_model_is_degraded_and_says_so(
    own: Api, sources: list[Source], reason: str
) -> None:
    source = make().source.copy()
    source[make().place(PLAIN)] = sources
    restored(own, source=source)
    assert (forecast(own, PLAIN)["state"], forecast(own, PLAIN)["reason"]) == ("degraded", reason)


def test_where_no_model_was_trained_the_cold_start_model_stands_in_and_that_is_said(own: Api) -> None:
    missing = "no model has been trained for small yet (`velib retrain`)"
    source = np.full_like(make().source, Source.COLDSTART)
    restored(own, source=source, state=State.DEGRADED, reason=missing)
    assert forecast(own, PLAIN)["reason"] == f"{missing}; {STANDS_IN} for the model"


def test_why_the_whole_issue_is_degraded_is_said(own: Api) -> None:
    restored(own, state=State.DEGRADED, reason="no model has been trained")
    answer = forecast(own, PLAIN)
    assert (answer["state"], answer["reason"]) == ("degraded", "no model has been trained")
    assert forecast(own, NO_DOCKS)["reason"] == f"no model has been trained; for docks, {USUAL}"
    assert forecast(own, CLOSED)["state"] == "closed"
    assert own.json(f"/v1/systems/{SYSTEM}")["forecast"]["state"] == "degraded"


@pytest.mark.parametrize("minutes", [29, 30])
def test_an_issue_is_fresh_until_the_second_next_is_due(own: Api, minutes: int) -> None:
    own.clock.time = ORIGIN + minutes * MINUTE
    own.service.refresh()
    assert forecast(own, PLAIN)["state"] == "fresh"


def test_an_issue_grown_old_is_stale_everywhere(own: Api) -> None:
    own.service.refresh()
    assert forecast(own, PLAIN)["state"] == "fresh"
    own.clock.time = ORIGIN + timedelta(minutes=30, seconds=1)
    own.service.refresh()
    answer = forecast(own, PLAIN)
    assert answer["state"] == "stale"
    assert answer["reason"] == "the newest forecast was issued at 2024-10-27T02:15:00+02:00; one every 15m is due"
    assert own.json(f"/v1/systems/{SYSTEM}")["forecast"]["state"] == "stale"
    whole = own.json(f"/v1/systems/{SYSTEM}/forecast")
    assert {feature["properties"]["state"] for feature in whole["features"]} == {"stale"}
    closed = forecast(own, CLOSED)
    assert closed["forecasts"][0]["bikes"]["p_ge_1"] == 0.0
    assert "out of order" in closed["reason"], "what is 0 says why, also when it is old"
    assert own.get("/readyz").status_code == 200, "a stale issue is still an answer"


def test_a_new_issue_ends_staleness(own: Api) -> None:
    own.clock.time = ORIGIN + HOUR
    own.service.refresh()
    assert forecast(own, PLAIN)["state"] == "stale"
    add_issue(own.database, replace(make().issue, issued_at=ORIGIN + HOUR, made_at=ORIGIN + HOUR))
    own.service.refresh()
    assert forecast(own, PLAIN)["state"] == "fresh"


def test_when_the_newest_issue_is_over_only_a_new_one_can_answer(own: Api) -> None:
    """Whoever asks for "in half an hour" asked nothing wrong."""
    own.clock.time = ORIGIN + 25 * HOUR
    own.service.refresh()
    for path in ("/forecast", "/forecast?horizon=30m", f"/stations/{PLAIN}/forecast?horizon=30m"):
        answer = own.get(f"/v1/systems/{SYSTEM}{path}")
        assert answer.status_code == 503
        assert "reached to 2024-10-28T01:15:00+01:00" in answer.json()["detail"]
    assert forecast(own, PLAIN)["state"] == "stale"


def test_whose_weather_it_was_is_named_where_it_was_used(api: Api) -> None:
    made = make()
    for later, source in enumerate(WeatherSource):
        made_at = made.issue.made_at + timedelta(seconds=10 + later)
        add_issue(api.database, replace(made.issue, made_at=made_at, weather=source))
        api.service.refresh()
        answer = forecast(api, PLAIN)
        assert answer["weather"] == source
        assert ("weather_attribution" in answer["meta"]) == (source in ("forecast", "cache"))
