"""Rows to values and values to the JSON of changes; used by both sides of the store.

The JSON of document changes is spliced from bytes: metadata is carried, never parsed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from headwater.model import NOTHING, Change, Chunk, Document, Library, Pending, Span, Vectors
from headwater.store import schema

encode: Final = msgspec.json.Encoder().encode
canonical: Final = msgspec.json.Encoder(order="deterministic").encode
decode: Final = msgspec.json.decode

LIBRARY_COLUMNS = [column for column in schema.libraries.columns if column.name != "deleted_us"]

DOCUMENT_COLUMNS = (
    "d.row, d.id, d.version, d.title, d.form, d.text, d.metadata, d.first_chunk, d.num_chunks, "
    "d.created_us, d.updated_us, d.position"
)
PENDING_COLUMNS = "since_us, attempts, due_us, code, detail, retryable"
PENDING_STATUS: Final = b',"status":"pending_embedding"'
"""A further member of the data of a pending document's changes."""
CHANGE_COLUMNS = (
    "position, at_us, type, library_id, subject, data, "
    "added_first, added_count, removed_first, removed_count, kept_first, kept_count"
)


def library_of(row: tuple[Any, ...]) -> Library:
    """From `LIBRARY_COLUMNS`, which follow the fields of `Library`."""
    values = list(row)
    values[10] = decode(values[10])
    return Library(*values)


def documents_of(rows: list[Any]) -> list[Document]:
    """From `DOCUMENT_COLUMNS`; what is pending is not in there."""
    return [
        Document(row, id, version, title, form, text, metadata, Span(first, count), *rest)
        for row, id, version, title, form, text, metadata, first, count, *rest in rows
    ]


def pending_of(row: tuple[Any, ...]) -> Pending:
    """From `PENDING_COLUMNS`."""
    since_us, attempts, due_us, code, detail, retryable = row
    return Pending(since_us, attempts, due_us, code, detail, bool(retryable))


def changes_of(rows: list[Any]) -> list[Change]:
    """From `CHANGE_COLUMNS`."""
    return [
        Change(
            position,
            at_us,
            type,
            library_id,
            subject,
            data,
            Span(added_first, added) if added else NOTHING,
            Span(removed_first, removed) if removed else NOTHING,
            Span(kept_first, kept) if kept else NOTHING,
        )
        for (
            position,
            at_us,
            type,
            library_id,
            subject,
            data,
            added_first,
            added,
            removed_first,
            removed,
            kept_first,
            kept,
        ) in rows
    ]


def vector_of(blob: bytes | None) -> Vectors | None:
    """float32 (dim,), read-only."""
    return None if blob is None else np.frombuffer(blob, np.float32)


def chunk_of(row: tuple[Any, ...]) -> Chunk:
    """From row, ordinal, text, start, end, metadata, vector."""
    number, ordinal, text, start, end, metadata, vector = row
    return Chunk(number, ordinal, text, start, end, metadata, vector_of(vector))


def library_data(library: Library, *, counts: bool = False) -> bytes:
    data: dict[str, Any] = {
        "library_id": library.id,
        "name": library.name,
        "description": library.description,
        "embedder": library.embedder,
        "dimension": library.dimension,
        "metric": library.metric,
        "version": library.version,
        "metadata": library.metadata,
    }
    if counts:
        data |= {"documents": library.documents, "chunks": library.chunks}
    return encode(data)


def document_data(
    id: str, title: str | None, num_chunks: int, version: int, metadata: bytes, tail: bytes = b""
) -> bytes:
    """`tail` is more members, each after a comma."""
    return b'{"document_id":%b,"title":%b,"num_chunks":%d,"version":%d,"metadata":%b%b}' % (
        encode(id),
        encode(title),
        num_chunks,
        version,
        metadata,
        tail,
    )
