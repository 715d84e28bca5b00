"""The first schema: systems, stations and their versions, status rows, the poll ledger, import progress."""

import sqlalchemy as sa
from alembic import op

from velib_predictor.data.schema import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:

    op.create_table(
        "station_status",
        sa.Column(
            "station_key",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="the station (station.key)",
        ),
        sa.Column("observed_at", UtcDateTime(), nullable=False, comment="when the feed was fetched"),
        sa.Column("bikes", sa.SmallInteger(), nullable=True, comment="bikes that can be taken"),
        sa.Column("mechanical", sa.SmallInteger(), nullable=True, comment="of these, without motor"),
        sa.Column("ebikes", sa.SmallInteger(), nullable=True, comment="of these, with motor"),
        sa.Column("docks", sa.SmallInteger(), nullable=True, comment="free docks"),
        sa.Column("bikes_disabled", sa.SmallInteger(), nullable=True, comment="bikes that cannot be taken"),
        sa.Column("docks_disabled", sa.SmallInteger(), nullable=True, comment="docks that cannot be used"),
        sa.Column("is_installed", sa.Boolean(), nullable=True, comment="the station stands"),
        sa.Column("is_renting", sa.Boolean(), nullable=True, comment="bikes can be taken"),
        sa.Column("is_returning", sa.Boolean(), nullable=True, comment="bikes can be returned"),
        sa.Column(
            "last_reported",
            UtcDateTime(),
            nullable=True,
            comment="the feed's own word on when the station last spoke; metadata only, it does not start a new row",
        ),
        sa.PrimaryKeyConstraint("station_key", "observed_at"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "system",
        sa.Column("key", sa.Integer(), nullable=False, comment="internal number"),
        sa.Column("system_id", sa.String(), nullable=False, comment="the name used in commands, files and addresses"),
        sa.Column("name", sa.String(), nullable=True, comment="the name for people"),
        sa.Column("timezone", sa.String(), nullable=True, comment="IANA zone of its calendar, such as Europe/Paris"),
        sa.Column("licence", sa.String(), nullable=True, comment="licence of the data"),
        sa.Column("attribution", sa.String(), nullable=True, comment="whom to name when the data is shown"),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("system_id"),
    )
    op.create_table(
        "imported_file",
        sa.Column("system_key", sa.Integer(), nullable=False, comment="the system"),
        sa.Column("sha256", sa.String(), nullable=False, comment="SHA-256 of the file"),
        sa.Column("rows_done", sa.BigInteger(), nullable=False, comment="rows of the file that are stored for good"),
        sa.Column("rows_total", sa.BigInteger(), nullable=False, comment="rows of the file"),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="null while unfinished"),
        sa.ForeignKeyConstraint(
            ["system_key"],
            ["system.key"],
        ),
        sa.PrimaryKeyConstraint("system_key", "sha256"),
    )
    op.create_table(
        "poll",
        sa.Column("system_key", sa.Integer(), nullable=False, comment="the system"),
        sa.Column(
            "polled_at",
            UtcDateTime(),
            nullable=False,
            comment="when the answer was there; equals observed_at of the rows that it wrote",
        ),
        sa.Column(
            "outcome",
            sa.String(),
            nullable=False,
            comment="ok, not_modified (both: stations without a row are unchanged), "
            "frozen, quarantined, failed, missed",
        ),
        sa.Column("stations", sa.Integer(), nullable=False, comment="stations read in the answer"),
        sa.Column("changed", sa.Integer(), nullable=False, comment="stations whose value changed or became unknown"),
        sa.Column("rejected", sa.Integer(), nullable=False, comment="station records that could not be read"),
        sa.Column("detail", sa.String(), nullable=True, comment="why, in words, where the outcome is not plain"),
        sa.Column("feed_time", UtcDateTime(), nullable=True, comment="the time that the feed gave itself"),
        sa.Column("content", sa.String(), nullable=True, comment="SHA-256 of the raw status document in the archive"),
        sa.CheckConstraint(
            "outcome IN ('ok', 'not_modified', 'frozen', 'quarantined', 'failed', 'missed')",
            name="poll_outcome",
        ),
        sa.ForeignKeyConstraint(
            ["system_key"],
            ["system.key"],
        ),
        sa.PrimaryKeyConstraint("system_key", "polled_at"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "station",
        sa.Column("key", sa.Integer(), nullable=False, comment="internal number"),
        sa.Column("system_key", sa.Integer(), nullable=False, comment="its system"),
        sa.Column("station_id", sa.String(), nullable=False, comment="the feed's id, always text"),
        sa.Column("code", sa.String(), nullable=True, comment="public number on the kiosk, where there is one"),
        sa.ForeignKeyConstraint(
            ["system_key"],
            ["system.key"],
        ),
        sa.PrimaryKeyConstraint("key"),
    )
    with op.batch_alter_table("station", schema=None) as batch_op:
        batch_op.create_index("station_by_code", ["system_key", "code"], unique=False)
        batch_op.create_index("station_by_id", ["system_key", "station_id"], unique=True)

    op.create_table(
        "station_version",
        sa.Column("station_key", sa.Integer(), nullable=False, comment="the station"),
        sa.Column("valid_from", UtcDateTime(), nullable=False, comment="first moment at which this was seen"),
        sa.Column(
            "valid_to",
            UtcDateTime(),
            nullable=True,
            comment="when it changed or the station vanished; null: holds",
        ),
        sa.Column("name", sa.String(), nullable=True, comment="name, blanks tidied"),
        sa.Column("lat", sa.Double(), nullable=True, comment="degrees north"),
        sa.Column("lon", sa.Double(), nullable=True, comment="degrees east"),
        sa.Column("capacity", sa.Integer(), nullable=True, comment="docks; null where the feed says 0 or nothing"),
        sa.ForeignKeyConstraint(
            ["station_key"],
            ["station.key"],
        ),
        sa.PrimaryKeyConstraint("station_key", "valid_from"),
    )


def downgrade() -> None:

    op.drop_table("station_version")
    with op.batch_alter_table("station", schema=None) as batch_op:
        batch_op.drop_index("station_by_id")
        batch_op.drop_index("station_by_code")

    op.drop_table("station")
    op.drop_table("poll")
    op.drop_table("imported_file")
    op.drop_table("system")
    op.drop_table("station_status")
