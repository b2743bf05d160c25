"""Shared search sessions: who is in them, what they ask, pin and note."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

key = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("row", key, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, unique=True),
        sa.Column("library", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("query", sa.LargeBinary),
        sa.Column("author", sa.Text),
        sa.Column("author_colour", sa.Text),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("sessions_library", "sessions", ["library"])
    op.create_table(
        "session_people",
        sa.Column("row", key, primary_key=True),
        sa.Column("session", sa.BigInteger, nullable=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("colour", sa.Text),
        sa.Column("client_id", sa.Text),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("joined_us", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("session_people_session", "session_people", ["session"])
    op.create_index("session_people_process", "session_people", ["process"])
    op.create_table(
        "session_processes",
        sa.Column("process", sa.Text, primary_key=True),
        sa.Column("until_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "session_marks",
        sa.Column("row", key, primary_key=True),
        sa.Column("session", sa.BigInteger, nullable=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("document_id", sa.Text, nullable=False),
        sa.Column("chunk_id", sa.Text),
        sa.Column("title", sa.Text),
        sa.Column("text", sa.Text),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("author_colour", sa.Text),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("session_marks_session", "session_marks", ["session", "kind"])
