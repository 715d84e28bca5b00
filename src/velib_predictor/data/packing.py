"""The archive's files: a poll as JSON, and a closed day in one pack.

A pack is a `.tar.zst` of `polls.jsonl` and then the bodies, in the order in which the polls need them.
"""

import fcntl
import heapq
import io
import os
import tarfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import zstandard

from velib_predictor.data.raw import RawPoll, content_hash
from velib_predictor.utils.errors import VelibError

OnDamage = Callable[[str], None]
"""Told of each poll or pack that cannot be read and is skipped."""
BodyReader = Callable[[str], bytes]
"""Gives the body with a given SHA-256 (hexadecimal); raises ArchiveError."""

PACK_SUFFIX = ".tar.zst"
_INDEX = "polls.jsonl"
# 16 MiB see the last 30 or so snapshots of 1,500 stations, which is what makes a packed day small, and the
# collector's memory stays flat.
_WINDOW_LOG = 24
# What reading a damaged file can raise. ValueError: msgspec's errors, and text that is not UTF-8. MemoryError: a
# damaged zstd header may claim any size. OverflowError: times in the year 1 or 9999.
DAMAGE = (OSError, ValueError, OverflowError, MemoryError, RecursionError, tarfile.TarError, zstandard.ZstdError)

Written = tuple[RawPoll, bytes]
"""A poll, and the JSON that it was read from: a newer version may have written more than this one knows."""


class ArchiveError(VelibError):
    """An archived file is damaged or missing."""


class VanishedError(Exception):
    """A poll's file was there a moment ago: its day was packed or deleted."""


