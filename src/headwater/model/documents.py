"""Documents: as they come in, as they are stored, as they are found."""

from __future__ import annotations

from typing import Literal

import msgspec

from headwater.model.log import Position, Span, Vectors

Status = Literal["created", "updated", "unchanged"]
Form = Literal["text", "texts", "chunks"]


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


def chunk_id(document_id: str, ordinal: int) -> str:
    """The public name of a chunk: `<document id>#<ordinal>`, stable across updates."""
    return f"{document_id}#{ordinal}"
