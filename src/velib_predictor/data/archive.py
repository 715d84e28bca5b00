"""The raw archive: every answer as it came, content-addressed, replayable, packed by day.

    <root>/<system>/2026-11-23/20261123T181459.731204Z.json     one poll: what was asked and answered
    <root>/<system>/2026-11-23/<sha256>.zst                      a body, once a day however often it came
    <root>/<system>/2026-11-22.tar.zst                           a closed day: polls.jsonl, then the bodies

A poll is *acknowledged* once `put` returns: its file is renamed into place and on the disk. Files ending in `.tmp` were
being written when the program died and are ignored.
"""

import io
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import zstandard

from velib_predictor.data.raw import RawPoll, content_hash
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import get_logger

BodyReader = Callable[[str], bytes]
"""Gives the body with a given SHA-256 (hexadecimal)."""

_INDEX = "polls.jsonl"
_PACK_SUFFIX = ".tar.zst"
# 16 MiB see the last 30 or so snapshots of 1,500 stations, which is what makes a packed day small, and the
# collector's memory stays flat.
_PACK_WINDOW_LOG = 24
_log = get_logger(__name__)


class ArchiveError(VelibError):
    """An archived file is damaged or missing."""


class Archive:
    """The archive of one system below `root`."""

    def __init__(self, root: Path, system_id: str) -> None:
        self.folder = root / system_id
        self.system_id = system_id

    def put(self, poll: RawPoll, bodies: Mapping[str, bytes]) -> None:
        """Store a poll for good. `bodies` holds at least those that the poll's documents name.

        Raises:
            OSError: the disk is full or not writable; the poll is then not acknowledged.
        """
        folder = self.folder / poll.polled_at.astimezone(UTC).date().isoformat()
        if not folder.exists():
            folder.mkdir(parents=True)
            _sync_folder(folder.parent)
        for sha in dict.fromkeys(document.sha256 for document in poll.documents):
            path = folder / f"{sha}.zst"
            if not path.exists():
                _write_durably(path, zstandard.ZstdCompressor(write_checksum=True).compress(bodies[sha]))
        _write_durably(folder / f"{_stamp(poll.polled_at)}.json", msgspec.json.encode(poll))
        _sync_folder(folder)

    def read(self, since: datetime | None = None) -> Iterator[tuple[RawPoll, BodyReader]]:
        """All polls after `since` (exclusive; None: all) in time order, each with the way to its bodies.

        A body can be read until the iterator moves on. Damaged files are skipped and logged.
        """
        first = since.astimezone(UTC).date() if since else date.min
        for day in self.days():
            if day >= first:
                yield from (
                    (poll, body) for poll, body in self.read_day(day) if since is None or poll.polled_at > since
                )

    def last(self) -> tuple[RawPoll, BodyReader] | None:
        """The newest poll with an answer, if its day is not packed yet: what it says is too old by then."""
        newest = None
        for day in self.days()[-1:]:
            for poll, body in _read_folder(self.folder / day.isoformat()):
                newest = (poll, body) if poll.documents else newest
        return newest

    def days(self) -> list[date]:
        """The days (UTC) that hold polls, in order."""
        if not self.folder.is_dir():
            return []
        names = {path.name.removesuffix(_PACK_SUFFIX) for path in self.folder.iterdir() if _is_day(path)}
        return sorted(date.fromisoformat(name) for name in names)

    def read_day(self, day: date) -> Iterator[tuple[RawPoll, BodyReader]]:
        """The polls of one day in time order, from its pack and from loose files."""
        pack, folder = self._pack_path(day), self.folder / day.isoformat()
        if not pack.exists():
            yield from _read_folder(folder)
        elif not folder.exists():
            yield from _read_pack(pack)
        else:  # killed between packing and deleting, or a poll was added to a packed day
            loose = {poll.polled_at: (poll, body) for poll, body in _read_folder(folder)}
            for poll, body in _read_pack(pack):
                for early in sorted(at for at in loose if at < poll.polled_at):
                    yield loose.pop(early)
                loose.pop(poll.polled_at, None)
                yield poll, body
            yield from (loose[at] for at in sorted(loose))

    def pack(self, now: datetime, after: timedelta) -> list[date]:
        """Pack each day that ended more than `after` ago into one file, read it back, then delete its loose files.

        Returns the days that were packed. Killed at any moment, it loses nothing and starts again.
        """
        packed = []
        for day in self.days():
            ended = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
            folder = self.folder / day.isoformat()
            if folder.is_dir() and ended + after <= now:
                self._pack_day(day, folder)
                packed.append(day)
        return packed

    def prune(self, before: date) -> list[date]:
        """Delete all days before `before`; returns them."""
        old = [day for day in self.days() if day < before]
        for day in old:
            self._pack_path(day).unlink(missing_ok=True)
            shutil.rmtree(self.folder / day.isoformat(), ignore_errors=True)
        return old

    def _pack_path(self, day: date) -> Path:
        return self.folder / f"{day.isoformat()}{_PACK_SUFFIX}"

    def _pack_day(self, day: date, folder: Path) -> None:
        target = self._pack_path(day)
        temporary = target.with_name(target.name + ".tmp")
        polls = [poll for poll, _ in self.read_day(day)]
        with temporary.open("wb") as file:
            _write_pack(file, polls, self.read_day(day))
            file.flush()
            os.fsync(file.fileno())
        readable = sum(1 for poll, body in _read_pack(temporary) if all(body(d.sha256) for d in poll.documents))
        if readable != len(polls):
            raise ArchiveError(f"{temporary} holds {readable} of {len(polls)} polls; the loose files of {day} are kept")
        temporary.rename(target)
        _sync_folder(self.folder)
        shutil.rmtree(folder)
        _log.info(
            "day packed", system=self.system_id, day=day.isoformat(), polls=len(polls), bytes=target.stat().st_size
        )


