"""The JSON of requests and answers: one struct per shape.

Decoded and encoded by msgspec; unknown fields are refused so that a typing error is an error.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from headwater.clock import rfc3339
from headwater.model import Library, Metric, Quantization, Session, Written
from headwater.search.base import ViewStatus
from headwater.search.language import DEFAULT_LANGUAGE
from headwater.service.alerts import AlertPatch, NewAlert
from headwater.service.drafts import ChunkInput, DocumentInput
from headwater.service.live import LiveQuery
from headwater.service.query import Query
from headwater.service.render import EmbeddingJson, embedding_json

encode = msgspec.json.Encoder().encode


class NewLibrary(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    embedder: str = "static"
    dimension: int | None = None
    metric: Metric = "cosine"
    chunk_size: int | None = None
    chunk_overlap: int | None = None
    metadata: dict[str, Any] = {}
    language: str = DEFAULT_LANGUAGE
    quantization: Quantization = "none"


class LibraryPatch(msgspec.Struct, forbid_unknown_fields=True):
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    chunk_size: int | UnsetType = UNSET
    chunk_overlap: int | UnsetType = UNSET


class IndexJson(msgspec.Struct):
    """The library's vector view in the process that answers."""

    state: str
    cursor: str
    rows: int
    head_rows: int
    segments: int
    dead_rows: int
    memory_bytes: int


class LibraryJson(msgspec.Struct, omit_defaults=True):
    id: str
    name: str
    description: str | None
    embedder: str
    embedder_identity: str
    dimension: int
    metric: Metric
    chunk_size: int
    chunk_overlap: int
    language: str
    quantization: Quantization
    metadata: dict[str, Any]
    version: int
    documents: int
    chunks: int
    pending: int
    created_at: str
    updated_at: str
    cursor: str
    index: IndexJson | UnsetType | None = UNSET


class LibraryPage(msgspec.Struct):
    libraries: list[LibraryJson]
    next: str | None


class DocumentPatch(msgspec.Struct, forbid_unknown_fields=True):
    title: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class WriteAnswer(msgspec.Struct, omit_defaults=True):
    id: str
    status: str
    version: int
    num_chunks: int
    created_at: str
    updated_at: str
    cursor: str
    embedding: EmbeddingJson | None = None


class Redriven(msgspec.Struct):
    """How many documents are tried again now."""

    pending: int


class Deleted(msgspec.Struct):
    id: str
    cursor: str


class DeleteMany(msgspec.Struct, forbid_unknown_fields=True):
    """Which documents to delete: exactly one of `filter` and `ids`."""

    filter: dict[str, Any] | None = None
    ids: list[str] | None = None
    dry_run: bool = False
    limit: int | None = None
    after: str | None = None


class DeletedMany(msgspec.Struct):
    deleted: int
    matched: int
    more: bool
    next: str | None
    cursor: str


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    documents: list[msgspec.Raw]


class BatchInput(msgspec.Struct):
    """`Batch` as it is described: its documents are read one by one."""

    documents: list[DocumentInput]


class BatchAnswer(msgspec.Struct):
    results: list[dict[str, Any]]
    created: int
    updated: int
    unchanged: int
    failed: int
    cursor: str


class SearchBatch(msgspec.Struct, forbid_unknown_fields=True):
    queries: list[Query]


class SessionJson(msgspec.Struct):
    """A shared session as a listing shows it. `revision` is that of its query."""

    session_id: str
    name: str
    library_id: str
    library: str
    people: int
    pins: int
    notes: int
    revision: int
    created_at: str
    updated_at: str
    cursor: str


class SessionPage(msgspec.Struct):
    sessions: list[SessionJson]
    next: str | None


class Problem(msgspec.Struct):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str | None


ALL = [
    NewLibrary,
    LibraryPatch,
    LibraryJson,
    LibraryPage,
    DocumentInput,
    ChunkInput,
    DocumentPatch,
    WriteAnswer,
    Redriven,
    Deleted,
    DeleteMany,
    DeletedMany,
    BatchInput,
    BatchAnswer,
    SearchBatch,
    Query,
    LiveQuery,
    NewAlert,
    AlertPatch,
    SessionJson,
    SessionPage,
    Problem,
]


def library_json(library: Library, log_id: str) -> LibraryJson:
    return LibraryJson(
        id=library.id,
        name=library.name,
        description=library.description,
        embedder=library.embedder,
        embedder_identity=library.embedder_identity,
        dimension=library.dimension,
        metric=library.metric,
        chunk_size=library.chunk_size,
        chunk_overlap=library.chunk_overlap,
        language=library.language,
        quantization=library.quantization,
        metadata=library.metadata,
        version=library.version,
        documents=library.documents,
        chunks=library.chunks,
        pending=library.pending,
        created_at=rfc3339(library.created_us),
        updated_at=rfc3339(library.updated_us),
        cursor=f"{log_id}.{library.position}",
    )


def session_json(session: Session, log_id: str) -> SessionJson:
    return SessionJson(
        session_id=session.id,
        name=session.name,
        library_id=session.library_id,
        library=session.library_name,
        people=session.people,
        pins=session.pins,
        notes=session.notes,
        revision=session.revision,
        created_at=rfc3339(session.created_us),
        updated_at=rfc3339(session.updated_us),
        cursor=f"{log_id}.{session.position}",
    )


def index_json(status: ViewStatus, log_id: str) -> IndexJson:
    return IndexJson(
        state=status.state,
        cursor=f"{log_id}.{status.position}",
        rows=status.rows,
        head_rows=status.head_rows,
        segments=status.segments,
        dead_rows=status.dead_rows,
        memory_bytes=status.memory_bytes,
    )


def write_answer(written: Written, log_id: str) -> WriteAnswer:
    return WriteAnswer(
        id=written.id,
        status=written.status,
        version=written.version,
        num_chunks=written.num_chunks,
        created_at=rfc3339(written.created_us),
        updated_at=rfc3339(written.updated_us),
        cursor=f"{log_id}.{written.position}",
        embedding=embedding_json(written.pending),
    )


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, "application/json")
