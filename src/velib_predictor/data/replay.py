"""From archived polls to rows: the same step for a poll made now and for one that the archive holds."""

from collections.abc import Callable, Sequence
from pathlib import Path

from velib_predictor.config.config import Settings
from velib_predictor.data.archive import ArchiveError, BodyReader, read_paths
from velib_predictor.data.checks import LedgerEntry
from velib_predictor.data.database import Database
from velib_predictor.data.decoder import Decoder
from velib_predictor.data.raw import STATUS, DecodeError, RawPoll
from velib_predictor.data.snapshot import Snapshot
from velib_predictor.data.store import Store


def decode(decoder: Decoder, poll: RawPoll, body: BodyReader) -> Snapshot | DecodeError | None:
    """What a poll says; why it says nothing; None where it holds no answer."""
    if poll.error or poll.missed or poll.document(STATUS) is None:
        return None
    try:
        return decoder.decode(poll, body)
    except DecodeError as error:
        return error
    except ArchiveError as error:
        return DecodeError(str(error))


def replay(
    database: Database,
    paths: Sequence[Path],
    settings: Settings,
    on_poll: Callable[[RawPoll, LedgerEntry | None], None] = lambda _poll, _entry: None,
) -> dict[str, int]:
    """Record every archived poll below `paths` that the ledger does not hold yet; `on_poll` is told of each.

    Returns how many polls were `recorded`, and how many were `known` already.

    Raises:
        ArchiveError: a path is no archive.
    """
    stores: dict[str, Store] = {}
    decoder = Decoder()
    counts = {"recorded": 0, "known": 0}
    for poll, body in read_paths(paths):
        store = stores.get(poll.system_id)
        if store is None:
            system = settings.systems.get(poll.system_id)
            store = stores[poll.system_id] = Store(database, poll.system_id, system, settings.collector)
        known = store.has(poll.polled_at)
        entry = None if known else store.record(poll, decode(decoder, poll, body))
        counts["known" if known else "recorded"] += 1
        on_poll(poll, entry)
    return counts
