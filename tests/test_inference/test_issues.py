"""Issues in the database, on both engines."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from tests.test_inference.made import ISSUED, MINUTE, some_issue
from tests.test_inference.test_issue import assert_same
from velib_predictor.data import schema
from velib_predictor.data.database import Database
from velib_predictor.data.stations import ensure_system
from velib_predictor.inference.issue import State
from velib_predictor.inference.issues import Issues, Mark, delete_expired_issues

QUARTER, DAY = 15 * MINUTE, timedelta(days=1)


@pytest.fixture
def town(database: Database) -> Issues:
    with database.write() as connection:
        for name in ("town", "oslo"):
            ensure_system(connection, name, timezone="Europe/Paris")
    return Issues(database, "town")


def test_what_was_added_comes_back_bit_for_bit(town: Issues) -> None:
    plain = some_issue()
    poor = some_issue(
        issued_at=ISSUED + QUARTER, observed_at=None, version=None, state=State.STALE, reason="nothing « heard »"
    )
    for issue in (poor, plain):
        town.add(issue)
    for issue, found in ((plain, town.at(ISSUED)), (poor, town.at(ISSUED + QUARTER)), (poor, town.newest())):
        assert found is not None
        assert_same(found, issue)


def test_where_there_is_none_there_is_none(database: Database, town: Issues) -> None:
    assert (town.newest(), town.mark(), town.at(ISSUED), town.times(None, ISSUED + DAY)) == (None, None, None, [])
    nowhere = Issues(database, "nowhere")
    assert (nowhere.newest(), nowhere.mark()) == (None, None)
    town.add(some_issue())
    assert Issues(database, "oslo").newest() is None
    assert town.at(ISSUED + timedelta(microseconds=1)) is None


def test_one_of_the_same_time_is_replaced_and_the_mark_tells(database: Database, town: Issues) -> None:
    town.add(some_issue(model="first"))
    before = town.mark()
    assert before == Mark(ISSUED, ISSUED + timedelta(seconds=3))
    town.add(replace(some_issue(model="second"), made_at=ISSUED + MINUTE))
    found = town.newest()
    assert found is not None
    assert found.model == "second"
    assert town.mark() == Mark(ISSUED, ISSUED + MINUTE) != before
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(schema.Issue)).scalar_one() == 1


def test_the_newest_is_the_latest_issued_whatever_was_added_last(town: Issues) -> None:
    for place in (1, 3, 0, 2):
        town.add(some_issue(issued_at=ISSUED + place * QUARTER))
    newest, mark = town.newest(), town.mark()
    assert newest is not None
    assert mark is not None
    assert newest.issued_at == mark.issued_at == ISSUED + 3 * QUARTER


def test_times_are_those_between_both_left_out(database: Database, town: Issues) -> None:
    times = [ISSUED + place * QUARTER for place in range(4)]
    for time in times[::-1]:
        town.add(some_issue(issued_at=time))
    Issues(database, "oslo").add(some_issue("oslo", ISSUED + MINUTE))
    assert town.times(None, times[3] + MINUTE) == times
    assert town.times(None, times[3]) == times[:3]
    assert town.times(times[0], times[3]) == times[1:3]
    assert town.times(times[3], times[3] + DAY) == []


def test_prune_keeps_what_is_young_and_each_systems_newest(database: Database, town: Issues) -> None:
    """Oslo ended long ago; its last issue is still what there is. Town's issue of that same time is old."""
    oslo = Issues(database, "oslo")
    for place in range(4):
        town.add(some_issue(issued_at=ISSUED + place * QUARTER))
    for place in range(2):
        oslo.add(some_issue("oslo", ISSUED + place * QUARTER))
    assert delete_expired_issues(database, ISSUED) == 0
    assert delete_expired_issues(database, ISSUED + 2 * QUARTER) == 3
    assert town.times(None, ISSUED + DAY) == [ISSUED + 2 * QUARTER, ISSUED + 3 * QUARTER]
    assert oslo.times(None, ISSUED + DAY) == [ISSUED + QUARTER]
    assert delete_expired_issues(database, ISSUED + 100 * DAY) == 1
    assert town.times(None, ISSUED + DAY) == [ISSUED + 3 * QUARTER]
