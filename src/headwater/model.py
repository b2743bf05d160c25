"""The nouns of the system, as plain values.

Imported by every layer above `errors`. Holds no behaviour that needs a database, a loop or a
clock. Times are Unix microseconds (`_us`) inside and RFC 3339 at the edge; JSON that is only
carried, never looked into, stays `bytes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater.errors import CursorExpired, InvalidCursor

Position = int
"""A place in the log: 64-bit, assigned inside the write transaction, rising in commit order."""

Vectors = NDArray[np.float32]
"""float32, shape (n, dim), C-contiguous."""

Rows = NDArray[np.int64]
"""int64, shape (n,): chunk row numbers of the store, never reused."""

Metric = Literal["cosine", "dot", "euclidean"]
Quantization = Literal["none", "int8"]
Status = Literal["created", "updated", "unchanged"]
Form = Literal["text", "texts", "chunks"]
MarkKind = Literal["pin", "note"]
JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
WorkerRole = Literal["server", "worker"]
WorkerMode = Literal["run", "pause", "drain"]
Missed = Literal["skip", "once", "all"]
"""What a schedule does about firings that nobody was there for."""

EVENT_TYPES = (
    "library.created",
    "library.updated",
    "library.regenerated",
    "library.deleted",
    "document.added",
    "document.updated",
    "document.deleted",
    "document.embedded",
    "chunk.added",
    "chunk.deleted",
    "index.rebuilding",
    "index.rebuilt",
    "index.optimizing",
    "index.optimized",
    "batch.started",
    "batch.completed",
    "batch.failed",
    "alert.created",
    "alert.updated",
    "alert.deleted",
    "alert.matched",
    "session.created",
    "session.updated",
    "session.joined",
    "session.left",
    "session.pinned",
    "session.unpinned",
    "session.noted",
    "session.note_removed",
    "session.deleted",
    "job.queued",
    "job.started",
    "job.progress",
    "job.completed",
    "job.failed",
    "job.cancelled",
    "schedule.created",
    "schedule.updated",
    "schedule.deleted",
    "worker.updated",
)

_CURSOR = re.compile(r"([a-z0-9]{6,16})\.([0-9]{1,19})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """What clients see of a position: `<log-id>.<position>`, opaque to them.

    `part` counts the events already delivered of the *next* change after `position`, when one
    change is expanded into several events (`chunk.*`). It is 0 between changes.
    """

    log_id: str
    position: Position
    part: int = 0

    def __str__(self) -> str:
        tail = f".{self.part}" if self.part else ""
        return f"{self.log_id}.{self.position}{tail}"

    @classmethod
    def parse(cls, text: str, *, log_id: str) -> Self:
        """Read a cursor of the log `log_id`.

        Raises `InvalidCursor` when `text` is no cursor, `CursorExpired` when it belongs to
        another history (a restored or recreated database).
        """
        match = _CURSOR.fullmatch(text)
        if match is None or int(match[2]) >= 1 << 63:
            raise InvalidCursor(
                f"{text[:80]!r} is not a cursor; use one from an answer or event, "
                "or `beginning` or `now`"
            )
        if match[1] != log_id:
            raise CursorExpired(
                f"cursor {text} belongs to another log than this server's ({log_id}); "
                "read the current state (an export gives a cursor) and go on from there",
                reason="other_log",
            )
        return cls(match[1], int(match[2]), int(match[3] or 0))


class Span(msgspec.Struct, frozen=True, gc=False):
    """`count` consecutive chunk rows from `first` on; no rows when `count` is 0."""

    first: int = 0
    count: int = 0


NOTHING = Span()


class Change(msgspec.Struct, frozen=True, gc=False):
    """One row of the log.

    `data` is an encoded JSON object with what a reader needs to decide. `added` and `removed` are
    the chunk rows a view puts in and takes out, `kept` those of a document that changed around
    them (its metadata, its title): views need nothing else, and never look them up.
    """

    position: Position
    at_us: int
    type: str
    library_id: str | None
    subject: str | None
    data: bytes
    added: Span = NOTHING
    removed: Span = NOTHING
    kept: Span = NOTHING


class AddedVectors(msgspec.Struct, frozen=True, gc=False):
    """The vectors of chunk rows `first` … `first + len(matrix) - 1` of one library."""

    library_id: str
    first: int
    matrix: Vectors


class Committed(msgspec.Struct, frozen=True, gc=False):
    """One write transaction, as followers at the head get it.

    It holds every change in (`after`, `through`]; whoever has read through `after` may take it
    and is then at `through`. `vectors` covers every `added` span in `changes`, except chunks that
    have no vector yet.
    """

    after: Position
    through: Position
    changes: tuple[Change, ...]
    vectors: tuple[AddedVectors, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(len(change.data) + 256 for change in self.changes) + sum(
            added.matrix.nbytes for added in self.vectors
        )


class Library(msgspec.Struct, frozen=True):
    """A named set of documents with one embedder, dimension and metric.

    `number` is the store's own key; `id` is the UUIDv7 that clients see.
    `embedder_identity` names the exact model; the store never lets it change. `language` is the
    one whose words keyword search stems, or `none`. `quantization` is how the vectors are kept in
    memory: as they are, or as int8 codes with the vectors in files.
    """

    number: int
    id: str
    name: str
    description: str | None
    embedder: str
    embedder_identity: str
    dimension: int
    metric: Metric
    chunk_size: int
    chunk_overlap: int
    metadata: dict[str, Any]
    version: int
    documents: int
    chunks: int
    created_us: int
    updated_us: int
    position: Position
    pending: int = 0
    """Documents that wait for their vectors."""
    language: str = "en"
    quantization: Quantization = "none"
    generation: int = 0
    """Rises when all its vectors are made anew: those of two never meet."""


class Pending(msgspec.Struct, frozen=True, gc=False):
    """Why a document has no vectors yet: since when, after how many attempts, what the last said.

    `due_us` is when it is tried again at the earliest; when somebody has asked for it, minus the
    time of that.
    """

    since_us: int
    attempts: int
    due_us: int
    code: str
    detail: str
    retryable: bool


class Document(msgspec.Struct, frozen=True, gc=False):
    """A stored document. `row` is the store's key and rises in order of first insertion.

    `text` is the whole text when `form` is `text` and there is more than one chunk; with one
    chunk the chunk's text is the document's. `chunks` names its chunk rows, in order. `pending`
    is there while some of them wait for their vectors.
    """

    row: int
    id: str
    version: int
    title: str | None
    form: Form
    text: str | None
    metadata: bytes
    chunks: Span
    created_us: int
    updated_us: int
    position: Position
    pending: Pending | None = None


class Described(msgspec.Struct, frozen=True, gc=False):
    """What filters look at of a stored document: its metadata, and which chunk rows are its."""

    row: int
    id: str
    metadata: bytes
    chunks: Span
    position: Position


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A stored chunk. `start` and `end` are character offsets into the document's text.

    `vector` is None unless it was asked for, and always when the chunk has none.
    """

    row: int
    ordinal: int
    text: str | None
    start: int | None
    end: int | None
    metadata: bytes | None
    vector: Vectors | None = None


