"""The relational schema: one typed definition for SQLite and for PostgreSQL (with or without TimescaleDB).

`docs/data_schema.md` is generated from these classes (`python -m velib_predictor.data.schema_doc`), so every
column carries its meaning in `comment`.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Dialect, ForeignKey, Index, LargeBinary, SmallInteger, String
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from velib_predictor.data.snapshot import Outcome
from velib_predictor.utils.temporal import from_micros, to_micros


class UtcDateTime(TypeDecorator[datetime]):
    """A UTC instant to the microsecond: `timestamptz` on PostgreSQL, integer microseconds since 1970 on SQLite.

    SQLite has no time type; an integer sorts, subtracts and reads back exactly, text does not.
    """

    impl = SqlDateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else SqlDateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time {value!r}: attach a time zone")
        return to_micros(value) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return from_micros(value) if dialect.name == "sqlite" else value.astimezone(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime(), str: String()}  # noqa: RUF012 - SQLAlchemy reads it as it stands


class System(Base):
    """A bike-share system: what is collected and forecast together."""

    __tablename__ = "system"

    key: Mapped[int] = mapped_column(primary_key=True, comment="internal number")
    system_id: Mapped[str] = mapped_column(unique=True, comment="the name used in commands, files and addresses")
    name: Mapped[str | None] = mapped_column(comment="the name for people")
    timezone: Mapped[str | None] = mapped_column(comment="IANA zone of its calendar, such as Europe/Paris")
    licence: Mapped[str | None] = mapped_column(comment="licence of the data")
    attribution: Mapped[str | None] = mapped_column(comment="whom to name when the data is shown")


class Station(Base):
    """A station's identity, for good: rows refer to `key`, so an id that changes overnight moves no history."""

    __tablename__ = "station"
    __table_args__ = (
        Index("station_by_id", "system_key", "station_id", unique=True),
        Index("station_by_code", "system_key", "code"),
    )

    key: Mapped[int] = mapped_column(primary_key=True, comment="internal number")
    system_key: Mapped[int] = mapped_column(ForeignKey("system.key"), comment="its system")
    station_id: Mapped[str] = mapped_column(comment="the feed's id, always text")
    code: Mapped[str | None] = mapped_column(comment="public number on the kiosk, where there is one")


class StationVersion(Base):
    """What was known of a station over a period. Before its first version, the first one holds."""

    __tablename__ = "station_version"

    station_key: Mapped[int] = mapped_column(ForeignKey("station.key"), primary_key=True, comment="the station")
    valid_from: Mapped[datetime] = mapped_column(primary_key=True, comment="first moment at which this was seen")
    valid_to: Mapped[datetime | None] = mapped_column(comment="when it changed or the station vanished; null: holds")
    name: Mapped[str | None] = mapped_column(comment="name, blanks tidied")
    lat: Mapped[float | None] = mapped_column(comment="degrees north")
    lon: Mapped[float | None] = mapped_column(comment="degrees east")
    capacity: Mapped[int | None] = mapped_column(comment="docks; null where the feed says 0 or nothing")


class StationStatus(Base):
    """What was observed at a station: a row when a value changes or becomes unknown, and all of them every hour.

    Between two rows the value of the first holds at every accepted poll (see `poll`). All counts null: unknown.
    """

    __tablename__ = "station_status"
    # Without rowid the primary key is the table: one B-tree, half the size, range reads in key order.
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy reads it as it stands

    # No foreign key: checking it row by row costs a bulk load a third of its speed, and only `store` and
    # `importer` write here, with keys that they have just read.
    station_key: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="the station (station.key)")
    observed_at: Mapped[datetime] = mapped_column(primary_key=True, comment="when the feed was fetched")
    bikes: Mapped[int | None] = mapped_column(SmallInteger, comment="bikes that can be taken")
    mechanical: Mapped[int | None] = mapped_column(SmallInteger, comment="of these, without motor")
    ebikes: Mapped[int | None] = mapped_column(SmallInteger, comment="of these, with motor")
    docks: Mapped[int | None] = mapped_column(SmallInteger, comment="free docks")
    bikes_disabled: Mapped[int | None] = mapped_column(SmallInteger, comment="bikes that cannot be taken")
    docks_disabled: Mapped[int | None] = mapped_column(SmallInteger, comment="docks that cannot be used")
    is_installed: Mapped[bool | None] = mapped_column(comment="the station stands")
    is_renting: Mapped[bool | None] = mapped_column(comment="bikes can be taken")
    is_returning: Mapped[bool | None] = mapped_column(comment="bikes can be returned")
    last_reported: Mapped[datetime | None] = mapped_column(
        comment="the feed's own word on when the station last spoke; metadata only, it does not start a new row"
    )


