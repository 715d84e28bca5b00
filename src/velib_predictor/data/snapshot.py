"""What a feed said at one moment, in the one form that everything behind the decoder reads.

Missing is None, never 0 or True. `fetched_at` is the time of observation: a feed's own times stand still
or step back while its counts move (seen on Vélib', 2024-11).
"""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec


class Values(NamedTuple):
    """What a station row holds: a new row is written when one of these differs from the last row."""

    bikes: int | None = None
    mechanical: int | None = None
    ebikes: int | None = None
    docks: int | None = None
    bikes_disabled: int | None = None
    docks_disabled: int | None = None
    is_installed: bool | None = None
    is_renting: bool | None = None
    is_returning: bool | None = None


UNKNOWN = Values()
"""The row of a station that an accepted poll did not contain, or contained only as a broken record."""


class StationStatus(msgspec.Struct, frozen=True, gc=False):
    """One station of one snapshot. `code` is the public number on the kiosk, where the feed gives it."""

    station_id: str
    code: str | None
    values: Values
    last_reported: datetime | None


class StationInfo(msgspec.Struct, frozen=True, gc=False):
    """What does not change from poll to poll. A None never overwrites a value that is known."""

    station_id: str
    code: str | None = None
    name: str | None = None
    lat: float | None = None
    lon: float | None = None
    capacity: int | None = None


class SystemInfo(msgspec.Struct, frozen=True):
    """The system's own card: names for people, and the time zone of its calendar."""

    system_id: str | None = None
    name: str | None = None
    timezone: str | None = None
    language: str | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All stations of one system at `fetched_at` (UTC).

    `stations` has one record a station (duplicates are resolved), in the feed's order. `rejected` holds one
    sentence for each record that could not be read; `notes` what was repaired. `information` is what was in force, be
    it fetched with this poll or earlier: the identical object as long as it is the same document.
    """

    system_id: str
    fetched_at: datetime
    feed_time: datetime | None
    stations: tuple[StationStatus, ...]
    information: tuple[StationInfo, ...] = ()
    system: SystemInfo | None = None
    rejected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ttl_s: int | None = None


class Outcome(StrEnum):
    """What became of a poll: the ledger's vocabulary."""

    OK = "ok"
    NOT_MODIFIED = "not_modified"
    FROZEN = "frozen"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    MISSED = "missed"

    @property
    def accepted(self) -> bool:
        """Whether stations without a new row are known to be unchanged at this poll."""
        return self in (Outcome.OK, Outcome.NOT_MODIFIED)
