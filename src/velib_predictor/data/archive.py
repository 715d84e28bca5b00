"""The raw archive: every answer as it came, content-addressed, replayable, packed by day.

    <root>/<system>/2026-11-23/20261123T181459.731204Z.json     one poll: what was asked and answered
    <root>/<system>/2026-11-23/<sha256>.zst                      a body, once a day however often it came
    <root>/<system>/2026-11-22.tar.zst                           a closed day: polls.jsonl, then the bodies
    <root>/<system>/.pack.lock                                   held by the one process that packs or deletes

A poll is *acknowledged* once `put` returns: its file is renamed into place and on the disk. Files ending in `.tmp` were
being written when the program died and are ignored. Reading, adding and packing may go on at the same time, in several
processes. What cannot be read is reported, never packed and never deleted (but by `prune`).
"""

import heapq
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import zstandard

from velib_predictor.data.packing import (
    DAMAGE,
    PACK_SUFFIX,
    ArchiveError,
    BodyReader,
    OnDamage,
    VanishedError,
    add_to_pack,
    alone,
    find_body,
    hashes,
    packed_polls,
    read_poll,
    read_sound,
    stamp,
    verified,
)
from velib_predictor.data.raw import RawPoll
from velib_predictor.utils.logger import get_logger

__all__ = ["Archive", "ArchiveError", "BodyReader", "OnDamage", "read_paths"]

_LEFTOVER_S = 86_400  # a temporary file, or a body that no poll names, of that age is no write under way
_log = get_logger(__name__)


def _log_damage(message: str) -> None:
    _log.error("damaged file of the archive skipped", error=message)


class Archive:
    """The archive of one system below `root`."""

    def __init__(self, root: Path, system_id: str, on_damage: OnDamage = _log_damage) -> None:
        self.folder = root / system_id
        self.system_id = system_id
        self._on_damage = on_damage
        self._durable: Path | None = None  # the day's folder whose entries above are known to be on the disk

    def put(self, poll: RawPoll, bodies: Mapping[str, bytes]) -> None:
        """Store a poll for good. `bodies` holds at least those that the poll's documents name.

        Raises:
            OSError: the disk is full or not writable; the poll is then not acknowledged.
        """
        try:
            self._put(poll, bodies)
        except FileNotFoundError:  # packing removed the folder of a past day, empty as it was
            self._put(poll, bodies)

    def _put(self, poll: RawPoll, bodies: Mapping[str, bytes]) -> None:
        folder = self._day_folder(poll.polled_at.astimezone(UTC).date())
        if folder != self._durable or not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for parent in folder.parents[:4]:  # as in data/raw/velib/2026-11-23: those that this program makes
                if os.access(parent, os.W_OK):
                    _sync_folder(parent)
            self._durable = folder
        for sha in hashes(poll):
            path = folder / f"{sha}.zst"
            if not path.exists():
                _write_durably(path, zstandard.ZstdCompressor(write_checksum=True).compress(bodies[sha]))
        _write_durably(folder / f"{stamp(poll.polled_at)}.json", msgspec.json.encode(poll))
        _sync_folder(folder)

    def read(self, since: datetime | None = None) -> Iterator[tuple[RawPoll, BodyReader]]:
        """All polls after `since` (exclusive; None: all) in time order, each with the way to its bodies.

        A body can be read until the iterator moves on. Damaged files are skipped, and `on_damage` is told.
        """
        first = since.astimezone(UTC).date() if since else date.min
        for day in self.days():
            if day >= first:
                yield from (
                    (poll, body) for poll, body in self.read_day(day) if since is None or poll.polled_at > since
                )

    def last(self) -> tuple[RawPoll, BodyReader] | None:
        """The newest poll with an answer, if its day is not packed yet: what it says is too old by then."""
        for day in self.days()[-1:]:
            for path in reversed(self._loose_files(day)):
                with suppress(VanishedError):
                    for poll, body in self._read_loose(day, [path]):
                        if poll.documents:
                            return poll, body
        return None

    def days(self) -> list[date]:
        """The days (UTC) that hold polls, in order."""
        if not self.folder.is_dir():
            return []
        # Twice: one listing can miss both the pack, if it is renamed into place behind it, and the folder before it.
        found = {_day_of(path) for _ in range(2) for path in self.folder.iterdir()}
        return sorted(day for day in found if day)

    def read_day(self, day: date) -> Iterator[tuple[RawPoll, BodyReader]]:
        """The polls of one day in time order, from its pack and from loose files; also while it is being packed."""
        last = datetime.min.replace(tzinfo=UTC)
        while True:
            loose = self._loose_files(day)  # before the pack is looked for: packing makes it, and then deletes these
            both = heapq.merge(
                read_sound(self._pack_path(day), self._on_damage),
                self._read_loose(day, loose),
                key=lambda item: item[0].polled_at,
            )
            try:
                for poll, body in both:
                    if poll.polled_at > last:  # else it is in both, or was yielded in the round before
                        last = poll.polled_at
                        yield poll, body
                return
            except VanishedError as error:
                if not self._pack_path(day).exists():
                    self._on_damage(f"{error} was deleted while its day was read")

    def pack(self, now: datetime, after: timedelta) -> list[date]:
        """Pack each day that ended more than `after` ago into one file, read it back, then delete its loose files.

        Returns the days that were packed; none while another process packs. A day of which anything cannot be read is
        left as it is, and logged. Killed at any moment, it loses nothing and starts again.
        """
        packed = []
        with alone(self.folder) as mine:
            for stale in self.folder.glob(f"*{PACK_SUFFIX}*.tmp") if mine else []:
                stale.unlink(missing_ok=True)
            for day in self.days() if mine else []:
                ended = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
                try:
                    if ended + after <= now and self._pack_day(day):
                        packed.append(day)
                except Exception as error:  # whatever is wrong with one day, the others are packed
                    _log.error("day not packed", system=self.system_id, day=day.isoformat(), error=str(error))
        return packed

    def prune(self, before: date) -> list[date]:
        """Delete all days before `before`; returns them. Deletes nothing while another process packs."""
        deleted = []
        with alone(self.folder) as mine:
            for day in self.days() if mine else []:
                try:
                    if day < before:
                        self._pack_path(day).unlink(missing_ok=True)
                        with suppress(FileNotFoundError):
                            shutil.rmtree(self._day_folder(day))
                        deleted.append(day)
                except OSError as error:
                    _log.error("day not deleted", system=self.system_id, day=day.isoformat(), error=str(error))
        return deleted

    def _pack_path(self, day: date) -> Path:
        return self.folder / f"{day.isoformat()}{PACK_SUFFIX}"

    def _day_folder(self, day: date) -> Path:
        return self.folder / day.isoformat()

    # -- loose files ----------------------------------------------------------------------------------------

    def _loose_files(self, day: date) -> list[Path]:
        try:
            return _poll_files(self._day_folder(day))
        except OSError as error:
            self._on_damage(f"{self._day_folder(day)} cannot be read: {error}")
            return []

    def _read_loose(self, day: date, paths: Iterable[Path]) -> Iterator[tuple[RawPoll, BodyReader]]:
        def body(sha: str) -> bytes:
            path, pack = self._day_folder(day) / f"{sha}.zst", self._pack_path(day)
            try:
                return verified(zstandard.ZstdDecompressor().decompress(path.read_bytes()), sha, path)
            except (ArchiveError, *DAMAGE) as error:
                if pack.exists():  # packed since its poll was read
                    return find_body(pack, sha)
                raise ArchiveError(f"{path} cannot be read: {error}") from error

        for path in paths:
            try:
                poll, _ = read_poll(path)
            except ArchiveError as error:
                self._on_damage(str(error))
            else:
                yield poll, body

    # -- packing --------------------------------------------------------------------------------------------

    def _pack_day(self, day: date) -> bool:
        """Whether there was anything to pack. Only files that are in the new pack are deleted, by name."""
        folder, pack = self._day_folder(day), self._pack_path(day)
        loose = _poll_files(folder)
        if loose:
            added = {path.stem: read_poll(path) for path in loose}  # raises at the first that cannot be read
            polls = add_to_pack(pack, added, self._read_loose(day, loose))
            _sync_folder(self.folder)
            _log.info("day packed", system=self.system_id, day=day.isoformat(), polls=polls, bytes=pack.stat().st_size)
            for path in loose:
                path.unlink(missing_ok=True)
        if folder.is_dir():
            _remove_unnamed(folder, pack)
            with suppress(OSError):  # a poll was added meanwhile, or something is not ours
                folder.rmdir()
        return bool(loose)


