"""The archive's upkeep: expired days are deleted, closed ones packed. Hourly by the collector, or by `velib prune`."""

import shutil
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from velib_predictor.config.config import Settings
from velib_predictor.data.archive import Archive
from velib_predictor.data.raw import RawPoll
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger

# A running collector archives a poll every few minutes, so a clock that is further ahead of the newest answer either
# runs wrong or looks at an archive that nobody adds to.
_PLAUSIBLE_AHEAD = timedelta(days=2)
_log = get_logger(__name__)


def keep_archive(archive: Archive, settings: Settings, now: datetime) -> dict[str, int]:
    """Delete the archive's days past retention, then pack its closed ones, if the disk has room to work in.

    Returns how many days were `packed` and `deleted`. What fails is logged, counts as none, and keeps nothing else
    from being done.
    """
    done = {"packed": 0, "deleted": 0}
    if not archive.folder.is_dir():
        return done
    try:
        if settings.archive.retention:
            done["deleted"] = _delete_expired(archive, settings.archive.retention, now)
    except (OSError, VelibError) as error:
        _log.error("expired days not deleted", system=archive.system_id, error=str(error))
    try:  # after deleting, which makes room
        free_mb, needed_mb = shutil.disk_usage(archive.folder).free // 2**20, settings.archive.min_free_mb
        if free_mb >= needed_mb:
            done["packed"] = len(archive.pack(now, settings.archive.pack_after))
        else:
            _log.error("disk nearly full: nothing packed", free_mb=free_mb, needed_mb=needed_mb)
    except (OSError, VelibError) as error:
        _log.error("closed days not packed", system=archive.system_id, error=str(error))
    return done


def _delete_expired(archive: Archive, retention: timedelta, now: datetime) -> int:
    proven = _proven_time(archive, now)
    if proven is None:
        _log.error("nothing deleted: no answer in the archive tells the time", system=archive.system_id)
        return 0
    if now - proven > _PLAUSIBLE_AHEAD:
        # Deleting by this clock could delete everything, and nothing gets older in an archive that nobody adds to.
        _log.error(
            "the clock is far ahead of the newest archived answer; retention counts from that answer",
            system=archive.system_id,
            clock=now.isoformat(),
            newest=proven.isoformat(),
        )
    return len(archive.prune((min(now, proven) - retention).astimezone(UTC).date()))


def _proven_time(archive: Archive, now: datetime) -> datetime | None:
    """The newest time that an answer of the feed vouches for."""
    for day in reversed(archive.days()):  # those ahead of the clock are left from when it was wrong
        if day <= now.astimezone(UTC).date():
            times = [_time_of_answer(poll) for poll, _ in archive.read_day(day) if poll.documents]
            if times:
                return max(times)
    return None


def _time_of_answer(poll: RawPoll) -> datetime:
    """When a poll was answered: by the clock here or by the server's, whichever is earlier.

    A clock that jumps ahead dates the next poll ahead, too; the answer's own Date does not follow it.
    """
    dates = []
    for document in poll.documents:
        try:
            date = parsedate_to_datetime(document.headers.get("date", ""))
        except (ValueError, OverflowError):
            continue
        dates.append(date if date.tzinfo else date.replace(tzinfo=UTC))
    return min(poll.polled_at, max(dates, default=poll.polled_at))
