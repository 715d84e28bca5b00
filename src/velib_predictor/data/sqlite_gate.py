"""Keeps the two SQLite libraries of this process apart.

Python's `sqlite3` and ADBC each bring their own copy of SQLite. POSIX file locks do not exclude a process from itself,
so two copies on one file can both write at once, and the first that closes deletes the write-ahead log under the other
(https://sqlite.org/howtocorrupt.html, 2.2.1). Hence: many of one kind or many of the other, never both.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine

from velib_predictor.utils.errors import VelibError

Library = Literal["sqlite3", "adbc"]
_PATIENCE_S = 60


class Gate:
    """The gate of one database file in this process; `engines` are all that may hold connections to it."""

    def __init__(self) -> None:
        self.engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._free = threading.Condition()
        self._inside = 0
        self._library: Library = "sqlite3"

    @contextmanager
    def enter(self, library: Library) -> Iterator[None]:
        """Wait until no connection of the other library is open, and keep it out meanwhile.

        Raises:
            VelibError: it did not get its turn; most likely `arrow()` is used inside `read()` or `write()`.
        """
        with self._free:
            if not self._free.wait_for(lambda: not self._inside or self._library == library, _PATIENCE_S):
                raise VelibError(f"waited {_PATIENCE_S} s for this process's other connections to the database to end")
            if not self._inside and library == "adbc":
                for engine in self.engines:
                    engine.dispose()  # pooled connections are open files, too
            self._library = library
            self._inside += 1
        try:
            yield
        finally:
            with self._free:
                self._inside -= 1
                self._free.notify_all()


_gates: dict[Path, Gate] = {}
_lock = threading.Lock()


def gate_of(database: str | None, engine: Engine) -> Gate:
    """The one gate of a database file; a gate of its own for a database in memory."""
    with _lock:
        in_memory = database in (None, "", ":memory:")
        gate = Gate() if in_memory else _gates.setdefault(Path(str(database)).resolve(), Gate())
        gate.engines.add(engine)
        return gate
