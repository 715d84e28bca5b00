"""Stored issues, and how good they turned out to be."""

import sqlalchemy as sa
from alembic import op

from velib_predictor.data.schema import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:

    op.create_table(
        "issue",
        sa.Column("system_key", sa.Integer(), nullable=False, comment="the system"),
        sa.Column("issued_at", UtcDateTime(), nullable=False, comment="the origin: what was known then was used"),
        sa.Column("made_at", UtcDateTime(), nullable=False, comment="when it was computed"),
        sa.Column("observed_at", UtcDateTime(), nullable=True, comment="newest observation that it used; null: none"),
        sa.Column("model", sa.String(), nullable=False, comment="the model that was asked"),
        sa.Column(
            "version",
            sa.String(),
            nullable=True,
            comment="its version: the time of its training; null: never trained",
        ),
        sa.Column("state", sa.String(), nullable=False, comment="fresh, stale or degraded, as a whole"),
        sa.Column("reason", sa.String(), nullable=True, comment="why it is not fresh, in words"),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="stations, what was there, and distributions in 8 bits (safetensors, Zstandard)",
        ),
        sa.ForeignKeyConstraint(["system_key"], ["system.key"]),
        sa.PrimaryKeyConstraint("system_key", "issued_at"),
    )
    op.create_table(
        "score",
        sa.Column("system_key", sa.Integer(), nullable=False, comment="the system"),
        sa.Column("issued_at", UtcDateTime(), nullable=False, comment="the issue"),
        sa.Column("target", sa.String(), nullable=False, comment="bikes, mechanical, ebikes or docks"),
        sa.Column("horizon_s", sa.Integer(), nullable=False, comment="seconds ahead"),
        sa.Column("model", sa.String(), nullable=False, comment="the model that was asked"),
        sa.Column(
            "rows",
            sa.Integer(),
            nullable=False,
            comment="stations that count: open at the origin, and the truth is known",
        ),
        sa.Column("fallback", sa.Integer(), nullable=False, comment="of these, forecast by a fallback"),
        sa.Column("rps", sa.Double(), nullable=False, comment="sum of ranked probability scores, bikes"),
        sa.Column("rps_persistence", sa.Double(), nullable=False, comment="the same of what was there at the origin"),
        sa.Column("brier", sa.Double(), nullable=False, comment="sum of Brier scores of P(at least one)"),
        sa.Column("error", sa.Double(), nullable=False, comment="sum of absolute errors of the median"),
        sa.Column("covered_80", sa.Integer(), nullable=False, comment="truths within the central 80 % interval"),
        sa.ForeignKeyConstraint(["system_key"], ["system.key"]),
        sa.PrimaryKeyConstraint("system_key", "issued_at", "target", "horizon_s"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:

    op.drop_table("score")
    op.drop_table("issue")
