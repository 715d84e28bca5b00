"""What is past its retention goes, and what is served from stays: the newest issue, the newest models."""

from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select

from tests.test_data.test_archive import poll_of
from tests.test_inference.made import some_issue
from tests.test_inference.test_predictor import START
from tests.test_jobs.conftest import DAY, HOUR, fitted
from velib_predictor.config.config import ArchiveSettings, ForecastSettings, Settings, StorageSettings
from velib_predictor.data.archive import Archive
from velib_predictor.data.database import Database
from velib_predictor.data.panel import Panel
from velib_predictor.data.schema import Poll, StationStatus
from velib_predictor.inference.issues import Issues
from velib_predictor.inference.store import ModelStore
from velib_predictor.jobs.prune import VERSIONS_KEPT, prune_archive, prune_database, prune_models

NOW = START + 9 * DAY
Days = dict[str, list[int]]


def days(settings: Settings) -> Days:
    return {name: [day.day for day in Archive(settings.raw_dir, name).days()] for name in ("town", "oslo")}


@pytest.fixture
def archived(tmp_path: Path) -> Settings:
    """Two systems with a poll at noon of each day of March to the 10th."""
    settings = Settings(data_dir=tmp_path, archive=ArchiveSettings(retention=5 * DAY))
    for name in ("town", "oslo"):
        archive = Archive(settings.raw_dir, name)
        for day in range(1, 11):
            at = datetime(2026, 3, day, 12, tzinfo=UTC)
            raw, bodies = poll_of(at, b"body")
            headers = {"date": format_datetime(at, usegmt=True)}
            document = msgspec.structs.replace(raw.documents[0], headers=headers)
            archive.put(msgspec.structs.replace(raw, system_id=name, documents=(document,)), bodies)
    return settings


def test_all_systems_archives_are_packed_and_pruned(archived: Settings) -> None:
    now = datetime(2026, 3, 10, 13, tzinfo=UTC)
    assert prune_archive(archived, now) == {"packed": 2 * 5, "deleted": 2 * 4}
    assert days(archived) == {name: list(range(5, 11)) for name in ("town", "oslo")}
    assert prune_archive(archived, now) == {"packed": 0, "deleted": 0}


def test_without_an_archive_there_is_nothing_to_do(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "nowhere")
    assert prune_archive(settings, NOW) == {"packed": 0, "deleted": 0}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("a file beside the systems' folders")
    assert prune_archive(Settings(data_dir=tmp_path), NOW) == {"packed": 0, "deleted": 0}


def test_rows_and_issues_past_their_retention_go(stored: Database) -> None:
    issues = Issues(stored, "town")
    for hours in range(0, 48, 6):
        issues.add(some_issue(issued_at=NOW - hours * HOUR))
    settings = Settings(storage=StorageSettings(retention=3 * DAY), forecast=ForecastSettings(retention=DAY))

    def rows(before: datetime) -> int:
        with stored.read() as connection:
            return sum(
                int(connection.execute(select(func.count()).where(column < before)).scalar_one())
                for column in (StationStatus.observed_at, Poll.polled_at)
            )

    with stored.read() as connection:
        newest = connection.execute(select(func.max(StationStatus.observed_at))).scalar_one()
    expired, all_rows = rows(newest - 3 * DAY), rows(NOW + DAY)
    done = prune_database(settings, stored, NOW)
    assert done == {"rows": expired, "issues": 3}
    assert expired > 1000
    assert (rows(newest - 3 * DAY), rows(NOW + DAY)) == (0, all_rows - expired)
    assert min(issues.times(None, NOW + DAY)) == NOW - DAY
    assert prune_database(settings, stored, NOW) == {"rows": 0, "issues": 0}


def test_what_has_no_retention_stays_and_the_newest_issue_always(stored: Database) -> None:
    issues = Issues(stored, "town")
    for hours in range(3):
        issues.add(some_issue(issued_at=NOW - hours * HOUR))
    keeping = Settings(storage=StorageSettings(retention=None), forecast=ForecastSettings(retention=None))
    assert prune_database(keeping, stored, NOW + 1000 * DAY) == {"rows": 0, "issues": 0}
    assert prune_database(Settings(), stored, NOW + 1000 * DAY) == {"rows": 0, "issues": 2}
    assert issues.times(None, NOW + DAY) == [NOW]


def test_the_newest_versions_of_each_model_stay(tmp_path: Path, panel: Panel) -> None:
    settings = Settings(models_dir=tmp_path / "models")
    store = ModelStore(settings.models_dir)
    model = fitted("persistence_delta", panel)
    folders = [store.add(model, "town") for _ in range(VERSIONS_KEPT + 2)]
    others = [store.add(fitted("climatology", panel), "town"), store.add(model, "oslo")]
    saving = folders[0].with_name(".20991231T000000.000000Z.7.partial")
    saving.mkdir()
    assert prune_models(settings) == {"models": 2}
    assert [folder.exists() for folder in folders] == [False] * 2 + [True] * VERSIONS_KEPT
    assert all(folder.exists() for folder in (*others, saving))
    assert store.newest("town", "persistence_delta").report == model.report
    assert prune_models(settings) == {"models": 0}
    assert prune_models(Settings(models_dir=tmp_path / "nowhere")) == {"models": 0}
