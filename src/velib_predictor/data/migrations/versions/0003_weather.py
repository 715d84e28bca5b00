"""Forecasts of the weather, as issued."""

import sqlalchemy as sa
from alembic import op

from velib_predictor.data.schema import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:

    op.create_table(
        "weather",
        sa.Column("system_key", sa.Integer(), nullable=False, comment="the system"),
        sa.Column("issued_at", UtcDateTime(), nullable=False, comment="when the forecast was known here"),
        sa.Column("valid_at", UtcDateTime(), nullable=False, comment="the whole hour that it speaks of"),
        sa.Column("temperature_c", sa.Double(), nullable=True, comment="then, 2 m above ground"),
        sa.Column("apparent_c", sa.Double(), nullable=True, comment="then, as it is felt"),
        sa.Column("precipitation_mm", sa.Double(), nullable=True, comment="in the hour before"),
        sa.Column("rain_mm", sa.Double(), nullable=True, comment="of this, as rain"),
        sa.Column("snowfall_cm", sa.Double(), nullable=True, comment="snow in the hour before"),
        sa.Column("wind_kmh", sa.Double(), nullable=True, comment="then, 10 m above ground"),
        sa.Column("gusts_kmh", sa.Double(), nullable=True, comment="the strongest in the hour before"),
        sa.Column("cloud_percent", sa.Double(), nullable=True, comment="of the sky, then"),
        sa.ForeignKeyConstraint(["system_key"], ["system.key"]),
        sa.PrimaryKeyConstraint("system_key", "issued_at", "valid_at"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:

    op.drop_table("weather")