class Passage(msgspec.Struct, frozen=True, gc=False):
    """A chunk with what is shown of its document when it is found. `metadata` is the document's."""

    row: int
    document_id: str
    title: str | None
    ordinal: int
    text: str | None
    start: int | None
    end: int | None
    metadata: bytes
    chunk_metadata: bytes | None
    vector: Vectors | None = None


class DraftChunk(msgspec.Struct, frozen=True, gc=False):
    text: str | None
    start: int | None = None
    end: int | None = None
    metadata: bytes | None = None


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A document made ready to be stored: chunked, hashed, canonical.

    `metadata` is canonical JSON (keys sorted), `body_hash` covers everything that shapes the
    chunks and vectors, so that equal hashes need no new chunks. `must_be_new` and `if_version`
    are conditions; the store refuses the draft with `DocumentExists` or `VersionMismatch`.
    """

    id: str
    title: str | None
    form: Form
    text: str | None
    metadata: bytes
    body_hash: bytes
    chunks: tuple[DraftChunk, ...]
    must_be_new: bool = False
    if_version: int | None = None


class Written(msgspec.Struct, frozen=True, gc=False):
    """What became of one draft. `position` is the change's, or the last one's when unchanged.

    `pending` is there when the document waits for its vectors.
    """

    id: str
    status: Status
    version: int
    num_chunks: int
    created_us: int
    updated_us: int
    position: Position
    pending: Pending | None = None


class Alert(msgspec.Struct, frozen=True, gc=False):
    """A query that is kept: each document version whose best chunk scores `score_threshold` at
    least, and passes the filter, is told in the log.

    `row` is the store's key and rises in order of creation. `vector` float32 (dim,), prepared for
    the metric; `filter` and `metadata` are encoded JSON. It holds from `position` on.
    """

    row: int
    id: str
    library: int
    library_id: str
    name: str | None
    query: str | None
    vector: Vectors
    score_threshold: float
    filter: bytes | None
    metadata: bytes
    version: int
    created_us: int
    updated_us: int
    position: Position


class Author(msgspec.Struct, frozen=True, gc=False):
    """Who did something in a session, as they called themselves then. Nobody vouches for it."""

    name: str
    colour: str | None = None


class Session(msgspec.Struct, frozen=True, gc=False):
    """A named room on one library: people, one query they share, what they pinned and noted.

    `row` is the store's key and rises in order of creation. `query` is encoded JSON, None until
    somebody asks; `revision` counts its edits from 0. `people`, `pins` and `notes` are counts.
    """

    row: int
    id: str
    name: str
    library: int
    library_id: str
    library_name: str
    revision: int
    query: bytes | None
    author: Author | None
    created_us: int
    updated_us: int
    position: Position
    people: int = 0
    pins: int = 0
    notes: int = 0


class Person(msgspec.Struct, frozen=True, gc=False):
    """Somebody who is in a session now, through one connection held by the process `process`.

    `client_id` is what the client calls itself over several connections; others never see it.
    """

    id: str
    name: str
    colour: str | None
    process: str
    joined_us: int
    client_id: str | None = None


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A pin or a note on a document, or on one chunk of it. `revision` counts from 1."""

    id: str
    kind: MarkKind
    revision: int
    document_id: str
    chunk_id: str | None
    title: str | None
    text: str | None
    author: Author
    created_us: int
    updated_us: int


