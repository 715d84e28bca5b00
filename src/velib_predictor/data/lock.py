"""One writer a system: a second collector is refused before it asks the operator twice, or stores beside the first."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from velib_predictor.data.database import Database
from velib_predictor.utils.errors import VelibError

_NAMESPACE = 721003
Verify = Callable[[], None]
"""Makes sure that the lock is still held; raises AlreadyRunningError if somebody else has it now."""


class AlreadyRunningError(VelibError):
    """Another process writes this system."""


@contextmanager
def single_instance(folder: Path, system_id: str, database: Database) -> Iterator[Verify]:
    """Hold a system's archive folder and its place in the database. Both locks vanish with the process.

    Raises:
        AlreadyRunningError: somebody else holds one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _file_lock(folder / ".lock", f"{system_id!r} into {folder}"), database_lock(database, system_id) as verify:
        yield verify


@contextmanager
def database_lock(database: Database, system_id: str) -> Iterator[Verify]:
    """Hold a system's place in a database: an advisory lock on PostgreSQL, a file beside it on SQLite.

    Raises:
        AlreadyRunningError: somebody else holds it.
    """
    if database.dialect == "sqlite":
        file = Path(f"{Path(str(database.url.database)).absolute()}.{system_id}.lock")
        with _file_lock(file, f"{system_id!r} into the database {database}"):
            yield lambda: None
        return
    lock = _AdvisoryLock(database, system_id)
    try:
        lock.verify()
        yield lock.verify
    finally:
        lock.close()


class _AdvisoryLock:
    """A session's lock. A server that restarts forgets it, so it is verified, and taken again, before each poll."""

    def __init__(self, database: Database, system_id: str) -> None:
        self._database = database
        self._system_id = system_id
        self._connection: Connection | None = None

    def verify(self) -> None:
        """Take the lock, or make sure that it is held.

        Raises:
            AlreadyRunningError: somebody else holds it.
            DatabaseError: the database cannot be reached.
        """
        with self._database.explained():
            if self._connection is not None:
                try:
                    self._connection.exec_driver_sql("SELECT 1")
                    return
                except SQLAlchemyError:
                    self.close()
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()  # closed at the end, not given back to the pool: the lock lives as long as the session
            # hashtext() gives every program the same number for the same name
            query = text("SELECT pg_try_advisory_lock(:namespace, hashtext(:system_id))")
            parameters = {"namespace": _NAMESPACE, "system_id": self._system_id}
            if not connection.execute(query, parameters).scalar_one():
                connection.close()
                raise AlreadyRunningError(
                    f"another process already writes {self._system_id!r} into the database {self._database}"
                )
            self._connection = connection

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(SQLAlchemyError):  # it may be dead already
                connection.close()


def _file_lock(path: Path, what: str) -> AbstractContextManager[None]:
    return exclusive(
        path,
        f"another collector{{}} already polls {what}; "
        "stop it first, or give this one another VELIB_DATA_DIR and database",
    )


@contextmanager
def exclusive(path: Path, held: str) -> Iterator[None]:
    """Hold a file's lock, which vanishes with the process.

    Args:
        held: what is said where somebody else holds it; `{}` stands for the process.

    Raises:
        AlreadyRunningError: somebody else holds it.
    """
    with ExitStack() as stack:
        file = stack.enter_context(path.open("a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise AlreadyRunningError(held.replace("{}", f" (process {holder})" if holder else "", 1)) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
