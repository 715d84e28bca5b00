"""The archive's upkeep: retention never trusts the clock alone, and a full disk recovers."""

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.test_data.test_archive import poll_of
from velib_predictor.config.config import ArchiveSettings, Settings
from velib_predictor.data.archive import Archive
from velib_predictor.data.housekeeping import keep_archive
from velib_predictor.data.packing import alone
from velib_predictor.data.raw import RawPoll
from velib_predictor.utils.errors import VelibError

NOW = datetime(2026, 3, 30, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def settings(folder: Path, retention: timedelta | None = 10 * DAY, **more: Any) -> Settings:
    return Settings(data_dir=folder, archive=ArchiveSettings(retention=retention, **more))


def put(archive: Archive, at: datetime, told: datetime | None = None) -> None:
    """A poll by the clock here at `at`, answered with the Date `told`."""
    raw, bodies = poll_of(at, b"body")
    if told:
        headers = {"date": format_datetime(told, usegmt=True)}
        raw = msgspec.structs.replace(raw, documents=(msgspec.structs.replace(raw.documents[0], headers=headers),))
    archive.put(raw, bodies)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """A poll at noon of each day of March to the 30th, answered with the right Date."""
    archive = Archive(tmp_path / "raw", "velib")
    for day in range(1, 31):
        at = datetime(2026, 3, day, 12, 0, tzinfo=UTC)
        put(archive, at, told=at)
    return archive


def test_expired_days_are_deleted_and_closed_ones_packed(archive: Archive, tmp_path: Path) -> None:
    assert keep_archive(archive, settings(tmp_path), NOW) == {"packed": 10, "deleted": 19}
    assert archive.days() == [date(2026, 3, day) for day in range(20, 31)]
    assert keep_archive(archive, settings(tmp_path), NOW) == {"packed": 0, "deleted": 0}


def test_without_retention_nothing_is_deleted(archive: Archive, tmp_path: Path) -> None:
    assert keep_archive(archive, settings(tmp_path, retention=None), NOW) == {"packed": 29, "deleted": 0}


def test_a_full_disk_is_made_room_on(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(_folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=2**20 * (600 if len(archive.days()) < 15 else 100))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert keep_archive(archive, settings(tmp_path, retention=20 * DAY), NOW) == {
        "packed": 0,
        "deleted": 9,
    }  # still full
    assert keep_archive(archive, settings(tmp_path), NOW) == {"packed": 10, "deleted": 10}


FUTURE = NOW + 3650 * DAY


def test_a_clock_in_the_future_deletes_nothing_that_is_not_expired(archive: Archive, tmp_path: Path) -> None:
    assert keep_archive(archive, settings(tmp_path), FUTURE)["deleted"] == 19
    assert archive.days() == [date(2026, 3, day) for day in range(20, 31)]


def test_polls_dated_by_a_clock_in_the_future_prove_nothing(archive: Archive, tmp_path: Path) -> None:
    """The collector archives a poll before it keeps house: the newest poll is as wrong as the clock."""
    put(archive, FUTURE, told=NOW)
    failed = RawPoll(system_id="velib", polled_at=FUTURE + DAY, scheduled_at=FUTURE, error="certificate has expired")
    archive.put(failed, {})
    keep_archive(archive, settings(tmp_path), FUTURE + DAY)
    assert archive.days()[:11] == [date(2026, 3, day) for day in range(20, 31)]


def test_a_jump_of_the_clock_does_not_stop_retention_for_good(archive: Archive, tmp_path: Path) -> None:
    put(archive, FUTURE, told=NOW)
    put(archive, NOW + 5 * DAY, told=NOW + 5 * DAY)  # set right again
    keep_archive(archive, settings(tmp_path), NOW + 5 * DAY)
    assert archive.days()[0] == date(2026, 3, 25)


def test_a_stopped_collectors_history_outlives_prune_months_later(archive: Archive, tmp_path: Path) -> None:
    keep_archive(archive, settings(tmp_path, retention=40 * DAY), NOW)
    assert keep_archive(archive, settings(tmp_path, retention=40 * DAY), NOW + 300 * DAY)["deleted"] == 0
    assert len(archive.days()) == 30


def test_a_long_outage_of_the_feed_deletes_nothing(archive: Archive, tmp_path: Path) -> None:
    for days in range(1, 100):
        at = NOW + days * DAY
        archive.put(RawPoll(system_id="velib", polled_at=at, scheduled_at=at, error="no answer"), {})
    keep_archive(archive, settings(tmp_path), NOW + 100 * DAY)
    assert date(2026, 3, 20) in archive.days()


def test_without_an_answer_nothing_tells_the_time(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "raw", "velib")
    for days in range(30):
        at = NOW - days * DAY
        archive.put(RawPoll(system_id="velib", polled_at=at, scheduled_at=at, error="no answer"), {})
    assert keep_archive(archive, settings(tmp_path), NOW)["deleted"] == 0


@pytest.mark.parametrize("date_header", ["", "yesterday", "Mon, 99 Mar 2026 12:00:00 GMT", "Mon, 30 Mar 2026 12:00:00"])
def test_an_odd_date_of_the_server_is_no_obstacle(archive: Archive, tmp_path: Path, date_header: str) -> None:
    raw, bodies = poll_of(NOW + timedelta(minutes=1), b"body")
    document = msgspec.structs.replace(raw.documents[0], headers={"date": date_header})
    archive.put(msgspec.structs.replace(raw, documents=(document,)), bodies)
    assert keep_archive(archive, settings(tmp_path), NOW + timedelta(minutes=1))["deleted"] == 19


def test_an_archive_that_does_not_exist_is_kept_well(tmp_path: Path) -> None:
    assert keep_archive(Archive(tmp_path, "nobody"), settings(tmp_path), NOW) == {"packed": 0, "deleted": 0}
    assert list(tmp_path.iterdir()) == []


def test_while_somebody_else_keeps_house_nothing_is_done(archive: Archive, tmp_path: Path) -> None:
    with alone(archive.folder):
        assert keep_archive(archive, settings(tmp_path), NOW) == {"packed": 0, "deleted": 0}
    assert len(archive.days()) == 30


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), VelibError("something")])
def test_what_fails_counts_as_none_and_keeps_nothing_else_from_being_done(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_args: object) -> Iterator[None]:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Archive, "pack", fails)
        assert keep_archive(archive, settings(tmp_path), NOW) == {"packed": 0, "deleted": 19}
    with monkeypatch.context() as patched:
        patched.setattr(Archive, "prune", fails)
        assert keep_archive(archive, settings(tmp_path, retention=5 * DAY), NOW) == {"packed": 10, "deleted": 0}
    with monkeypatch.context() as patched:
        patched.setattr(Archive, "days", fails)
        assert keep_archive(archive, settings(tmp_path), NOW) == {"packed": 0, "deleted": 0}
