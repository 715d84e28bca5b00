"""Which versions are in force: one small file a system, replaced as a whole; it needs nothing but a disk.

`champion` is the version that forecasts, `challenger` the newest one that would like to, `previous` are the champions
before, newest first. Until somebody has decided (`settled`: a promotion, a rollback, a comparison), whatever is trained
last is champion.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from velib_predictor.config.config import check_system_id
from velib_predictor.models.base import MODELS, ArtifactError
from velib_predictor.utils.errors import UsageError, VelibError
from velib_predictor.utils.temporal import format_time

LAYOUT = 1
KEPT = 20
"""Champions before the present one, and events, that are remembered."""


class Ref(NamedTuple):
    """One training: MODEL/VERSION."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"

    @classmethod
    def of(cls, folder: Path) -> "Ref":
        """Of the folder in which it lies."""
        return cls(folder.parent.name, folder.name)


class ChangedError(VelibError):
    """The champion is no longer the one that was expected."""


@dataclass(frozen=True)
class Standing:
    """What the file says. `settled`: whether the champion was chosen, and is not only the newest.

    `log`: events, oldest first, as plain JSON values.
    """

    champion: Ref | None = None
    challenger: Ref | None = None
    previous: tuple[Ref, ...] = ()
    settled: bool = False
    log: tuple[dict[str, Any], ...] = ()

    def kept(self) -> set[Ref]:
        """The versions that must not be pruned: those in force or about to be, and three to go back to."""
        return {ref for ref in (self.champion, self.challenger, *self.previous[:3]) if ref}

    def alias(self, ref: Ref) -> str | None:
        """What a version counts as: champion, challenger, previous or nothing."""
        if ref == self.champion:
            return "champion"
        if ref == self.challenger:
            return "challenger"
        return "previous" if ref in self.previous else None


class Registry:
    """The versions in force of one system.

    Args:
        folder: of all models; the file is registry/SYSTEM.json in it.
    """

    def __init__(self, folder: Path, system_id: str) -> None:
        check_system_id(system_id)
        self.system_id = system_id
        self.file = folder / "registry" / f"{system_id}.json"

    def read(self) -> Standing:
        """What is in force; nothing, where nothing was ever put into force.

        Raises:
            ArtifactError: the file is damaged.
        """
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Standing()
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error
        try:
            found = json.loads(text)
            if found["layout"] != LAYOUT:
                raise ValueError(f"layout {found['layout']}, this program reads {LAYOUT}")
            champion, challenger = _ref(found["champion"]), _ref(found["challenger"])
            previous = tuple(ref for entry in found["previous"] if (ref := _ref(entry)))
            return Standing(champion, challenger, previous, bool(found["settled"]), tuple(found["log"]))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error

    def enter(self, ref: Ref, at: datetime) -> str:
        """Take in a new training: as challenger of a champion that was chosen, else as champion. Returns which."""

        def change(standing: Standing) -> Standing:
            if standing.settled and standing.champion:
                return replace(_logged(standing, "challenger", ref, at), challenger=ref)
            standing = _logged(standing, "newest", ref, at)
            return replace(standing, champion=ref, previous=_before(standing, ref))

        return str(self._change(change).alias(ref))

    def settle(self, at: datetime) -> Standing:
        """Let the champion stay, whatever is trained after it."""

        def change(standing: Standing) -> Standing:
            if standing.settled or standing.champion is None:
                return standing
            return replace(_logged(standing, "settled", standing.champion, at), settled=True)

        return self._change(change)

    def promote(self, ref: Ref, at: datetime, why: str, expected: Ref | None) -> Standing:
        """Put a version in force.

        Args:
            why: for the log.
            expected: the champion that it was judged against, or that the caller has seen.

        Raises:
            ChangedError: another one is in force by now; nothing is changed.
        """

        def change(standing: Standing) -> Standing:
            if standing.champion != expected:
                there = standing.champion or "nothing"
                raise ChangedError(
                    f"{self.system_id}: {there} is in force by now, not {expected or 'nothing'}; {ref} was not "
                    "promoted. Look again with `velib models list`"
                )
            challenger = None if standing.challenger == ref else standing.challenger
            standing = _logged(standing, "promoted", ref, at, why)
            previous = _before(standing, ref)
            return replace(standing, champion=ref, challenger=challenger, previous=previous, settled=True)

        return self._change(change)

    def rollback(self, at: datetime, check: Callable[[Ref], object]) -> Standing:
        """Put the champion before the present one back in force; the present one is not remembered as a champion.

        Args:
            check: raises where a version cannot be put in force.

        Raises:
            UsageError: there was none before.
        """

        def change(standing: Standing) -> Standing:
            if not standing.previous:
                raise UsageError(
                    f"{self.system_id}: there is nothing to roll back to; "
                    + (f"{standing.champion} is the first that was put in force" if standing.champion else
                       "no version was ever put in force")
                )  # fmt: skip
            back, *older = standing.previous
            check(back)
            standing = _logged(standing, "rolled back", back, at, f"from {standing.champion}")
            return replace(standing, champion=back, previous=tuple(older), settled=True)

        return self._change(change)

    def _change(self, change: Callable[[Standing], Standing]) -> Standing:
        with self._locked():
            changed = change(self.read())
            self._write(changed)
        return changed

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, among processes too. Held for milliseconds, so it is waited for."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with (self.file.parent / f".{self.system_id}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, standing: Standing) -> None:
        """On the disk as a whole before anybody sees it: a crash leaves the old one or the new one."""
        content = {
            "layout": LAYOUT,
            "system_id": self.system_id,
            "champion": standing.champion and standing.champion._asdict(),
            "challenger": standing.challenger and standing.challenger._asdict(),
            "previous": [ref._asdict() for ref in standing.previous],
            "settled": standing.settled,
            "log": standing.log[-KEPT:],
        }
        write_whole(self.file, json.dumps(content, ensure_ascii=False, indent=1))

    def _damaged(self, error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{self.file}, which says what is in force, is damaged ({error}); delete it and put a version in force "
            f"with `velib models promote VERSION --system {self.system_id} --force`"
        )


def write_whole(file: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all, even after a crash of the machine."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)


def _ref(entry: dict[str, str] | None) -> Ref | None:
    if entry is None:
        return None
    ref = Ref(str(entry["model"]), str(entry["version"]))
    if ref.model not in MODELS or "/" in ref.version or ref.version.startswith("."):
        raise ValueError(f"{str(ref)!r} is no version of a model")
    return ref


def _before(standing: Standing, ref: Ref) -> tuple[Ref, ...]:
    """Whom one can go back to when `ref` is in force, newest first."""
    stack = (standing.champion, *standing.previous)
    return tuple(other for other in stack if other and other != ref)[:KEPT]


def _logged(standing: Standing, event: str, ref: Ref, at: datetime, why: str | None = None) -> Standing:
    entry = {"at": format_time(at.replace(microsecond=0)), "event": event, "version": str(ref)}
    return replace(standing, log=(*standing.log, entry | ({"why": why} if why else {})))
