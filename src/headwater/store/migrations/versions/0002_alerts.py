"""Alerts: queries that are kept, with their vectors."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

key = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("row", key, primary_key=True),
        sa.Column("library", sa.BigInteger, nullable=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text),
        sa.Column("query", sa.Text),
        sa.Column("score_threshold", sa.Float, nullable=False),
        sa.Column("filter", sa.LargeBinary),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("alerts_library", "alerts", ["library"])