def stamp(at: datetime) -> str:
    """A time as the archive's files are named: their order is that of time."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def hashes(poll: RawPoll) -> list[str]:
    """The bodies that a poll names, each once."""
    return list(dict.fromkeys(document.sha256 for document in poll.documents))


def verified(content: bytes, sha: str, where: Path) -> bytes:
    """The content, if it is what its name says.

    Raises:
        ArchiveError: it is not.
    """
    if content_hash(content) != sha:
        raise ArchiveError(f"the body {sha} in {where} is damaged: its content has another SHA-256")
    return content


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else packs or deletes in a system's folder; if so, nobody will until the block ends."""
    if not folder.is_dir():
        yield False
        return
    with (folder / ".pack.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
            mine = True
        except BlockingIOError:
            mine = False
        yield mine


def read_poll(path: Path) -> Written:
    """One poll from its own file.

    Raises:
        ArchiveError: it cannot be read; also if only a newer version understands it (its `kind`, say).
        VanishedError: it is no longer there.
    """
    try:
        poll, line = _decoded(path.read_bytes())
        if stamp(poll.polled_at) != path.stem:
            raise ArchiveError(f"{path} says another time than its name")
        return poll, line
    except DAMAGE as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            raise VanishedError(path) from error
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def read_pack(path: Path) -> Iterator[tuple[RawPoll, BodyReader]]:
    """The polls of a pack in time order. Streams: a body is held only until the last poll that names it.

    Raises:
        ArchiveError: the pack is damaged.
    """
    bodies: dict[str, bytes] = {}

    def body(sha: str) -> bytes:
        if sha not in bodies:
            raise ArchiveError(f"{path} does not hold the body {sha} for the poll at hand")
        return verified(bodies[sha], sha, path)

    with _opened(path) as (stream, tar):
        polls = [poll for poll, _ in _index(tar, path)]
        if any(before.polled_at >= after.polled_at for before, after in pairwise(polls)):
            raise ArchiveError(f"{path}: its polls are not in the order of time")
        uses = Counter(sha for poll in polls for sha in hashes(poll))
        for poll in polls:
            while any(sha not in bodies for sha in hashes(poll)):
                entry = tar.next()
                if entry is None:
                    raise ArchiveError(f"{path} ends before the bodies of the poll at {poll.polled_at}")
                bodies[entry.name] = _content(tar, entry)
            yield poll, body
            for sha in hashes(poll):
                uses[sha] -= 1
                if not uses[sha]:
                    del bodies[sha]
        while stream.read(2**16):  # to the end: there stands the checksum, which is all that guards the index
            pass


def read_sound(pack: Path, on_damage: OnDamage) -> Iterator[tuple[RawPoll, BodyReader]]:
    """A pack, if there is one, as far as it can be read."""
    try:
        if pack.exists():
            yield from read_pack(pack)
    except ArchiveError as error:
        on_damage(f"{error}; what follows in it is skipped")


def packed_polls(path: Path) -> dict[str, Written]:
    """The polls of a pack by their stamps, without bodies; none if there is no pack.

    Raises:
        ArchiveError: the pack is damaged.
    """
    if not path.exists():
        return {}
    with _opened(path) as (_, tar):
        return {stamp(poll.polled_at): (poll, line) for poll, line in _index(tar, path)}


def find_body(path: Path, sha: str) -> bytes:
    """One body of a pack: reads all that stands before it.

    Raises:
        ArchiveError: it is not there, or the pack is damaged.
    """
    with _opened(path) as (_, tar):
        while entry := tar.next():
            if entry.name == sha:
                return verified(_content(tar, entry), sha, path)
    raise ArchiveError(f"{path} does not hold the body {sha}")


def add_to_pack(path: Path, added: Mapping[str, Written], polls: Iterable[tuple[RawPoll, BodyReader]]) -> int:
    """Replace a pack (or none) by one that holds `polls` too (`added`, by their stamps); returns how many it holds.

    The new one takes its place only after it was read back, whole. The caller is `alone`.

    Raises:
        ArchiveError: something cannot be read.
        OSError: the disk is full or not writable.
    """
    known = packed_polls(path)
    for key, (poll, _) in added.items():
        if key in known and known[key][0] != poll:
            raise ArchiveError(f"{path} holds a poll {key} that says something else than the one to be added")
    ordered = [written for _, written in sorted({**added, **known}.items())]
    before = read_pack(path) if known else iter(())
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            _write(file, ordered, heapq.merge(before, polls, key=lambda item: item[0].polled_at))
            file.flush()
            os.fsync(file.fileno())
        _check(temporary, ordered)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(ordered)


def _write(file: io.BufferedWriter, index: Iterable[Written], polls: Iterable[tuple[RawPoll, BodyReader]]) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        6, window_log=_WINDOW_LOG, enable_ldm=True, write_checksum=True
    )
    written: set[str] = set()
    with (
        zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        lines = (msgspec.json.format(line, indent=-1) for _, line in index)  # in one line each, whatever it holds
        _add(tar, _INDEX, b"".join(line + b"\n" for line in lines))
        for poll, body in polls:
            for sha in hashes(poll):
                if sha not in written:
                    _add(tar, sha, body(sha))
                    written.add(sha)


def _check(path: Path, index: Iterable[Written]) -> None:
    """Read a pack back, whole: it must hold exactly these polls, and all their bodies."""
    found = []
    for poll, body in read_pack(path):
        for sha in hashes(poll):
            body(sha)
        found.append(poll)
    if found != [poll for poll, _ in index]:
        raise ArchiveError(f"{path} does not hold the polls that it was made of")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zstandard.ZstdDecompressionReader, tarfile.TarFile]]:
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            yield stream, tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - nothing of its own to close
    except DAMAGE as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def _decoded(line: bytes) -> Written:
    poll = msgspec.json.decode(line, type=RawPoll)
    if poll.polled_at.tzinfo is None:
        raise ValueError("its time has no zone")
    return poll, line


def _index(tar: tarfile.TarFile, path: Path) -> list[Written]:
    entry = tar.next()
    if entry is None or entry.name != _INDEX:
        raise ArchiveError(f"{path} does not begin with {_INDEX}")
    return [_decoded(line) for line in _content(tar, entry).splitlines()]


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(entry)
    return content.read() if content else b""


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
