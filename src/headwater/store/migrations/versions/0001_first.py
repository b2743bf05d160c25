"""The first schema: libraries, documents, chunks, the log, open batches."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

key = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "libraries",
        sa.Column("number", key, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, unique=True),
        sa.Column("description", sa.Text),
        sa.Column("embedder", sa.Text, nullable=False),
        sa.Column("embedder_identity", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("chunk_size", sa.Integer, nullable=False),
        sa.Column("chunk_overlap", sa.Integer, nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("documents", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.BigInteger, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("pending", sa.BigInteger, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("quantization", sa.Text, nullable=False),
        sa.Column("deleted_us", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "documents",
        sa.Column("row", key, primary_key=True),
        sa.Column("library", sa.BigInteger, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("form", sa.Text, nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("first_chunk", sa.BigInteger, nullable=False),
        sa.Column("num_chunks", sa.Integer, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text),
        sa.UniqueConstraint("library", "id", name="documents_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("documents_library", "documents", ["library"])
    op.create_table(
        "chunks",
        sa.Column("row", key, primary_key=True),
        sa.Column("library", sa.BigInteger, nullable=False),
        sa.Column("document", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("start_char", sa.BigInteger),
        sa.Column("end_char", sa.BigInteger),
        sa.Column("metadata", sa.LargeBinary),
        sa.Column("text", sa.Text),
        sa.Column("vector", sa.LargeBinary),
        sqlite_autoincrement=True,
    )
    op.create_index("chunks_library", "chunks", ["library"])
    op.create_table(
        "pending",
        sa.Column("document", key, primary_key=True),
        sa.Column("library", sa.BigInteger, nullable=False),
        sa.Column("since_us", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_us", sa.BigInteger, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("retryable", sa.Integer, nullable=False),
    )
    op.create_index("pending_library", "pending", ["library", "document"])
    op.create_index("pending_due", "pending", ["library", "due_us", "document"])
    op.create_table(
        "changes",
        sa.Column("position", key, primary_key=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("library_id", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("added_first", sa.BigInteger, nullable=False),
        sa.Column("added_count", sa.Integer, nullable=False),
        sa.Column("removed_first", sa.BigInteger, nullable=False),
        sa.Column("removed_count", sa.Integer, nullable=False),
        sa.Column("kept_first", sa.BigInteger, nullable=False),
        sa.Column("kept_count", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "batches",
        sa.Column("row", key, primary_key=True),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("library_id", sa.Text, nullable=False),
        sa.Column("begun_us", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("batches_id", "batches", ["batch_id"])