def read_paths(paths: Iterable[Path]) -> Iterator[tuple[RawPoll, BodyReader]]:
    """The polls below each path in time order: an archive's root, a system's folder, a day's folder or pack.

    Raises:
        ArchiveError: a path holds nothing of the kind.
    """
    for path in paths:
        if path.is_file() and path.name.endswith(_PACK_SUFFIX):
            yield from _read_pack(path)
        elif path.is_dir() and _is_day(path):
            yield from _read_folder(path)
        elif path.is_dir() and (days := Archive(path.parent, path.name)).days():
            yield from days.read()
        elif path.is_dir() and (systems := [p for p in sorted(path.iterdir()) if Archive(path, p.name).days()]):
            for system in systems:
                yield from Archive(path, system.name).read()
        else:
            raise ArchiveError(
                f"{path} is no raw archive; expected its root, a system's folder in it, or a day "
                f"(a folder such as 2026-11-23, or a file 2026-11-23{_PACK_SUFFIX})"
            )


def _read_folder(folder: Path) -> Iterator[tuple[RawPoll, BodyReader]]:
    def body(sha: str) -> bytes:
        try:
            content = zstandard.ZstdDecompressor().decompress((folder / f"{sha}.zst").read_bytes())
        except (OSError, zstandard.ZstdError) as error:
            raise ArchiveError(f"{folder / sha}.zst cannot be read: {error}") from error
        return _verified(content, sha, folder)

    for path in sorted(folder.glob("*.json")):
        try:
            poll = msgspec.json.decode(path.read_bytes(), type=RawPoll)
        except (OSError, msgspec.MsgspecError) as error:
            _log.error("archived poll is damaged and skipped", path=str(path), error=str(error))
            continue
        yield poll, body


def _read_pack(path: Path) -> Iterator[tuple[RawPoll, BodyReader]]:
    """Streams: a body is held only until the last poll that names it."""
    bodies: dict[str, bytes] = {}

    def body(sha: str) -> bytes:
        return _verified(bodies[sha], sha, path)

    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            tar = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - nothing of its own to close
            polls = msgspec.json.Decoder(RawPoll).decode_lines(_index(tar, path))
            uses = Counter(sha for poll in polls for sha in _hashes(poll))
            for poll in polls:
                while any(sha not in bodies for sha in _hashes(poll)):
                    entry = tar.next()
                    if entry is None:
                        raise ArchiveError(f"{path} ends before the bodies of the poll at {poll.polled_at}")
                    content = tar.extractfile(entry)
                    bodies[entry.name] = content.read() if content else b""
                yield poll, body
                for sha in _hashes(poll):
                    uses[sha] -= 1
                    if not uses[sha]:
                        del bodies[sha]
    except (OSError, tarfile.TarError, zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def _index(tar: tarfile.TarFile, path: Path) -> bytes:
    entry = tar.next()
    content = tar.extractfile(entry) if entry and entry.name == _INDEX else None
    if content is None:
        raise ArchiveError(f"{path} does not begin with {_INDEX}")
    return content.read()


def _write_pack(file: io.BufferedWriter, polls: list[RawPoll], source: Iterator[tuple[RawPoll, BodyReader]]) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        6, window_log=_PACK_WINDOW_LOG, enable_ldm=True, write_checksum=True
    )
    written: set[str] = set()
    with (
        zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        _add(tar, _INDEX, b"".join(msgspec.json.encode(poll) + b"\n" for poll in polls))
        for poll, body in source:
            for sha in _hashes(poll):
                if sha not in written:
                    _add(tar, sha, body(sha))
                    written.add(sha)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _hashes(poll: RawPoll) -> list[str]:
    return list(dict.fromkeys(document.sha256 for document in poll.documents))


def _verified(content: bytes, sha: str, where: Path) -> bytes:
    if content_hash(content) != sha:
        raise ArchiveError(f"the body {sha} in {where} is damaged: its content has another SHA-256")
    return content


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _is_day(path: Path) -> bool:
    try:
        date.fromisoformat(path.name.removesuffix(_PACK_SUFFIX))
    except ValueError:
        return False
    return True


def _write_durably(path: Path, content: bytes) -> None:
    """Temporary name, fsync, rename: under its final name a file is whole or absent."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
