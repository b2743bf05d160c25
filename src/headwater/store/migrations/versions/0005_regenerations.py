"""Vectors of a library's next generation, made beside those that are valid."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column(
        "libraries", sa.Column("generation", sa.Integer, nullable=False, server_default="0")
    )
    op.create_table(
        "regenerations",
        sa.Column("library", sa.BigInteger, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("embedder", sa.Text, nullable=False),
        sa.Column("embedder_identity", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "next_vectors",
        sa.Column("row", sa.BigInteger, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("library", sa.BigInteger, nullable=False),
        sa.Column("vector", sa.LargeBinary),
    )
    op.create_index("next_vectors_library", "next_vectors", ["library", "generation", "row"])
    op.create_index(
        "next_vectors_lacking",
        "next_vectors",
        ["library", "generation"],
        sqlite_where=sa.text("vector IS NULL"),
    )
