"""One collector a system: a second one is refused before it asks the operator twice."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import text

from velib_predictor.data.database import Database
from velib_predictor.utils.errors import VelibError

_NAMESPACE = 721003


class AlreadyRunningError(VelibError):
    """Another collector polls this system."""


@contextmanager
def single_instance(folder: Path, system_id: str, database: Database) -> Iterator[None]:
    """Hold the system's lock: a file lock in its archive folder and, on PostgreSQL, an advisory lock.

    Both vanish with the process, however it ends.

    Raises:
        AlreadyRunningError: somebody else holds one.
    """
    with ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context((folder / ".lock").open("a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise AlreadyRunningError(
                f"another collector{f' (process {holder})' if holder else ''} already polls {system_id!r} "
                f"into {folder}; stop it first, or give this one another VELIB_DATA_DIR and database"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        if database.dialect == "postgresql":
            connection = stack.enter_context(database.engine.connect()).execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()  # closed at the end, not given back to the pool: the lock lives as long as the session
            # hashtext() gives every program the same number for the same name
            lock = text("SELECT pg_try_advisory_lock(:namespace, hashtext(:system_id))")
            if not connection.execute(lock, {"namespace": _NAMESPACE, "system_id": system_id}).scalar_one():
                raise AlreadyRunningError(f"another collector already polls {system_id!r} into the database {database}")
        yield