def read_paths(paths: Iterable[Path], on_damage: OnDamage = _log_damage) -> Iterator[tuple[RawPoll, BodyReader]]:
    """The polls below each path in time order: an archive's root, a system's folder, a day's folder or pack.

    Damaged files are skipped, and `on_damage` is told.

    Raises:
        ArchiveError: a path holds nothing of the kind.
    """
    for path in paths:
        day = _day_of(path)
        if path.is_file() and path.name.endswith(PACK_SUFFIX):
            yield from read_sound(path, on_damage)
        elif path.is_dir() and day:
            yield from Archive(path.parent.parent, path.parent.name, on_damage).read_day(day)
        elif path.is_dir() and (system := Archive(path.parent, path.name, on_damage)).days():
            yield from system.read()
        elif path.is_dir() and (systems := [p for p in sorted(path.iterdir()) if Archive(path, p.name).days()]):
            for folder in systems:
                yield from Archive(path, folder.name, on_damage).read()
        else:
            raise ArchiveError(
                f"{path} is no raw archive; expected its root, a system's folder in it, or a day "
                f"(a folder such as 2026-11-23, or a file 2026-11-23{PACK_SUFFIX})"
            )


def _poll_files(folder: Path) -> list[Path]:
    """In time order. Not by `glob`, which takes a folder that it may not read for an empty one."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove_unnamed(folder: Path, pack: Path) -> None:
    """Delete the bodies that are packed, but those of polls added meanwhile, and what killed programs left."""
    packed = {sha for poll, _ in packed_polls(pack).values() for sha in hashes(poll)}
    needed = {sha for path in _poll_files(folder) for sha in hashes(read_poll(path)[0])}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a temporary file of a poll that is added just now
            old = time.time() - path.stat().st_mtime > _LEFTOVER_S
            body = path.suffix == ".zst" and path.stem not in needed
            if (body and (old or path.stem in packed)) or (path.suffix == ".tmp" and old):
                path.unlink()


def _day_of(path: Path) -> date | None:
    name = path.name.removesuffix(PACK_SUFFIX)
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    return day if day.isoformat() == name else None  # not the basic form 20261123, which it takes, too


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
