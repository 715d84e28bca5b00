"""PostgreSQL's own programs: found in the version that fits the server, run, and listened to."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL

from velib_predictor.data.database import DatabaseError
from velib_predictor.utils.errors import VelibError
from velib_predictor.utils.logger import redact_text

_PROGRAMS = ("pg_dump", "pg_restore", "psql")
_DEBIAN = Path("/usr/lib/postgresql")


class ClientError(VelibError):
    """PostgreSQL's programs are missing or of a version that does not fit."""


def find_client(server: int, folder: Path | None, *, newer: bool = False) -> Path:
    """The folder of pg_dump, pg_restore and psql of the server's major version.

    Args:
        folder: where they are; None looks in PATH and in /usr/lib/postgresql.
        newer: whether a newer version will do, as it does for dumping, but not for restoring: what it writes may hold
            settings that the older server does not know.

    Raises:
        ClientError: there is none; the message says what was found and what helps.
    """
    found = {path: major for path in _folders(folder) if (major := _version(path))}
    for path, major in sorted(found.items(), key=lambda item: item[1]):
        if major == server or (newer and major > server and server not in found.values()):
            return path
    there = ", ".join(f"{major} in {path}" for path, major in found.items()) or "none"
    needed = f"version {server}" + (" or newer" if newer else " exactly")
    raise ClientError(
        f"the server is PostgreSQL {server}: pg_dump, pg_restore and psql of {needed} are needed, found: {there}. "
        f"Install postgresql-client-{server}, or give their folder as backup.client (VELIB_BACKUP__CLIENT)"
    )


def _folders(folder: Path | None) -> list[Path]:
    if folder is not None:
        return [folder]
    in_path = shutil.which("pg_dump")
    return [*([Path(in_path).parent] if in_path else []), *sorted(_DEBIAN.glob("*/bin"))]


def _version(folder: Path) -> int | None:
    """Major version of the programs in a folder; None if one is missing or does not run."""
    if not all((folder / name).is_file() for name in _PROGRAMS):
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, timeout=30, check=True)  # noqa: S603
        if match := re.search(rb" (\d+)[.\d]*", done.stdout):
            return int(match[1])
    return None


class Client:
    """The programs of one folder, on one database.

    Passwords go through the environment, where `ps` does not show them.
    """

    def __init__(self, folder: Path, url: URL) -> None:
        self._folder = folder
        # Made anew: `url.set(password=None)` would keep the password, rendered as asterisks, which then is tried.
        self._target = URL.create(
            "postgresql", url.username, None, url.host, url.port, url.database, url.query
        ).render_as_string()
        self._environment = {**os.environ, "PGCONNECT_TIMEOUT": "10"}
        if url.password:
            self._environment["PGPASSWORD"] = str(url.password)

    def dump(self, file: Path, *arguments: str) -> None:
        """Write a dump of the database.

        Raises:
            DatabaseError: pg_dump failed; the message has its words.
        """
        command = ["pg_dump", *arguments, f"--file={file}", f"--dbname={self._target}", "--no-password"]
        with self._started(command, stdout=subprocess.DEVNULL):
            pass

    def execute(
        self, before: Sequence[str], dump: Iterable[bytes], after: Sequence[str], *, stop: bool = True
    ) -> list[str]:
        """Send statements, a dump and statements to the server, in one session; returns what it complained about.

        Args:
            dump: its lines. An error while they are read ends the session at once.
            after: sent only once the dump was read to its end: a COMMIT belongs here.
            stop: whether the server's first error ends it.

        Raises:
            DatabaseError: the server refuses a statement; without its COMMIT a transaction is undone.
        """
        command = ["psql", "--no-psqlrc", "--quiet", "--no-password", f"--set=ON_ERROR_STOP={int(stop)}"]
        command += [f"--dbname={self._target}", "--file=-"]
        with self._started(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as (process, said):
            assert process.stdin is not None  # noqa: S101 - for the type checker
            with suppress(BrokenPipeError):  # it has ended early, and its last words say why
                process.stdin.writelines(f"{line};\n".encode() for line in before)
                process.stdin.writelines(dump)
                process.stdin.writelines(f"{line};\n".encode() for line in after)
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            return [line for line in said() if "ERROR:" in line]

    def text(self, file: Path, *, plain: bool) -> Iterator[bytes]:
        """The lines of a dump's SQL, whatever its format. The error comes after the last line that could be read.

        Raises:
            DatabaseError: pg_restore cannot read all of it.
        """
        if plain:
            with file.open("rb") as stream:
                yield from stream
            return
        command = ["pg_restore", "--no-owner", "--no-privileges", "--file=-", str(file)]
        with self._started(command, stdout=subprocess.PIPE) as (process, _):
            assert process.stdout is not None  # noqa: S101 - for the type checker
            yield from process.stdout

    @contextmanager
    def _started(
        self, command: Sequence[str], *, stdout: int, stdin: int = subprocess.DEVNULL
    ) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[str]]]]:
        """One of the programs, and what gives the lines on its stderr; killed if the block is left by an error.

        Raises:
            DatabaseError: it failed.
        """
        with tempfile.TemporaryFile() as messages:  # not a pipe: one that nobody empties stops the program

            def said() -> list[str]:
                messages.seek(0)
                return [redact_text(line) for line in messages.read().decode(errors="replace").splitlines()]

            program = str(self._folder / command[0])
            with (
                subprocess.Popen(  # noqa: S603
                    [program, *command[1:]], stdin=stdin, stdout=stdout, stderr=messages, env=self._environment
                ) as process
            ):
                try:
                    yield process, said
                except BaseException:
                    process.kill()
                    with suppress(BrokenPipeError):  # what it has not read is not to hide why it was killed
                        if process.stdin:
                            process.stdin.close()
                    raise
                process.wait()
            if process.returncode:
                lines = said() or ["it said nothing"]
                why = next((line for line in lines if "error:" in line.lower()), lines[-1])
                raise DatabaseError(f"{command[0]} failed (exit code {process.returncode}): {why.strip()}")
