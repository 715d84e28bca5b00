"""Times and flags in every form that was seen (cases 9, 15, 24; see `test_bad_input`)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.test_data import feeds
from tests.test_data.decoding import encode, one, only, status_of
from tests.test_data.feeds import AT
from velib_predictor.data.gbfs import decode_status
from velib_predictor.data.opendata_paris import decode_export

REPORTED = AT - timedelta(hours=1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (feeds.posix(REPORTED), REPORTED),
        (float(feeds.posix(REPORTED)), REPORTED),
        (feeds.posix(REPORTED) * 1000, REPORTED),
        (str(feeds.posix(REPORTED)), REPORTED),
        ("2025-11-23T18:00:00+01:00", REPORTED),
        ("2025-11-23T17:00:00Z", REPORTED),
        ("2025-11-23T17:00:00", None),
        ("yesterday", None),
        ("", None),
        (True, None),
        (0, None),
        (-1, None),
        (-62135596800, None),
        (-9223372036854775808, None),
        (10**30, None),
        (4070908800, None),
        (feeds.posix(AT + timedelta(minutes=4)), AT + timedelta(minutes=4)),
        (feeds.posix(AT + timedelta(minutes=6)), None),
        ("2099-01-01T00:00:00Z", None),
        (1450137600, datetime(2015, 12, 15, tzinfo=UTC)),
        (1450137599, None),
        (feeds.posix(AT - timedelta(days=2773)), AT - timedelta(days=2773)),
    ],
)
def test_09_last_reported_in_every_form(given: Any, expected: datetime | None) -> None:
    assert one(last_reported=given).last_reported == expected
    # The same through the lenient path, into which any odd value of the record leads.
    assert one(last_reported=given, num_bikes_available="5").last_reported == expected
    assert decode_status(encode({"last_updated": given, "data": {"stations": []}}), AT).feed_time == expected


def test_09_a_missing_last_reported_is_unknown() -> None:
    record = feeds.station("2.3", "7165")
    del record["last_reported"]
    assert only(status_of(record)).last_reported is None


def test_15_versions_may_use_each_others_times_and_flags() -> None:
    assert one("3.0", last_reported=feeds.posix(REPORTED)).last_reported == REPORTED
    assert one("2.3", last_reported=REPORTED.isoformat()).last_reported == REPORTED


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1, True), (0, False), (True, True), (False, False), ("true", True), ("False", False), ("OUI", True),
        ("NON", False), ("1", True), (1.0, True), (None, None), (2, None), ("maybe", None), ([], None),
    ],
)  # fmt: skip
def test_15_flags_in_every_form_and_unknown_otherwise(given: Any, expected: bool | None) -> None:
    values = one(is_installed=given, is_renting=given, is_returning=given).values
    assert [values.is_installed, values.is_renting, values.is_returning] == [expected] * 3


def test_15_missing_flags_are_unknown() -> None:
    values = only(status_of({"station_id": "1", "num_bikes_available": 5})).values
    assert (values.docks, values.is_installed, values.is_renting, values.is_returning) == (None,) * 4


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2026-03-29T01:59:59+01:00", datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)),
        ("2026-03-29T03:00:00+02:00", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),
        ("2026-10-25T02:30:00+02:00", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        ("2026-10-25T02:30:00+01:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
    ],
)
def test_24_the_hours_of_a_clock_change_stay_apart(local: str, utc: datetime) -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    assert only(decode_export(encode([feeds.portal_row("1", 1, 1, 1, duedate=local)]), at)).last_reported == utc
    record = feeds.station("3.0", "1", last_reported=local)
    assert only(decode_status(encode(feeds.status("3.0", [record])), at)).last_reported == utc
