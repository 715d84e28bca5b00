"""From archived polls to rows: the same step for a poll made now and for those that the archive holds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from velib_predictor.config.config import Settings
from velib_predictor.data.archive import ArchiveError, BodyReader, read_paths
from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.database import Database, DatabaseError, RefusedError
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.lock import database_lock
from velib_predictor.data.raw import STATUS, DecodeError, RawPoll
from velib_predictor.data.store import Decoded, Store
from velib_predictor.utils.logger import get_logger

_log = get_logger(__name__)


def absorb(store: Store, decoder: Decoder, poll: RawPoll, body: BodyReader) -> tuple[LedgerEntry, Decoded]:
    """Decode a poll and record it.

    A poll that cannot be stored for a reason of its own (a value that the database refuses, a mistake in this program)
    is recorded as failed, with the reason: it may not keep those after it from being stored.

    Raises:
        DatabaseError: the database cannot be used now. Nothing was recorded; reload the store before the next poll.
    """
    try:
        decoded = decode(decoder, poll, body)
        return store.record(poll, decoded), decoded
    except Exception as error:
        if isinstance(error, DatabaseError) and not isinstance(error, RefusedError):
            raise
        _log.exception("a poll cannot be stored", system=poll.system_id, polled_at=str(poll.polled_at))
        reason = DecodeError(f"it could not be stored: {error}")
    store.reload()
    return store.record(poll, reason), reason


def decode(decoder: Decoder, poll: RawPoll, body: BodyReader) -> Decoded:
    """What a poll says; why it says nothing; None where it holds no answer."""
    if poll.error or poll.missed or poll.document(STATUS) is None:
        return None
    try:
        return decoder.decode(poll, body)
    except DecodeError as error:
        return error
    except ArchiveError as error:
        return DecodeError(str(error))


def absorb_unknown(
    store: Store, decoder: Decoder, polls: Iterable[tuple[RawPoll, BodyReader]], known: set[datetime]
) -> Iterator[tuple[LedgerEntry, Decoded]]:
    """Record, one by one as the caller asks for them, the polls whose times are not `known`.

    Raises:
        DatabaseError: as `absorb`.
    """
    for poll, body in polls:
        if poll.polled_at not in known:
            yield absorb(store, decoder, poll, body)


def replay(
    database: Database,
    paths: Sequence[Path],
    settings: Settings,
    on_poll: Callable[[RawPoll, LedgerEntry], None] = lambda _poll, _entry: None,
) -> dict[str, int]:
    """Record every archived poll below `paths` that the ledger does not hold yet; `on_poll` is told of each.

    Returns how many polls were `recorded`, how many were `known` already, and how many files are `damaged`.

    Raises:
        ArchiveError: a path is no archive.
        AlreadyRunningError: a collector writes one of the systems into this database.
    """
    stores: dict[str, tuple[Store, set[datetime]]] = {}
    decoder = Decoder()
    counts = {"recorded": 0, "known": 0, "damaged": 0}

    def on_damage(message: str) -> None:
        counts["damaged"] += 1
        _log.error("skipped: the archive is damaged", detail=message)

    with ExitStack() as locks:
        for poll, body in read_paths(paths, on_damage=on_damage):
            if poll.system_id not in stores:
                locks.enter_context(database_lock(database, poll.system_id))
                system = settings.systems.get(poll.system_id)
                store = Store(database, poll.system_id, system, settings.collector)
                stores[poll.system_id] = store, store.known_polls(None)
            store, known = stores[poll.system_id]
            if poll.polled_at in known:
                counts["known"] += 1
                continue
            entry, _ = absorb(store, decoder, poll, body)
            known.add(poll.polled_at)
            counts["recorded"] += 1
            on_poll(poll, entry)
    return counts
