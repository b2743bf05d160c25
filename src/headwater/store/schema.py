"""The tables, as they stand at the newest migration.

Statements are written against these with SQLAlchemy Core and compiled once, when a module is
imported; the driver runs them. A change here needs a migration beside it (`migrations/`), which a
test compares with this file. Nothing outside the store may know a table.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import (
    BigInteger,
    Column,
    Executable,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement
from sqlalchemy.sql.schema import SchemaItem

metadata = MetaData()

# SQLite only makes a column its row id when the type is spelled INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


def _numbered(name: str, *parts: SchemaItem, key: str = "row") -> Table:
    """A table whose rows have a number that rises as they come and is never used again."""
    number = Column(key, Key, primary_key=True)
    return Table(name, metadata, number, *parts, sqlite_autoincrement=True)


def _times() -> Iterator[Column[int]]:
    for name in ("created_us", "updated_us"):
        yield Column(name, BigInteger, nullable=False)


meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""`log_id`; `trimmed`: the position up to which the log has been cut; `alerts`: how far the
matching of alerts is."""

libraries = _numbered(
    "libraries",
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, unique=True),
    Column("description", Text),
    Column("embedder", Text, nullable=False),
    Column("embedder_identity", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("metric", Text, nullable=False),
    Column("chunk_size", Integer, nullable=False),
    Column("chunk_overlap", Integer, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("version", Integer, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("chunks", BigInteger, nullable=False),
    *_times(),
    Column("position", BigInteger, nullable=False),
    Column("pending", BigInteger, nullable=False),
    Column("language", Text, nullable=False),
    Column("quantization", Text, nullable=False),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("deleted_us", BigInteger),
    key="number",
)
"""A deleted library has no name and a `deleted_us`; its rows go piece by piece."""

documents = _numbered(
    "documents",
    Column("library", BigInteger, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("title", Text),
    Column("form", Text, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    Column("first_chunk", BigInteger, nullable=False),
    Column("num_chunks", Integer, nullable=False),
    *_times(),
    Column("position", BigInteger, nullable=False),
    Column("text", Text),
    UniqueConstraint("library", "id", name="documents_id"),
    Index("documents_library", "library"),
)

chunks = _numbered(
    "chunks",
    Column("library", BigInteger, nullable=False),
    Column("document", BigInteger, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("start_char", BigInteger),
    Column("end_char", BigInteger),
    Column("metadata", LargeBinary),
    Column("text", Text),
    Column("vector", LargeBinary),
    Index("chunks_library", "library"),
)
"""A document's rows are consecutive. `vector` comes last: what reads the rest never touches it."""

pending = Table(
    "pending",
    metadata,
    Column("document", Key, primary_key=True),
    Column("library", BigInteger, nullable=False),
    Column("since_us", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_us", BigInteger, nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("retryable", Integer, nullable=False),
    Index("pending_library", "library", "document"),
    Index("pending_due", "library", "due_us", "document"),
)
"""The documents with chunks that have no vector yet. A table apart: mostly it is empty."""

regenerations = Table(
    "regenerations",
    metadata,
    Column("library", BigInteger, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("job", Text, nullable=False),
    Column("embedder", Text, nullable=False),
    Column("embedder_identity", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("state", Text, nullable=False),
)
"""Generations that have vectors in `next_vectors`: `filling`, `valid` or `dropped`."""

next_vectors = Table(
    "next_vectors",
    metadata,
    Column("row", BigInteger, primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("library", BigInteger, nullable=False),
    Column("vector", LargeBinary),
    Index("next_vectors_library", "library", "generation", "row"),
    Index("next_vectors_lacking", "library", "generation", sqlite_where=text("vector IS NULL")),
)
"""Vectors by chunk row, valid when their generation is the library's. None: it gets none."""

changes = _numbered(
    "changes",
    Column("at_us", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("library_id", Text),
    Column("subject", Text),
    Column("added_first", BigInteger, nullable=False),
    Column("added_count", Integer, nullable=False),
    Column("removed_first", BigInteger, nullable=False),
    Column("removed_count", Integer, nullable=False),
    Column("kept_first", BigInteger, nullable=False),
    Column("kept_count", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    key="position",
)

batches = _numbered(
    "batches",
    Column("batch_id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("library_id", Text, nullable=False),
    Column("begun_us", BigInteger, nullable=False),
    Index("batches_id", "batch_id"),
)
"""The open batches. A client may use one id for several streams: each is a row."""

alerts = _numbered(
    "alerts",
    Column("library", BigInteger, nullable=False),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text),
    Column("query", Text),
    Column("score_threshold", Float, nullable=False),
    Column("filter", LargeBinary),
    Column("metadata", LargeBinary, nullable=False),
    Column("version", Integer, nullable=False),
    *_times(),
    Column("position", BigInteger, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Index("alerts_library", "library"),
)
"""How far their matching is, is in `meta` under `alerts`."""

sessions = _numbered(
    "sessions",
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, unique=True),
    Column("library", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("query", LargeBinary),
    Column("author", Text),
    Column("author_colour", Text),
    *_times(),
    Column("seen_us", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Index("sessions_library", "library"),
)
"""`seen_us`: when somebody last left. A session without a name goes with its deleted library."""

session_people = _numbered(
    "session_people",
    Column("session", BigInteger, nullable=False),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("colour", Text),
    Column("client_id", Text),
    Column("process", Text, nullable=False),
    Column("joined_us", BigInteger, nullable=False),
    Index("session_people_session", "session"),
    Index("session_people_process", "process"),
)

session_processes = Table(
    "session_processes",
    metadata,
    Column("process", Text, primary_key=True),
    Column("until_us", BigInteger, nullable=False),
)
"""The leases under which processes answer for the people they have connections to."""

session_marks = _numbered(
    "session_marks",
    Column("session", BigInteger, nullable=False),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("document_id", Text, nullable=False),
    Column("chunk_id", Text),
    Column("title", Text),
    Column("text", Text),
    Column("author", Text, nullable=False),
    Column("author_colour", Text),
    *_times(),
    Index("session_marks_session", "session", "kind"),
)
"""Pins and notes."""

jobs = _numbered(
    "jobs",
    Column("id", Text, nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("library_id", Text),
    Column("status", Text, nullable=False),
    Column("due", Integer, nullable=False),
    Column("dead", Integer, nullable=False),
    Column("cancel_requested", Integer, nullable=False),
    Column("advanced", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("not_before_us", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("lease", Integer, nullable=False),
    Column("lease_until_us", BigInteger, nullable=False),
    Column("worker", Text),
    Column("idempotency_key", Text),
    Column("schedule_id", Text),
    *_times(),
    Column("started_us", BigInteger),
    Column("finished_us", BigInteger),
    Column("position", BigInteger, nullable=False),
    Column("current", BigInteger, nullable=False),
    Column("total", BigInteger),
    Column("message", Text),
    Column("rate", Float),
    Column("error", LargeBinary),
    Column("params", LargeBinary, nullable=False),
    Column("result", LargeBinary),
    Column("saved", LargeBinary),
    UniqueConstraint("type", "idempotency_key", name="jobs_idempotency"),
    Index(
        "jobs_ready",
        "type",
        "rank",
        "not_before_us",
        sqlite_where=text("status = 'queued' AND due = 1"),
    ),
    Index("jobs_delayed", "not_before_us", sqlite_where=text("status = 'queued' AND due = 0")),
    Index("jobs_held", "worker", sqlite_where=text("status = 'running'")),
    Index("jobs_status", "status", "type"),
    Index("jobs_library", "library_id"),
    Index("jobs_finished", "status", "finished_us"),
)
"""`rank` is minus the priority: the least goes first. `due`: its time has come, so that it stands
in line. `advanced`: it has saved something new since it was claimed. The large columns come last:
what reads the rest never touches them."""

schedules = _numbered(
    "schedules",
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("library_id", Text),
    Column("params", LargeBinary, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("cron", Text),
    Column("timezone", Text, nullable=False),
    Column("every_us", BigInteger),
    Column("missed", Text, nullable=False),
    Column("paused", Integer, nullable=False),
    Column("next_us", BigInteger, nullable=False),
    Column("last_us", BigInteger),
    Column("last_job_id", Text),
    Column("fired", Integer, nullable=False),
    *_times(),
    Index("schedules_next", "paused", "next_us"),
)

workers = Table(
    "workers",
    metadata,
    Column("process", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("types", LargeBinary, nullable=False),
    Column("mode", Text, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
    Column("own", LargeBinary, nullable=False),
)
"""The processes that run jobs, each with the size, types and mode that it is to have now. `own` has
the size and types it was started with."""


def compiled(statement: Executable) -> str:
    """The SQL of a Core statement for the driver, parameters as `:name`."""
    assert isinstance(statement, ClauseElement)
    made = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    assert isinstance(made, SQLCompiler)
    # A literal in the statement would be a parameter that no caller knows of.
    assert all(parameter.required for parameter in made.binds.values()), str(made)
    return str(made)
