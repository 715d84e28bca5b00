"""Time: what is written is read back exactly, nothing naive passes, ticks do not depend on a clock change."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from velib_predictor.utils.errors import ExitCode, UsageError
from velib_predictor.utils.temporal import (
    EPOCH,
    MICROSECOND,
    format_duration,
    format_time,
    from_micros,
    next_aligned,
    next_local,
    parse_duration,
    parse_time,
    to_micros,
)

PARIS = ZoneInfo("Europe/Paris")
FROM, TO = datetime(1900, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001

durations = st.timedeltas(min_value=MICROSECOND, max_value=timedelta(days=20_000))
instants = st.datetimes(FROM, TO, timezones=st.timezones())


# -- durations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("1h", 3600),
        ("7d", 604_800),
        ("1h30m", 5400),
        ("1d2h3m4s", 93_784),
        ("0.5s", 0.5),
        ("1.5h", 5400),
        (" 15m ", 900),
        ("PT15M", 900),
        ("PT1H30M", 5400),
        ("P1D", 86_400),
        ("P1DT12H", 129_600),
        ("PT0.5S", 0.5),
    ],
)
def test_durations_are_read_in_both_forms(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0s",
        "0m",
        "PT0S",
        "P",
        "PT",
        "-15m",
        "15",
        "15 m",
        "15min",
        "m",
        "1.h",
        ".5s",
        "1m1h",
        "1M",
        "P1M",
        "P1Y",
        "pt15m",
        "15m\n15m",
        "1e3s",
        "∞",
        "²s",
        "0.0000001s",  # no whole microsecond
        "PT0.0000001S",
        "99999999999d",  # longer than a timedelta can be
        "9" * 400 + "s",  # longer than a float can be
    ],
)
def test_other_durations_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
    assert "15m" in str(caught.value), "the message shows how it is written"
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(minutes=15), "15m"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(days=7), "7d"),
        (timedelta(milliseconds=500), "0.5s"),
        (timedelta(microseconds=1), "0.000001s"),
        (timedelta(days=1, seconds=1), "1d1s"),
        (timedelta(0), "0s"),
    ],
)
def test_durations_are_written_short(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@given(durations)
def test_a_written_duration_is_read_back_exactly(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


# -- times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "2024-11-05T08:10:00+01:00",
        "2024-11-05T07:10:00Z",
        "2024-11-05 07:10:00+00:00",
        " 2024-11-05T07:10:00Z ",
        "2024-11-05T12:55:00+05:45",
    ],
)
def test_times_are_read_as_utc(text: str) -> None:
    value = parse_time(text)
    assert value == datetime(2024, 11, 5, 7, 10, tzinfo=UTC)
    assert value.tzinfo is UTC


@pytest.mark.parametrize("text", ["2024-11-05T08:10:00", "2024-11-05 08:10", "2024-11-05"])
def test_a_time_without_offset_is_refused_with_a_proposal(text: str) -> None:
    with pytest.raises(UsageError, match="no offset from UTC") as caught:
        parse_time(text)
    assert text in str(caught.value)


@pytest.mark.parametrize("text", ["", "now", "08:10", "2024-13-01T00:00:00Z", "2024-02-30T00:00:00Z", "1730790600"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_outside_the_calendar_in_utc_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="years 1 to 9999") as caught:
        parse_time(text)
    assert text in str(caught.value)


@given(instants)
def test_a_written_time_is_read_back_exactly(value: datetime) -> None:
    text = format_time(value)
    assert text.endswith("Z")
    assert parse_time(text) == value.astimezone(UTC)


@given(instants)
def test_microseconds_since_the_epoch_are_exact(value: datetime) -> None:
    micros = to_micros(value)
    assert from_micros(micros) == value.astimezone(UTC)
    assert to_micros(from_micros(micros)) == micros


@given(st.integers(min_value=-(2**51), max_value=2**51))
def test_every_microsecond_survives(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros


def test_a_naive_time_is_refused() -> None:
    naive = datetime(2024, 11, 5)  # noqa: DTZ001
    with pytest.raises(ValueError, match="naive time"):
        to_micros(naive)
    with pytest.raises(ValueError, match="naive time"):
        format_time(naive)


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    first = datetime(2024, 10, 27, 2, 30, tzinfo=PARIS)
    second = first.replace(fold=1)
    assert format_time(first) == "2024-10-27T00:30:00Z"
    assert format_time(second) == "2024-10-27T01:30:00Z"
    assert to_micros(second) - to_micros(first) == 3_600_000_000
    assert parse_time("2024-10-27T02:30:00+02:00") != parse_time("2024-10-27T02:30:00+01:00")


def test_the_hour_that_does_not_come_is_no_gap_in_utc() -> None:
    before = parse_time("2024-03-31T01:59:59+01:00")
    after = parse_time("2024-03-31T03:00:00+02:00")
    assert after - before == timedelta(seconds=1)


# -- ticks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "every", "lead", "expected"),
    [
        ("08:00:00", "15m", "15s", "08:14:45"),
        ("08:14:44.999999", "15m", "15s", "08:14:45"),
        ("08:14:45", "15m", "15s", "08:29:45"),
        ("08:14:50", "15m", "15s", "08:29:45"),
        ("23:59:50", "15m", "15s", "1 00:14:45"),
        ("08:00:30", "60s", "15s", "08:00:45"),
        ("08:00:50", "7m", "1s", "08:05:59"),
    ],
)
def test_the_next_poll_lies_a_lead_before_the_tick(now: str, every: str, lead: str, expected: str) -> None:
    day, _, clock = expected.rpartition(" ")
    result = next_aligned(parse_time(f"2024-11-05T{now}Z"), parse_duration(every), parse_duration(lead))
    assert result == parse_time(f"2024-11-05T{clock}Z") + timedelta(days=int(day or 0))


@given(instants, st.timedeltas(timedelta(seconds=1), timedelta(days=1)), st.floats(0, 1))
@example(datetime(2000, 10, 29, 1, tzinfo=ZoneInfo("America/Chicago"), fold=1), timedelta(seconds=1), 0.0)
def test_the_next_aligned_instant_is_the_first_one_after_now(now: datetime, every: timedelta, share: float) -> None:
    lead = every * share
    result = next_aligned(now, every, lead)
    assert (result + lead - EPOCH) % every == timedelta(0)
    assert now < result <= now.astimezone(UTC) + every  # a sum in a local zone is of clocks, not of time
    assert result.tzinfo is UTC


@given(instants, st.timedeltas(timedelta(seconds=1), timedelta(hours=1)))
def test_from_one_instant_to_the_next_it_is_one_step(now: datetime, every: timedelta) -> None:
    first = next_aligned(now, every, timedelta(0))
    assert next_aligned(first, every, timedelta(0)) == first + every


def test_ticks_go_evenly_through_both_clock_changes() -> None:
    every, lead = timedelta(minutes=15), timedelta(seconds=15)
    for night in (datetime(2024, 3, 31, tzinfo=PARIS), datetime(2024, 10, 27, tzinfo=PARIS)):
        ticks = [next_aligned(night, every, lead)]
        while len(ticks) < 30:
            # A caller may hold local times: the grid is the same.
            ticks.append(next_aligned(ticks[-1].astimezone(PARIS), every, lead))
        assert {later - earlier for earlier, later in pairwise(ticks)} == {every}


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    minute=st.integers(0, 1439),
    zone=st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
)
@example(now=datetime(2028, 9, 29, 16, tzinfo=UTC), minute=120, zone="Australia/Lord_Howe")  # left out the next day
def test_the_next_local_time_is_the_first_that_clocks_show(now: datetime, minute: int, zone: str) -> None:
    """Against a search minute by minute."""
    here, at = ZoneInfo(zone), time(minute // 60, minute % 60)
    found = next_local(now, at, here)
    whole = now.replace(second=0, microsecond=0)
    minutes = (whole + timedelta(minutes=n) for n in range(1, 50 * 60))
    first = next(t for t in minutes if (local := t.astimezone(here)).time() == at and local.fold == 0)
    assert found == first or (now < found < first and found.astimezone(here).time() != at), "left out that day"


def test_every_local_day_has_one_such_time() -> None:
    zone, now = ZoneInfo("Europe/Paris"), datetime(2026, 3, 1, tzinfo=UTC)
    found: list[date] = []
    while len(found) < 300:
        now = next_local(now, time(2, 30), zone)
        found.append(now.astimezone(zone).date())
    assert found == [found[0] + timedelta(days=n) for n in range(300)]
