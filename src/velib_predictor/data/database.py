"""The database: one engine for SQLite (WAL) and PostgreSQL, its migrations, and Arrow bulk access through ADBC."""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from velib_predictor.data.sqlite_gate import Library, gate_of
from velib_predictor.utils.errors import VelibError

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection as ArrowConnection
    from alembic.config import Config

_BUSY_TIMEOUT_S = 30
MIGRATIONS = Path(__file__).parent / "migrations"


class DatabaseError(VelibError):
    """The database cannot be reached or used; the same may work later."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message
        """What the database itself said, in one line."""


class RefusedError(DatabaseError):
    """The database refuses what it was told to store, and will again: a value out of range, a broken constraint."""


class Database:
    """One database, SQLite or PostgreSQL.

    Args:
        url: SQLAlchemy address: `sqlite:///path` or `postgresql://user:password@host:port/name`.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.dialect: Literal["sqlite", "postgresql"] = (
            "sqlite" if parsed.get_backend_name() == "sqlite" else "postgresql"
        )
        if self.dialect == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.url: URL = parsed
        self.engine: Engine = _sqlite_engine(parsed) if self.dialect == "sqlite" else _postgresql_engine(parsed)
        self._gate = gate_of(parsed.database, self.engine) if self.dialect == "sqlite" else None

    def __str__(self) -> str:
        return self.url.set(drivername=self.dialect).render_as_string(hide_password=True)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading: one consistent view, never blocked by the writer."""
        with self.explained(), self._kept_apart("sqlite3"), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: all of it is stored at its end, or nothing.

        On SQLite it takes the write lock at once: a reader that turns writer later can deadlock.
        """
        immediate = self.engine.execution_options(immediate=True)
        with self.explained(), self._kept_apart("sqlite3"), immediate.begin() as connection:
            yield connection

    @contextmanager
    def arrow(self) -> Iterator["ArrowConnection"]:
        """An ADBC connection, for moving rows by the million. Not in autocommit mode: commit what you write.

        Never inside `read` or `write`. On SQLite these wait, in this process, until it ends (see `sqlite_gate`).
        """
        from adbc_driver_postgresql import dbapi as postgresql
        from adbc_driver_sqlite import dbapi as sqlite

        with self._kept_apart("adbc"):
            if self.dialect == "sqlite":
                connection = sqlite.connect(str(self.url.database))
                with connection.cursor() as cursor:
                    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000}")
            else:
                url = self.url.set(drivername="postgresql").update_query_dict({"client_encoding": "utf8"})
                connection = postgresql.connect(url.render_as_string(hide_password=False))
            with connection:
                yield connection

    @contextmanager
    def driver(self) -> Iterator[Any]:
        """The driver's own connection, in no transaction: for what SQL cannot say, such as SQLite's online backup."""
        with self.explained(), self._kept_apart("sqlite3"), closing(self.engine.raw_connection()) as connection:
            yield connection.driver_connection

    # -- schema ----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is a file to open; a server's database shows when it is asked."""
        return self.dialect != "sqlite" or Path(str(self.url.database)).exists()

    def revision(self) -> str | None:
        """The schema version in the database; None where it was never initialised.

        Raises:
            DatabaseError: it cannot be reached.
        """
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()

    def upgrade(self) -> str:
        """Create or migrate the schema to this program's version, and return that version. Idempotent."""
        from alembic import command

        if self.dialect == "sqlite" and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        immediate = self.engine.execution_options(immediate=True)
        with self.explained(), self._kept_apart("sqlite3"), immediate.connect() as connection:
            if self.dialect == "postgresql":  # two programs that start together migrate one after the other
                connection.execute(text("SELECT pg_advisory_lock(721002)"))
                connection.commit()
            config = _alembic_config()
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
                connection.commit()
            finally:
                if self.dialect == "postgresql":
                    connection.rollback()
                    connection.execute(text("SELECT pg_advisory_unlock(721002)"))
                    connection.commit()
        return head_revision()

    def require_current(self) -> None:
        """Refuse a database that this program cannot use.

        Raises:
            DatabaseError: it is not initialised, or of another version; the message says which command helps.
        """
        found = self.revision()
        if found is None:
            raise DatabaseError(f"the database {self} is not initialised; run `velib db init`")
        if found != head_revision():
            raise DatabaseError(
                f"the database {self} has schema version {found}, this program needs {head_revision()}; "
                "run `velib db upgrade` (or install the newer program, if the database is ahead)"
            )

    def _kept_apart(self, library: Library) -> AbstractContextManager[None]:
        return self._gate.enter(library) if self._gate else nullcontext()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the driver raises into a DatabaseError that says what to do."""
        driver: Any = self.engine.dialect.dbapi  # a COPY raises the driver's own errors, not SQLAlchemy's
        try:
            yield
        except (DBAPIError, driver.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            refused = isinstance(cause, driver.DataError | driver.IntegrityError)
            raise (RefusedError if refused else DatabaseError)(
                f"the database {self}: {reason}{self._advice(reason.lower())}", reason
            ) from error

    def _advice(self, reason: str) -> str:
        if "readonly" in reason or "read-only" in reason:
            return "; it cannot be written to: check its permissions, and those of its folder"
        if "unable to open" in reason:
            return "; the folder must exist and be writable (`velib db init` creates both)"
        if "not a database" in reason:
            return "; the file is something else: give another with --db"
        if "locked" in reason or "lock timeout" in reason:
            return f"; another program has held a lock for over {_BUSY_TIMEOUT_S} s"
        if "full" in reason or "no space" in reason:
            return "; the disk is full"
        if "connection" in reason and self.dialect == "postgresql":
            return "; is PostgreSQL running there, and do DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD fit?"
        return ""


def head_revision() -> str:
    """The schema version that this program writes and reads."""
    # Read from the file names: importing Alembic costs 0.3 s and 15 MB, which a collector never needs again.
    return max(path.stem.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _alembic_config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _postgresql_engine(url: URL) -> Engine:
    # A lock or a dead network may cost a poll, never the polling.
    options = {
        "connect_timeout": 10,
        "client_encoding": "utf8",  # whatever the database's own is
        "options": f"-c timezone=UTC -c lock_timeout={_BUSY_TIMEOUT_S}s",
        "keepalives_idle": 30,
        "tcp_user_timeout": 1000 * _BUSY_TIMEOUT_S,
    }
    return create_engine(url, pool_pre_ping=True, connect_args=options)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late; `begin` below says it
        # NORMAL may lose the last commits with the power, never their order; the archive replays them.
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
