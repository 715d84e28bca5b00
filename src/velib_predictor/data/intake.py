"""Taking polls in: acknowledged in the archive first, then stored; what cannot be stored now waits in the archive."""

from collections.abc import Callable, Mapping
from datetime import timedelta

import msgspec

from velib_predictor.data.archive import Archive
from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.raw import RawPoll
from velib_predictor.data.replay import absorb, absorb_unknown
from velib_predictor.data.store import Decoded, Store
from velib_predictor.utils.logger import get_logger

_OVERLAP = timedelta(days=1)
"""How far behind the newest ledger row a waiting poll may lie: a clock that is set back dates polls before it."""
_log = get_logger(__name__)

OnStored = Callable[[LedgerEntry, Decoded], None]


class Intake:
    """The way of one system's polls into its archive and its database; `on_stored` is told of each that is stored."""

    def __init__(self, archive: Archive, store: Store, on_stored: OnStored) -> None:
        self._archive = archive
        self._store = store
        self._decoder = Decoder()
        self._on_stored = on_stored
        self._behind = True  # polls may have been acknowledged but not stored before the last end
        self._latest: LedgerEntry | None = None

    def take(
        self, raw: RawPoll, bodies: Mapping[str, bytes], enough: Callable[[], bool] = lambda: False
    ) -> LedgerEntry | None:
        """Archive a poll and store it. None: it waits behind others, of which `enough` were stored for now.

        A poll that cannot be archived is not acknowledged, and recorded as failed.

        Raises:
            DatabaseError: it is archived, and stored as soon as the database can be used again.
        """
        try:
            self._archive.put(raw, bodies)
        except OSError as error:
            _log.error("poll lost: the archive cannot be written", system=raw.system_id, error=str(error))
            raw = msgspec.structs.replace(raw, documents=(), error=f"the raw archive cannot be written: {error}")
        if not self.catch_up(enough):
            return None
        if self._latest is None or self._latest.polled_at != raw.polled_at:  # else it was the last that was waiting
            try:
                self._tell(*absorb(self._store, self._decoder, raw, bodies.__getitem__))
            except Exception:
                self._behind = True
                raise
        return self._latest

    def catch_up(self, enough: Callable[[], bool] = lambda: False) -> bool:
        """Store, in order, the archived polls that the ledger does not hold; False if some still wait.

        Raises:
            DatabaseError: the database cannot be used now.
        """
        if not self._behind:
            return True
        self._store.reload()
        newest = self._store.last_polled_at
        since = newest - _OVERLAP if newest else None
        known = self._store.known_polls(since)
        count = 0
        for entry, decoded in absorb_unknown(self._store, self._decoder, self._archive.read(since), known):
            self._tell(entry, decoded)
            count += 1
            if enough():
                return False
        self._behind = False
        if count > 1:
            _log.info("waiting polls stored", polls=count)
        return True

    @property
    def store(self) -> Store:
        """Where the polls go."""
        return self._store

    def _tell(self, entry: LedgerEntry, decoded: Decoded) -> None:
        self._latest = entry
        self._on_stored(entry, decoded)
