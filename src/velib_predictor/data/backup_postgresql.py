"""PostgreSQL's side of backup and restore, with TimescaleDB and without.

A dump and the counts that it is checked against are of one snapshot, so a collector need not stop for it. A restore is
all or nothing: without TimescaleDB it is one transaction; with it, whose catalogue cannot be replaced in one, it goes
into a new database that takes the old one's name when everything has arrived.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, Connection, text

from velib_predictor.data.database import Database, DatabaseError
from velib_predictor.data.dump_text import DumpText, read_dump
from velib_predictor.data.pg_client import Client, find_client
from velib_predictor.data.timescale import Level, detect

# What a role without special rights can restore: who owns what is the new server's business.
_OPTIONS = ("--no-owner", "--no-privileges", "--lock-wait-timeout=60000")
_IN_EXTENSION = (
    "SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'"
)
# Views first: what is left of a kind after CASCADE is dropped by its own word.
_RELATIONS = f"""
    SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
           ELSE 'TABLE' END AS kind, c.relname AS name, format('%I.%I', n.nspname, c.relname) AS quoted
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND NOT EXISTS ({_IN_EXTENSION})
    ORDER BY c.relkind IN ('r', 'p'), c.relname
"""  # noqa: S608 - no input in it


def versions(connection: Connection) -> tuple[int, str, str | None]:
    """Major version and version of the server, and that of TimescaleDB in this database."""
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    server = str(connection.execute(text("SHOW server_version")).scalar_one()).split()[0]
    return number // 10_000, server, detect(connection)[1]


def count_rows(connection: Connection) -> dict[str, int]:
    """Rows of each table; those of extensions do not count."""
    return {
        row.name: connection.execute(text(f"SELECT count(*) FROM {row.quoted}")).scalar_one()  # noqa: S608
        for row in connection.execute(text(_RELATIONS)).all()
        if row.kind == "TABLE"
    }


def write(
    database: Database, file: Path, *, plain: bool, client: Path | None
) -> tuple[dict[str, int], str, str | None]:
    """Write a dump; returns the rows of each table in it, the server's version and TimescaleDB's.

    Raises:
        ClientError: there is no pg_dump for this server.
        DatabaseError: the server cannot be reached, or pg_dump failed.
    """
    with database.read() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        major, server, timescaledb = versions(connection)
        programs = Client(find_client(major, client, newer=True), database.url)
        snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        rows = count_rows(connection)
        programs.dump(file, *_OPTIONS, f"--snapshot={snapshot}", f"--format={'plain' if plain else 'custom'}")
    return rows, server, timescaledb


def examine(database: Database, file: Path, *, plain: bool, client: Path | None) -> DumpText:
    """Read a dump from beginning to end; of a compressed one each block is unpacked.

    Raises:
        DatabaseError: it is damaged.
    """
    with database.read() as connection:
        major, _, _ = versions(connection)
    return read_dump(Client(find_client(major, client, newer=True), database.url).text(file, plain=plain))


def hypertables(connection: Connection) -> set[str]:
    """Tables whose rows TimescaleDB keeps elsewhere: in a dump they look empty."""
    if detect(connection)[0] is Level.NONE:
        return set()
    names = connection.execute(
        text(
            "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema()"
        )
    )
    return set(names.scalars())


@dataclass(frozen=True)
class Dump:
    """A dump that is to be restored.

    Attributes:
        found: what `examine` found in it.
        rows: of each table when it was made; None: nobody has noted it.
        timescaledb: the extension's version when it was made, if that is known.
    """

    file: Path
    plain: bool
    found: DumpText
    rows: Mapping[str, int] | None = None
    timescaledb: str | None = None


def restore(database: Database, dump: Dump, client: Path | None, now: datetime, *, beside: bool = False) -> None:
    """Replace what the database holds by a dump, or leave it as it is.

    Args:
        now: goes into the names of databases in between.
        beside: go by way of a new database, as TimescaleDB needs it, in any case.

    Raises:
        ClientError: there are no programs of the server's version.
        DatabaseError: the dump does not fit the server, or the server refused it; nothing was changed.
    """
    file, found = dump.file, dump.found
    with database.read() as connection:
        major, server, timescaledb = versions(connection)
    if found.server and found.server > major:
        raise DatabaseError(
            f"{file.name} was made by PostgreSQL {found.server}, the server {database} is {server}: an older server "
            "cannot take it; restore it into that version or a newer one"
        )
    folder = find_client(major, client)
    if beside or found.timescaledb or timescaledb:
        _restore_beside(database, folder, dump, f"{now:%Y%m%d%H%M%S}")
        return
    with database.read() as connection:
        relations = connection.execute(text(_RELATIONS)).all()
    emptied = [f"DROP {row.kind} IF EXISTS {row.quoted} CASCADE" for row in relations]
    before = ["SET client_min_messages = error", "BEGIN", "SET LOCAL lock_timeout = '60s'", *emptied]
    programs = Client(folder, database.url)
    programs.execute(before, programs.text(file, plain=dump.plain), ["COMMIT", "ANALYZE"])


def _restore_beside(database: Database, folder: Path, dump: Dump, stamp: str) -> None:
    """Restore into a new database, and give it the old one's name."""
    name = str(database.url.database)
    new, old = f"{name[:30]}_restored_{stamp}", f"{name[:30]}_before_{stamp}"
    with closing(_on(database.url, "postgres")) as server, closing(_on(database.url, new)) as target:
        try:
            _execute(server, f"CREATE DATABASE {_quoted(new)} TEMPLATE template0")
        except DatabaseError as error:
            raise DatabaseError(
                f"{error}; with TimescaleDB a dump is restored into a new database: the role needs CREATEDB"
            ) from error
        try:
            _fill(target, folder, dump)
            target.close()
            database.close()
            _take_over(server, name, new, old)
        except BaseException:
            target.close()
            _execute(server, f"DROP DATABASE IF EXISTS {_quoted(new)} WITH (FORCE)")
            raise
        _execute(server, f"DROP DATABASE {_quoted(old)} WITH (FORCE)")