class Poll(Base):
    """The ledger: one row a poll, so that unchanged, unknown and not asked are never confused."""

    __tablename__ = "poll"
    __table_args__ = (
        CheckConstraint(f"outcome IN ({', '.join(repr(str(o)) for o in Outcome)})", name="poll_outcome"),
        {"sqlite_with_rowid": False},
    )

    system_key: Mapped[int] = mapped_column(ForeignKey("system.key"), primary_key=True, comment="the system")
    polled_at: Mapped[datetime] = mapped_column(
        primary_key=True, comment="when the answer was there; equals observed_at of the rows that it wrote"
    )
    outcome: Mapped[str] = mapped_column(
        comment="ok, not_modified (both: stations without a row are unchanged), frozen, quarantined, failed, missed"
    )
    stations: Mapped[int] = mapped_column(default=0, comment="stations read in the answer")
    changed: Mapped[int] = mapped_column(default=0, comment="stations whose value changed or became unknown")
    rejected: Mapped[int] = mapped_column(default=0, comment="station records that could not be read")
    detail: Mapped[str | None] = mapped_column(comment="why, in words, where the outcome is not plain")
    feed_time: Mapped[datetime | None] = mapped_column(comment="the time that the feed gave itself")
    content: Mapped[str | None] = mapped_column(comment="SHA-256 of the raw status document in the archive")


class ImportedFile(Base):
    """How far the import of a history file has come, so that an interrupted one goes on where it stopped."""

    __tablename__ = "imported_file"

    system_key: Mapped[int] = mapped_column(ForeignKey("system.key"), primary_key=True, comment="the system")
    sha256: Mapped[str] = mapped_column(primary_key=True, comment="SHA-256 of the file")
    rows_done: Mapped[int] = mapped_column(BigInteger, default=0, comment="rows of the file that are stored for good")
    rows_total: Mapped[int] = mapped_column(BigInteger, comment="rows of the file")
    finished_at: Mapped[datetime | None] = mapped_column(comment="null while unfinished")


class Issue(Base):
    """A stored forecast of a whole system: one an issue time, with all that is needed to answer from it."""

    __tablename__ = "issue"

    system_key: Mapped[int] = mapped_column(ForeignKey("system.key"), primary_key=True, comment="the system")
    issued_at: Mapped[datetime] = mapped_column(primary_key=True, comment="the origin: what was known then was used")
    made_at: Mapped[datetime] = mapped_column(comment="when it was computed")
    observed_at: Mapped[datetime | None] = mapped_column(comment="newest observation that it used; null: none")
    model: Mapped[str] = mapped_column(comment="the model that was asked")
    version: Mapped[str | None] = mapped_column(comment="its version: the time of its training; null: never trained")
    state: Mapped[str] = mapped_column(comment="fresh, stale or degraded, as a whole")
    reason: Mapped[str | None] = mapped_column(comment="why it is not fresh, in words")
    body: Mapped[bytes] = mapped_column(
        LargeBinary, comment="stations, what was there, and distributions in 8 bits (safetensors, Zstandard)"
    )


class Score(Base):
    """How good a stored issue turned out to be: sums over its stations, a row a target and horizon."""

    __tablename__ = "score"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy reads it as it stands

    system_key: Mapped[int] = mapped_column(ForeignKey("system.key"), primary_key=True, comment="the system")
    issued_at: Mapped[datetime] = mapped_column(primary_key=True, comment="the issue")
    target: Mapped[str] = mapped_column(primary_key=True, comment="bikes, mechanical, ebikes or docks")
    horizon_s: Mapped[int] = mapped_column(primary_key=True, comment="seconds ahead")
    model: Mapped[str] = mapped_column(comment="the model that was asked")
    rows: Mapped[int] = mapped_column(comment="stations that count: open at the origin, and the truth is known")
    fallback: Mapped[int] = mapped_column(comment="of these, forecast by a fallback")
    rps: Mapped[float] = mapped_column(comment="sum of ranked probability scores, bikes")
    rps_persistence: Mapped[float] = mapped_column(comment="the same of what was there at the origin")
    brier: Mapped[float] = mapped_column(comment="sum of Brier scores of P(at least one)")
    error: Mapped[float] = mapped_column(comment="sum of absolute errors of the median")
    covered_80: Mapped[int] = mapped_column(comment="truths within the central 80 % interval")


class Weather(Base):
    """Forecasts of the weather at a system, as they were issued: a row an hour of each."""

    __tablename__ = "weather"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 - SQLAlchemy reads it as it stands

    system_key: Mapped[int] = mapped_column(ForeignKey("system.key"), primary_key=True, comment="the system")
    issued_at: Mapped[datetime] = mapped_column(primary_key=True, comment="when the forecast was known here")
    valid_at: Mapped[datetime] = mapped_column(primary_key=True, comment="the whole hour that it speaks of")
    temperature_c: Mapped[float | None] = mapped_column(comment="then, 2 m above ground")
    apparent_c: Mapped[float | None] = mapped_column(comment="then, as it is felt")
    precipitation_mm: Mapped[float | None] = mapped_column(comment="in the hour before")
    rain_mm: Mapped[float | None] = mapped_column(comment="of this, as rain")
    snowfall_cm: Mapped[float | None] = mapped_column(comment="snow in the hour before")
    wind_kmh: Mapped[float | None] = mapped_column(comment="then, 10 m above ground")
    gusts_kmh: Mapped[float | None] = mapped_column(comment="the strongest in the hour before")
    cloud_percent: Mapped[float | None] = mapped_column(comment="of the sky, then")
