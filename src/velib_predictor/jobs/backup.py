"""A copy of the database, on the clock or by `velib db backup`."""

from datetime import datetime

from velib_predictor.config.config import Settings
from velib_predictor.data.backup import Backup, make_backup
from velib_predictor.data.database import Database
from velib_predictor.utils.logger import get_logger

_log = get_logger(__name__)


def run_backup(settings: Settings, database: Database, now: datetime) -> Backup:
    """Write one backup as `backup:` of the settings says, and delete those that are no longer to be kept.

    Raises:
        VelibError: there is none, and why; older ones are as they were.
    """
    made = make_backup(database, settings.backup, now)
    size = made.file.stat().st_size
    _log.info("backed up", file=str(made.file), bytes=size, rows=sum((made.rows or {}).values()))
    return made
