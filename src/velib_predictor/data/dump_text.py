"""Reads PostgreSQL's SQL dumps, to know what is in one before it is believed: rows, schema version, wholeness."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_COPY = re.compile(rb"COPY (.+?) \(.*\) FROM stdin;\s*$")
_FROM = re.compile(rb"-- Dumped from database version (\d+)")
_END_OF_DATA = b"\\."


@dataclass
class DumpText:
    """What a dump holds."""

    rows: dict[str, int] = field(default_factory=dict)
    """Rows of each table; outside the schema `public` the name has its schema before it."""
    revision: str | None = None
    """Version of this program's schema; None: it is no dump of such a database."""
    server: int | None = None
    """Major version of the server that it was taken from."""
    timescaledb: bool = False
    """Whether it needs the extension."""
    complete: bool = False
    """Whether it goes on to its end: one that was cut off looks whole up to there."""


def read_dump(lines: Iterable[bytes]) -> DumpText:
    """Go through a whole dump, a line at a time; memory does not grow with it.

    Args:
        lines: of plain format, as `pg_dump --format=plain` and `pg_restore --file=-` write it.
    """
    found = DumpText()
    table: str | None = None
    count = 0
    for line in lines:
        if table is not None:
            if line.rstrip(b"\r\n") == _END_OF_DATA:
                found.rows[table] = count
                table = None
            else:
                count += 1
                if table == "alembic_version":
                    found.revision = line.decode().strip()
        elif match := _COPY.match(line):
            table, count = match[1].decode().replace('"', "").removeprefix("public."), 0
        elif match := _FROM.match(line):
            found.server = int(match[1])
        elif line.startswith(b"CREATE EXTENSION IF NOT EXISTS timescaledb "):
            found.timescaledb = True
        elif line.startswith(b"-- PostgreSQL database dump complete"):
            found.complete = True
    found.complete = found.complete and table is None
    return found
