"""Where issues are kept: one row each in the database, so that any process can serve them."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, delete, func, insert, select
from sqlalchemy.orm import aliased

from velib_predictor.data import schema
from velib_predictor.data.database import Database
from velib_predictor.inference.issue import Issue, State

_TABLE = schema.Issue.__table__.c
_COLUMNS = ("issued_at", "made_at", "observed_at", "model", "version", "state", "reason", "body")


class Mark(NamedTuple):
    """Which issue is the newest: enough to see whether there is another one."""

    issued_at: datetime
    made_at: datetime


class Issues:
    """The stored issues of one system."""

    def __init__(self, database: Database, system_id: str) -> None:
        self._database = database
        self.system_id = system_id
        self._key = select(schema.System.key).where(schema.System.system_id == system_id).scalar_subquery()

    def add(self, issue: Issue) -> None:
        """Keep an issue; one of the same time is replaced.

        Raises:
            DatabaseError: it cannot be stored.
        """
        body = issue.to_bytes()
        with self._database.write() as connection:
            key = connection.execute(select(self._key)).scalar_one()
            here = (_TABLE.system_key == key, _TABLE.issued_at == issue.issued_at)
            connection.execute(delete(schema.Issue).where(*here))
            connection.execute(
                insert(schema.Issue).values(
                    system_key=key,
                    issued_at=issue.issued_at,
                    made_at=issue.made_at,
                    observed_at=issue.observed_at,
                    model=issue.model,
                    version=issue.version,
                    state=str(issue.state),
                    reason=issue.reason,
                    body=body,
                )
            )

    def mark(self) -> Mark | None:
        """Which issue is the newest one; None where there is none."""
        query = select(_TABLE.issued_at, _TABLE.made_at).where(_TABLE.system_key == self._key)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(_TABLE.issued_at.desc()).limit(1)).one_or_none()
        return Mark(*row) if row else None

    def newest(self) -> Issue | None:
        """The newest issue; None where there is none."""
        return self._one(self._rows().order_by(_TABLE.issued_at.desc()).limit(1))

    def at(self, issued_at: datetime) -> Issue | None:
        """The issue of that time, if there is one."""
        return self._one(self._rows().where(_TABLE.issued_at == issued_at))

    def times(self, after: datetime | None = None, before: datetime | None = None) -> list[datetime]:
        """When the issues of a period were issued, ascending; `after` and `before` are left out."""
        query = select(_TABLE.issued_at).where(_TABLE.system_key == self._key)
        if before is not None:
            query = query.where(_TABLE.issued_at < before)
        if after is not None:
            query = query.where(_TABLE.issued_at > after)
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(_TABLE.issued_at)).scalars())

    def _rows(self) -> Select[Any]:
        return select(*(_TABLE[name] for name in _COLUMNS)).where(_TABLE.system_key == self._key)

    def _one(self, query: Select[Any]) -> Issue | None:
        with self._database.read() as connection:
            row: Row[Any] | None = connection.execute(query).one_or_none()
        if row is None:
            return None
        columns = dict(zip(_COLUMNS, row, strict=True))
        columns["state"] = State(columns["state"])
        return Issue.from_bytes(columns.pop("body"), system_id=self.system_id, **columns)


def delete_expired_issues(database: Database, before: datetime) -> int:
    """Delete the issues of all systems from before a time, but each system's newest; returns how many."""
    other = aliased(schema.Issue)
    newest = select(func.max(other.issued_at)).where(other.system_key == _TABLE.system_key).scalar_subquery()
    with database.write() as connection:
        return connection.execute(
            delete(schema.Issue).where(_TABLE.issued_at < before, _TABLE.issued_at < newest)
        ).rowcount
