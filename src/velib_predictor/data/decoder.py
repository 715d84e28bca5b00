"""From one raw poll to a snapshot. Reads nothing but the poll and its documents: the archive replays to the same."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from velib_predictor.data.gbfs import StatusPart, VehicleKinds, decode_status
from velib_predictor.data.information import (
    InformationPart,
    SystemPart,
    decode_information,
    decode_vehicle_kinds,
    read_system,
)
from velib_predictor.data.opendata_paris import decode_export
from velib_predictor.data.raw import INFORMATION, STATUS, SYSTEM, VEHICLE_TYPES, DecodeError, Document, RawPoll
from velib_predictor.data.snapshot import Snapshot, StationInfo

Body = Callable[[str], bytes]
"""The bytes that a SHA-256 names."""

T = TypeVar("T")

_KEPT = 8


class _Cache(Generic[T]):
    """The last few decoded documents by SHA-256; what cannot be decoded is remembered by its message."""

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        self._decode = decode
        self._decoded: OrderedDict[str, T | DecodeError] = OrderedDict()

    def __call__(self, document: Document | None, body: Body) -> T | DecodeError | None:
        if document is None:
            return None
        sha = document.sha256
        if sha not in self._decoded:
            try:
                self._decoded[sha] = self._decode(body(sha))
            except DecodeError as error:
                self._decoded[sha] = error
            if len(self._decoded) > _KEPT:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(sha)
        return self._decoded[sha]


class Decoder:
    """Decodes the polls of one or more systems.

    Slowly changing documents are decoded once: polls that name the same station information get the identical
    `Snapshot.information` object, so that `is` tells whether it changed.
    """

    def __init__(self) -> None:
        self._information: _Cache[InformationPart] = _Cache(decode_information)
        self._system: _Cache[SystemPart] = _Cache(read_system)
        self._kinds: _Cache[VehicleKinds] = _Cache(decode_vehicle_kinds)
        self._own: OrderedDict[tuple[StationInfo, ...], tuple[StationInfo, ...]] = OrderedDict()

    def decode(self, poll: RawPoll, body: Body) -> Snapshot:
        """Decode a poll; `body` gives the bytes of each document that it names.

        Raises:
            DecodeError: the poll has no status document, or one that is not what it should be; says which and what
                was found. Other documents that cannot be read only leave a note.
        """
        status = poll.document(STATUS)
        if poll.error is not None or status is None:
            raise DecodeError(poll.error or f"the poll of {poll.system_id} has no {STATUS} document")
        notes: list[str] = []
        information = self._readable(self._information(poll.document(INFORMATION), body), notes)
        system = self._readable(self._system(poll.document(SYSTEM), body), notes)
        kinds = self._readable(self._kinds(poll.document(VEHICLE_TYPES), body), notes)
        part = _status(poll, body(status.sha256), information, kinds)
        if information is not None and _fetched_now(poll, INFORMATION):
            notes += information.notes
        if system is not None and _fetched_now(poll, SYSTEM):
            notes += system.notes
        return Snapshot(
            system_id=poll.system_id,
            fetched_at=poll.polled_at,
            feed_time=part.feed_time,
            stations=part.stations,
            information=information.stations if information else self._same(part.information),
            system=system.system if system else None,
            rejected=part.rejected,
            notes=(*part.notes, *notes),
            ttl_s=part.ttl_s,
        )

    @staticmethod
    def _readable(decoded: T | DecodeError | None, notes: list[str]) -> T | None:
        if isinstance(decoded, DecodeError):
            notes.append(str(decoded))
            return None
        return decoded

    def _same(self, information: tuple[StationInfo, ...]) -> tuple[StationInfo, ...]:
        """The object that was given out before for equal information of a source without an own document for it."""
        if not information:
            return ()
        same = self._own.setdefault(information, information)
        self._own.move_to_end(same)
        if len(self._own) > _KEPT:
            self._own.popitem(last=False)
        return same


def _status(poll: RawPoll, body: bytes, information: InformationPart | None, kinds: VehicleKinds | None) -> StatusPart:
    if poll.kind == "gbfs":
        return decode_status(body, poll.polled_at, kinds)
    ids = None
    if information is not None:
        ids = {info.code: info.station_id for info in information.stations if info.code is not None} or None
    return decode_export(body, poll.polled_at, ids)


def _fetched_now(poll: RawPoll, name: str) -> bool:
    """Whether a document in force came with this poll: it is asked for after the status, which dates the poll."""
    document = poll.document(name)
    return document is not None and document.status != 304 and document.fetched_at >= poll.polled_at
