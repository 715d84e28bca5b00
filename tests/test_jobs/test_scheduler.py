"""Jobs on a clock that jumps: when they run, that no error ends them, and that they end when they are told to."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.test_data.simulated import JumpingClock
from velib_predictor.jobs.scheduler import Job, Scheduler
from velib_predictor.utils.errors import VelibError

START = datetime(2026, 3, 4, 12, 7, tzinfo=UTC)
MINUTE, QUARTER = timedelta(minutes=1), timedelta(minutes=15)
DEADLINE_S = 20.0


def ran(job: Callable[[JumpingClock, threading.Event], Job], hours: float = 1.0) -> list[datetime]:
    """At which minutes the job runs until the clock ends, and the stop is set."""
    clock, stop = JumpingClock(START, START + timedelta(hours=hours)), threading.Event()
    made = job(clock, stop)
    times: list[datetime] = []

    def run(now: datetime) -> object:
        times.append(now.replace(microsecond=0))
        return made.run(now)

    watched = Job(made.name, run, made.every, made.lag, made.at_once)
    with Scheduler([watched], stop, clock):  # type: ignore[arg-type]
        assert stop.wait(DEADLINE_S)
    return times


def at(*texts: str) -> list[datetime]:
    return [datetime.fromisoformat(f"2026-03-04T{text}").replace(tzinfo=UTC) for text in texts]


def nothing(_now: datetime) -> None:
    pass


def test_it_runs_a_while_after_each_multiple() -> None:
    lag = timedelta(seconds=90)
    assert ran(lambda *_: Job("score", nothing, QUARTER, lag)) == at("12:16:30", "12:31:30", "12:46:30", "13:01:30")
    assert ran(lambda *_: Job("issue", nothing, QUARTER)) == at("12:15:00", "12:30:00", "12:45:00", "13:00:00")


def test_it_runs_at_once_where_it_is_asked_to() -> None:
    times = ran(lambda *_: Job("issue", nothing, QUARTER, timedelta(seconds=1), at_once=True), hours=0.25)
    assert times == at("12:07:00", "12:15:01")


def test_once_a_day_at_its_hour() -> None:
    lag = timedelta(hours=2, minutes=20)
    times = ran(lambda *_: Job("retrain", nothing, timedelta(days=1), lag), hours=48)
    assert [time.isoformat()[:16] for time in times] == ["2026-03-05T02:20", "2026-03-06T02:20"]


def test_a_daily_job_runs_at_the_clocks_time_whatever_clocks_do() -> None:
    """Paris, around the night of 2026-03-29, which has no 02:30: the job is done that day, too, and once."""
    first, last = (datetime(2026, 3, day, 12, tzinfo=UTC) for day in (27, 30))
    clock, stop = JumpingClock(first, last), threading.Event()
    times: list[str] = []
    run = Job.daily("retrain", lambda now: times.append(f"{now:%d %H:%M}"), time(2, 30), ZoneInfo("Europe/Paris"))
    with Scheduler([run], stop, clock):  # type: ignore[arg-type]
        assert stop.wait(DEADLINE_S)
    assert times == ["28 01:30", "29 01:30", "30 00:30"]


@pytest.mark.parametrize("error", [VelibError("the database is away"), RuntimeError("a mistake"), MemoryError()])
def test_no_error_ends_the_loop(error: Exception) -> None:
    def failing(_now: datetime) -> None:
        raise error

    assert len(ran(lambda *_: Job("issue", failing, QUARTER, at_once=True))) == 5


def test_what_takes_longer_than_its_turn_skips_turns_and_does_not_catch_up() -> None:
    def slow(clock: JumpingClock, _stop: threading.Event) -> Job:
        return Job("issue", lambda _now: clock.pass_time(20 * MINUTE), QUARTER)

    assert ran(slow, hours=2) == at("12:15:00", "12:45:00", "13:15:00", "13:45:00")


def test_a_stop_in_the_middle_of_a_run_ends_it_after_that_run() -> None:
    def stopping(_clock: JumpingClock, stop: threading.Event) -> Job:
        return Job("issue", lambda _now: stop.set(), QUARTER)

    assert ran(stopping, hours=1000) == at("12:15:00")


def test_a_stop_before_the_start_runs_nothing() -> None:
    clock, stop = JumpingClock(START, START + QUARTER), threading.Event()
    stop.set()
    times: list[datetime] = []
    with Scheduler([Job("issue", times.append, QUARTER, at_once=True)], stop, clock):  # type: ignore[arg-type]
        pass
    assert times == []


def test_jobs_do_not_wait_for_one_another_and_leaving_waits_for_all() -> None:
    """On the machine's own clock: one job is in the middle of its run while the other is begun and done."""
    stop, release, begun, other = (threading.Event() for _ in range(4))
    done: list[str] = []

    def slow(_now: datetime) -> None:
        begun.set()
        assert release.wait(DEADLINE_S)
        done.append("slow")

    def quick(_now: datetime) -> None:
        assert begun.wait(DEADLINE_S)
        other.set()

    jobs = [Job(name, run, timedelta(days=365), at_once=True) for name, run in (("slow", slow), ("quick", quick))]
    with Scheduler(jobs, stop):
        assert other.wait(DEADLINE_S)
        assert done == []
        release.set()
    assert done == ["slow"]
    assert stop.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("job-")]