class SessionState(msgspec.Struct, frozen=True, gc=False):
    """All there is of a session at `position`: people and marks in the order they came."""

    session: Session
    people: list[Person]
    marks: list[Mark]
    position: Position


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How far a job is. `rate` is what it does of `total` in a second."""

    current: int = 0
    total: int | None = None
    message: str | None = None
    rate: float | None = None


class Job(msgspec.Struct, frozen=True):
    """Long work in the background. `row` is the store's key and rises in order of submission.

    `attempt` counts the attempts begun, `lease` the times it was ever claimed: what a worker writes
    with an older one is refused. `worker` is the process that has it, until `lease_until_us` and on
    as long as it renews its lease. `dead` is one that failed and has no attempts left.
    """

    row: int
    id: str
    type: str
    library_id: str | None
    params: dict[str, Any]
    status: JobStatus
    priority: int
    not_before_us: int
    attempt: int
    max_attempts: int
    created_us: int
    updated_us: int
    position: Position
    lease: int = 0
    lease_until_us: int = 0
    worker: str | None = None
    dead: bool = False
    cancel_requested: bool = False
    idempotency_key: str | None = None
    schedule_id: str | None = None
    progress: Progress = Progress()
    saved: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    """`code`, `detail` and `retryable` of the last failure."""
    started_us: int | None = None
    """When its last attempt began."""
    finished_us: int | None = None


class Schedule(msgspec.Struct, frozen=True):
    """Jobs that are submitted by the clock: by a cron expression in a time zone, or an interval."""

    row: int
    id: str
    name: str
    type: str
    library_id: str | None
    params: dict[str, Any]
    priority: int
    max_attempts: int
    cron: str | None
    timezone: str
    every_us: int | None
    missed: Missed
    paused: bool
    next_us: int
    last_us: int | None
    last_job_id: str | None
    fired: int
    created_us: int
    updated_us: int


class Worker(msgspec.Struct, frozen=True):
    """A process that runs jobs: a server's pool, or a `headwater worker`.

    `size` is how many it runs at once, `types` those it takes, `*` for all. In mode `pause` it
    takes no more, in mode `drain` it gives back what it has, too. `until_us` is when its word runs
    out.
    """

    process: str
    role: WorkerRole
    pid: int
    size: int
    types: list[str]
    mode: WorkerMode
    started_us: int
    until_us: int
    running: int = 0


def chunk_id(document_id: str, ordinal: int) -> str:
    """The public name of a chunk: `<document id>#<ordinal>`, stable across updates."""
    return f"{document_id}#{ordinal}"