def _fill(target: Database, folder: Path, dump: Dump) -> None:
    timescaledb = dump.found.timescaledb
    if timescaledb:
        _create_extension(target, dump.timescaledb)
        _execute(target, "SELECT timescaledb_pre_restore()")
    programs = Client(folder, target.url)
    # Some of TimescaleDB's objects are there already, and the server may call that an error. Where the number of rows
    # is known, it decides; else every error does.
    lenient = timescaledb and dump.rows is not None
    programs.execute([], programs.text(dump.file, plain=dump.plain), [], stop=not lenient)
    if timescaledb:
        _execute(target, "SELECT timescaledb_post_restore()")
    with target.read() as connection:
        check_rows(count_rows(connection), dump.rows)
    _execute(target, "ANALYZE")


def check_rows(rows: Mapping[str, int], expected: Mapping[str, int] | None) -> None:
    """Compare what arrived with what was sent.

    Raises:
        DatabaseError: they differ; the message names the tables.
    """
    wrong = [
        f"{name} {rows.get(name, 0)} of {count}" for name, count in (expected or {}).items() if rows.get(name) != count
    ]
    if wrong:
        raise DatabaseError(f"not all rows have arrived: {', '.join(wrong)}")


def _create_extension(target: Database, version: str | None) -> None:
    """The extension in the version of the dump: its catalogue is in there, and fits no other."""
    with target.read() as connection:
        offered = connection.execute(
            text("SELECT version FROM pg_available_extension_versions WHERE name = 'timescaledb'")
        )
        known = set(offered.scalars())
    if not known:
        raise DatabaseError("the dump needs TimescaleDB, which this server does not have")
    if version and version not in known:
        raise DatabaseError(
            f"the dump was made with TimescaleDB {version}, this server offers {', '.join(sorted(known))}: start the "
            "database with the image of that version, restore, then upgrade it"
        )
    _execute(target, "CREATE EXTENSION timescaledb" + (f" VERSION '{version}'" if version else ""))


def _take_over(server: Database, name: str, new: str, old: str) -> None:
    """Both renamed, or none; nobody is let in meanwhile, and who is in is shown out."""
    _execute(server, f"ALTER DATABASE {_quoted(name)} ALLOW_CONNECTIONS false")
    try:
        with server.write() as connection:
            shown_out = text("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname IN (:a, :b)")
            connection.execute(shown_out, {"a": name, "b": new})
            connection.exec_driver_sql(f"ALTER DATABASE {_quoted(name)} RENAME TO {_quoted(old)}")
            connection.exec_driver_sql(f"ALTER DATABASE {_quoted(new)} RENAME TO {_quoted(name)}")
    except BaseException:
        _execute(server, f"ALTER DATABASE {_quoted(name)} ALLOW_CONNECTIONS true")
        raise


def _execute(database: Database, statement: str) -> None:
    """One statement in no transaction, as CREATE DATABASE wants it."""
    with database.explained(), database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)


def _on(url: URL, name: str) -> Database:
    """Another database of the same server."""
    return Database(url.set(drivername="postgresql", database=name).render_as_string(hide_password=False))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
