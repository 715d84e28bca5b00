"""Delete what is past its retention: raw days, station rows, issues, and all but the newest versions of models."""

from datetime import datetime

from velib_predictor.config.config import Settings
from velib_predictor.data.archive import Archive
from velib_predictor.data.database import Database
from velib_predictor.data.housekeeping import keep_archive
from velib_predictor.data.inventory import delete_expired_rows
from velib_predictor.inference.issues import delete_expired_issues
from velib_predictor.inference.store import ModelStore

VERSIONS_KEPT = 7
"""Trainings of a model that are kept, the newest ones."""


def prune_archive(settings: Settings, now: datetime) -> dict[str, int]:
    """Pack closed days of the raw archive and delete expired ones; returns counts of both."""
    done = {"packed": 0, "deleted": 0}
    for folder in sorted(settings.raw_dir.iterdir()) if settings.raw_dir.is_dir() else []:
        if folder.is_dir():
            counts = keep_archive(Archive(settings.raw_dir, folder.name), settings, now)
            done = {name: done[name] + counts[name] for name in done}
    return done


def prune_database(settings: Settings, database: Database, now: datetime) -> dict[str, int]:
    """Delete expired station rows and issues; returns how many of each.

    Raises:
        DatabaseError: the database cannot be used.
    """
    done = {"rows": 0, "issues": 0}
    if settings.storage.retention:
        done["rows"] = delete_expired_rows(database, settings.storage.retention, now)
    if settings.forecast.retention:
        done["issues"] = delete_expired_issues(database, now - settings.forecast.retention)
    return done


def prune_models(settings: Settings) -> dict[str, int]:
    """Delete all but the newest versions of each model; returns how many."""
    return {"models": ModelStore(settings.models_dir).prune(VERSIONS_KEPT)}
