"""Local time and kinds of day against zoneinfo, minute by minute, and against what is known of single days."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from velib_predictor.data.calendar import FREE_DAY, WORKDAY, local_time, public_holidays

CHANGES = [
    ("Europe/Paris", datetime(2024, 3, 31, 1, tzinfo=UTC)),
    ("Europe/Paris", datetime(2024, 10, 27, 1, tzinfo=UTC)),
    ("America/Los_Angeles", datetime(2023, 3, 12, 10, tzinfo=UTC)),
    ("America/Los_Angeles", datetime(2023, 11, 5, 9, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2024, 4, 6, 15, tzinfo=UTC)),  # by half an hour
    ("Australia/Lord_Howe", datetime(2024, 10, 5, 15, 30, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2024, 3, 31, 1, tzinfo=UTC)),  # never changes, and is half an hour off
    ("Asia/Kathmandu", datetime(2024, 3, 31, 1, tzinfo=UTC)),  # three quarters
    ("UTC", datetime(2024, 1, 1, tzinfo=UTC)),
]


def ticks(start: datetime, count: int, step: timedelta) -> np.ndarray:
    return np.array([(start + n * step).replace(tzinfo=None) for n in range(count)], dtype="datetime64[s]")


def day_number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_every_minute_around_a_clock_change(zone: str, change: datetime) -> None:
    start = change - timedelta(hours=25)
    offsets = {(change + shift).astimezone(ZoneInfo(zone)).utcoffset() for shift in (-timedelta(hours=1), timedelta(0))}
    assert len(offsets) == (1 if zone.startswith(("Asia", "UTC")) else 2)  # the change is where it is said to be
    found = local_time(ticks(start, 50 * 60, timedelta(minutes=1)), zone)
    local = [(start + timedelta(minutes=n)).astimezone(ZoneInfo(zone)) for n in range(50 * 60)]
    assert found.day.tolist() == [day_number(at.date()) for at in local]
    assert found.minute.tolist() == [at.hour * 60 + at.minute for at in local]
    assert found.hour.tolist() == [at.hour for at in local]
    assert found.weekday.tolist() == [at.weekday() for at in local]
    free = public_holidays(zone, range(2022, 2026))
    expected = [FREE_DAY if at.weekday() >= 5 or at.date() in free else WORKDAY for at in local]
    assert found.day_type.tolist() == expected


def test_seconds_and_finer_ticks_fall_into_their_minute() -> None:
    at = np.array(["2024-07-01T12:34:59.999999"], dtype="datetime64[us]")
    found = local_time(at, "Europe/Paris")
    assert (found.minute.tolist(), found.hour.tolist()) == ([14 * 60 + 34], [14])


def test_before_1970_and_in_no_order() -> None:
    given = np.array(["2024-07-01T22:30", "1969-12-31T22:30", "2024-07-01T21:30"], dtype="datetime64[s]")
    found = local_time(given, "Europe/Paris")
    assert found.day.tolist() == [day_number(date(2024, 7, 2)), -1, day_number(date(2024, 7, 1))]
    assert found.minute.tolist() == [30, 23 * 60 + 30, 23 * 60 + 30]
    assert found.weekday.tolist() == [1, 2, 0]


def test_shapes_and_types_also_of_nothing() -> None:
    for count in (0, 3):
        found = local_time(ticks(datetime(2024, 1, 1), count, timedelta(hours=1)), "Europe/Paris")  # noqa: DTZ001
        types = [values.dtype for values in (found.day, found.minute, found.weekday, found.day_type, found.hour)]
        assert types == [np.int32, np.int16, np.int8, np.int8, np.int8]
        assert len(found.day) == len(found.hour) == len(found.day_type) == count


@pytest.mark.parametrize(
    ("zone", "day", "kind"),
    [
        ("Europe/Paris", date(2022, 7, 14), FREE_DAY),  # a Thursday
        ("Europe/Paris", date(2022, 6, 6), FREE_DAY),  # Whit Monday
        ("Europe/Paris", date(2024, 11, 1), FREE_DAY),  # All Saints, a Friday
        ("Europe/Paris", date(2024, 7, 4), WORKDAY),
        ("Europe/Paris", date(2024, 11, 4), WORKDAY),
        ("Europe/Paris", date(2024, 11, 3), FREE_DAY),  # a Sunday
        ("America/Los_Angeles", date(2023, 7, 4), FREE_DAY),
        ("America/Los_Angeles", date(2023, 7, 14), WORKDAY),
        ("US/Pacific", date(2023, 7, 4), FREE_DAY),  # another name of it
        # zone1970.tab, where a zone is one of several countries, knows none of these.
        ("Europe/Oslo", date(2024, 5, 17), FREE_DAY),
        ("Europe/Amsterdam", date(2023, 4, 27), FREE_DAY),
        ("Europe/Luxembourg", date(2023, 6, 23), FREE_DAY),
        ("Etc/GMT-1", date(2022, 7, 14), WORKDAY),  # no country, no holidays
        ("UTC", date(2024, 12, 25), WORKDAY),
    ],
)
def test_kinds_of_day(zone: str, day: date, kind: int) -> None:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = local_time(ticks(noon, 1, timedelta(hours=1)), zone)
    assert found.day.tolist() == [day_number(day)]
    assert found.day_type.tolist() == [kind]


def test_a_holiday_is_one_from_midnight_to_midnight_on_the_spot() -> None:
    start = datetime(2022, 7, 13, 20, tzinfo=UTC)
    found = local_time(ticks(start, 28 * 60, timedelta(minutes=1)), "Europe/Paris")
    free = np.flatnonzero(found.day_type == FREE_DAY)
    assert free.tolist() == list(range(2 * 60, 26 * 60))  # 22:00 UTC is midnight in Paris


def test_holidays_have_names() -> None:
    assert date(2024, 7, 14) in public_holidays("Europe/Paris", range(2024, 2025))
    assert len(public_holidays("Europe/Paris", range(2024, 2025))) == 11
    assert public_holidays("UTC", range(2024, 2025)) == {}
