"""What is served while things go wrong: nothing stored yet, a broken database, a damaged issue, a switch of issues."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from tests.test_api.conftest import (
    HOUR,
    LICENCE,
    MINUTE,
    ORIGIN,
    PLAIN,
    SYSTEM,
    Api,
    add_issue,
    fill,
    make,
    serving,
)
from velib_predictor.api.caching import Body
from velib_predictor.data import schema
from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.inference.issue import Issue

HERE = f"/v1/systems/{SYSTEM}"
FORECAST = f"{HERE}/stations/{PLAIN}/forecast"


def refused(api: Api, path: str) -> str:
    answer = api.get(path)
    assert answer.status_code == 503, path
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "10"
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["detail"])


def test_before_the_database_was_read_nothing_is_claimed(own: Api) -> None:
    for path in ("/v1/systems", HERE, FORECAST, "/readyz"):
        assert refused(own, path) == "the database has not been read yet"
    assert own.get("/healthz").json()["status"] == "ok"


def test_an_empty_database_says_what_to_do(empty: Api) -> None:
    empty.service.look()
    assert empty.json("/v1/systems") == {"systems": []}
    for path in (HERE, f"{HERE}/stations", FORECAST, f"{HERE}/forecast", f"{HERE}/scores"):
        assert "no system has been stored yet" in refused(empty, path)
    assert refused(empty, "/readyz") == "no forecast has been issued yet"


def test_without_an_issue_stations_are_told_and_forecasts_come_later(empty: Api) -> None:
    fill(empty.database)
    empty.service.look()
    assert empty.json(HERE)["forecast"] is None
    assert len(empty.json(f"{HERE}/stations")["stations"]) == len(make().panel.stations)
    for path in (FORECAST, f"{HERE}/forecast"):
        assert "no forecast has been issued" in refused(empty, path)
    assert refused(empty, "/readyz") == "no forecast has been issued yet"
    add_issue(empty.database, make().issue)
    empty.service.look()
    assert empty.json(FORECAST)["state"] == "fresh"
    assert empty.json("/readyz")["systems"][SYSTEM]["state"] == "fresh"


def test_every_engine_serves_the_same(database: Database) -> None:
    fill(database)
    add_issue(database, make().issue)
    with serving(database) as api:
        api.service.refresh()
        station = api.json(FORECAST)
        assert station["issued_at"] == "2024-10-27T02:15:00+02:00"
        assert station["meta"]["licence"] == LICENCE
        cdf = api.made.cdf(PLAIN, ORIGIN + HOUR)
        assert station["forecasts"][1]["bikes"]["p_ge_1"] == pytest.approx(1 - cdf[0][0], abs=0.0026)
        assert len(api.json(f"{HERE}/forecast")["features"]) == len(make().panel.stations)
        listed = {row["station_id"]: row for row in api.json(f"{HERE}/stations")["stations"]}
        assert listed[PLAIN]["bikes"] == station["now"]["bikes"]
        assert listed["new"]["lat"] is None
        assert api.json(f"{HERE}/scores")["scores"] == []


# -- a broken database ---------------------------------------------------------------------------------------------


def breaking(api: Api) -> None:
    """From now on the database cannot be read."""
    with api.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE system RENAME TO away")


def mending(api: Api) -> None:
    with api.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO system")


def test_when_the_database_breaks_the_last_issue_is_served_on(own: Api) -> None:
    own.service.look()
    before = {path: own.json(path) for path in (FORECAST, HERE, f"{HERE}/stations", f"{HERE}/forecast")}
    breaking(own)
    with pytest.raises(DatabaseError):
        own.service.refresh()
    own.service.look()
    for path, answer in before.items():
        assert own.json(path) == answer
    detail = refused(own, "/readyz")
    assert detail == refused(own, f"{HERE}/scores") == "the database cannot be read; the log of this program says why"
    mending(own)
    own.service.look()
    assert own.get("/readyz").status_code == own.get(f"{HERE}/scores").status_code == 200


def test_when_the_database_stays_broken_what_is_served_grows_old(own: Api) -> None:
    own.service.look()
    breaking(own)
    own.clock.time = ORIGIN + HOUR
    own.service.look()
    answer = own.json(FORECAST)
    assert answer["state"] == "stale"
    assert "one every 15m is due" in answer["reason"]
    assert own.json(HERE)["forecast"]["state"] == "stale"


def test_a_mistake_while_looking_for_news_ends_nothing(own: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    own.service.look()

    def broken(_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("velib_predictor.api.service.systems", broken)
    own.service.look()
    assert own.json(FORECAST)["state"] == "fresh"
    assert "a mistake in this program" in refused(own, "/readyz")


def test_it_follows_until_it_is_told_to_stop(own: Api) -> None:
    stop, looked = threading.Event(), threading.Event()
    refresh = own.service.refresh

    def watched() -> None:
        refresh()
        looked.set()

    own.service.refresh = watched  # type: ignore[method-assign]
    follower = threading.Thread(target=own.service.follow, args=(stop,))
    follower.start()
    try:
        assert looked.wait(10)
        assert own.json(FORECAST)["state"] == "fresh"
        looked.clear()
        add_issue(own.database, replace(make().issue, issued_at=ORIGIN + 15 * MINUTE))
        own.service.nudge()
        assert looked.wait(10)
    finally:
        stop.set()
        own.service.nudge()
        follower.join(10)
    assert not follower.is_alive()
    own.service.refresh = refresh  # type: ignore[method-assign]
    own.service.look()
    assert own.json(FORECAST)["issued_at"] == "2024-10-27T02:30:00+02:00"


# -- a damaged issue -----------------------------------------------------------------------------------------------


def damage(api: Api) -> None:
    with api.database.write() as connection:
        newest = select(schema.Issue.issued_at).order_by(schema.Issue.issued_at.desc()).limit(1).scalar_subquery()
        connection.execute(update(schema.Issue).where(schema.Issue.issued_at == newest).values(body=b"not an issue"))


def test_a_damaged_issue_costs_neither_the_last_one_nor_another_system(own: Api) -> None:
    fill(own.database, system="other")
    add_issue(own.database, replace(make().issue, system_id="other"))
    own.service.refresh()
    later = ORIGIN + 15 * MINUTE
    add_issue(own.database, replace(make().issue, issued_at=later))
    damage(own)
    add_issue(own.database, replace(make().issue, system_id="other", issued_at=later))
    own.service.refresh()
    own.service.refresh()
    assert own.json(FORECAST)["issued_at"] == "2024-10-27T02:15:00+02:00"
    assert own.json("/v1/systems/other/forecast")["issued_at"] == "2024-10-27T02:30:00+02:00"
    add_issue(own.database, replace(make().issue, issued_at=later + 15 * MINUTE))
    own.service.refresh()
    assert own.json(FORECAST)["issued_at"] == "2024-10-27T02:45:00+02:00"


def test_where_the_only_issue_is_damaged_that_is_said(own: Api) -> None:
    damage(own)
    own.service.refresh()
    assert "is damaged" in refused(own, FORECAST)


def test_an_issue_that_is_gone_is_not_served(own: Api) -> None:
    own.service.refresh()
    with own.database.write() as connection:
        connection.execute(delete(schema.Issue))
    own.service.refresh()
    assert "no forecast has been issued" in refused(own, FORECAST)


def test_what_many_ask_for_at_once_is_made_once(own: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    own.service.refresh()
    served = own.service.forecasts(SYSTEM)[1]
    together, made = threading.Barrier(6), []
    make_body = Body.of

    def watched(*arguments: Any, **options: Any) -> Body:
        made.append(arguments)
        return make_body(*arguments, **options)

    def ask() -> Body:
        together.wait(10)
        return served.network(ORIGIN + HOUR)

    monkeypatch.setattr(Body, "of", watched)
    with ThreadPoolExecutor(6) as pool:
        bodies = [asked.result() for asked in [pool.submit(ask) for _ in range(6)]]
    assert len(made) == 1
    assert {id(body) for body in bodies} == {id(bodies[0])}


# -- a switch of issues --------------------------------------------------------------------------------------------


def test_an_answer_is_of_one_issue_also_while_they_change(own: Api) -> None:
    """Each issue has its own counts, model and probabilities: any mixture of two would show."""
    issues = []
    for number in range(12):
        issue: Issue = replace(
            make().issue,
            issued_at=ORIGIN + number * MINUTE,
            model=f"model-{number}",
            now=make().issue.now * 0 + number,
            open=make().issue.open | True,
            cdf=(make().issue.cdf * 0 + number).astype(make().issue.cdf.dtype),
        )
        issue.cdf[..., -1] = 255
        issues.append(issue)
    add_issue(own.database, issues[0])
    own.service.refresh()
    done = threading.Event()
    seen: set[int] = set()

    def ask(path: str) -> int:
        asked = 0
        while not done.is_set() or asked == 0:
            answer = own.json(path)
            number = int(answer["model"].removeprefix("model-"))
            points = answer["forecasts"] if "forecasts" in answer else [f["properties"] for f in answer["features"][:7]]
            counts = answer["now"].values() if "now" in answer else [point["bikes_now"] for point in points]
            chances = [point["bikes"]["p_ge_1"] if "bikes" in point else point["bikes_p_ge_1"] for point in points]
            assert set(counts) == {number}
            assert chances == [pytest.approx(1 - number / 255, abs=0.00051)] * len(chances)
            assert answer["issued_at"][14:16] == f"{15 + number}"
            seen.add(number)
            asked += 1
        return asked

    at = (ORIGIN + 20 * HOUR).isoformat().replace("+", "%2B")
    paths = [FORECAST, f"{FORECAST}?min=3", f"{FORECAST}?at={at}", f"{HERE}/forecast?at={at}"]
    with ThreadPoolExecutor(len(paths)) as pool:
        asking = [pool.submit(ask, path) for path in paths]
        try:
            for issue in issues[1:]:
                add_issue(own.database, issue)
                own.service.refresh()
        finally:
            done.set()
        assert all(future.result() for future in asking)
    assert own.json(FORECAST)["model"] == "model-11"
