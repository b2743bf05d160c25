"""Documents and hits as clients see them, encoded.

One place for the JSON of a document, shared by reads, exports and feeds that carry documents, so
that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec

from headwater.clock import rfc3339
from headwater.feeds.reader import RenderDocuments
from headwater.model import Change, Chunk, Document, Passage, Pending, chunk_id
from headwater.store.base import Reader

Raw = msgspec.Raw
encode = msgspec.json.Encoder().encode


class EmbeddingError(msgspec.Struct, gc=False):
    """What the last attempt said, as a problem would have it."""

    code: str
    detail: str
    retryable: bool


class EmbeddingJson(msgspec.Struct, kw_only=True, gc=False):
    """Why a document is not found by meaning yet."""

    status: str = "pending_embedding"
    since: str
    attempts: int
    error: EmbeddingError


class DocumentJson(msgspec.Struct, omit_defaults=True, gc=False):
    """A document on the wire. `text`, `texts` and `chunks` as it was sent, or as asked for."""

    id: str
    version: int
    num_chunks: int
    metadata: Raw
    created_at: str
    updated_at: str
    cursor: str
    title: str | None = None
    text: str | None = None
    texts: list[str | None] | None = None
    chunks: list[Raw] | None = None
    embedding: EmbeddingJson | None = None


def embedding_json(pending: Pending | None) -> EmbeddingJson | None:
    """What a document waits for; None when it has its vectors."""
    if pending is None:
        return None
    return EmbeddingJson(
        since=rfc3339(pending.since_us),
        attempts=pending.attempts,
        error=EmbeddingError(pending.code, pending.detail, pending.retryable),
    )


def document_json(
    document: Document,
    chunks: Sequence[Chunk] | None,
    log_id: str,
    include: Collection[str] = (),
) -> DocumentJson:
    """With `chunks` None the document is a listing's entry, without its text.

    `include` may name `chunks` and `vectors` (which brings the chunks with it).
    """
    result = DocumentJson(
        id=document.id,
        version=document.version,
        num_chunks=document.chunks.count,
        metadata=Raw(document.metadata),
        created_at=rfc3339(document.created_us),
        updated_at=rfc3339(document.updated_us),
        cursor=f"{log_id}.{document.position}",
        title=document.title,
        embedding=embedding_json(document.pending),
    )
    if chunks is None:
        return result
    if document.form == "text":
        whole = document.text
        result.text = chunks[0].text if whole is None and chunks else whole
    elif document.form == "texts":
        result.texts = [chunk.text for chunk in chunks]
    if document.form == "chunks" or "chunks" in include or "vectors" in include:
        # Each by itself: encoding thousands of vectors at once would hold up every other thread.
        result.chunks = [Raw(encode(_chunk_json(document, chunk))) for chunk in chunks]
    return result


def _chunk_json(document: Document, chunk: Chunk) -> dict[str, Any]:
    result: dict[str, Any] = {
        "id": chunk_id(document.id, chunk.ordinal),
        "ordinal": chunk.ordinal,
        "text": chunk.text,
    }
    if chunk.start is not None:
        result["start"], result["end"] = chunk.start, chunk.end
    if chunk.metadata is not None:
        result["metadata"] = Raw(chunk.metadata)
    if chunk.vector is not None:
        result["vector"] = chunk.vector.tolist()
    return result


def documents_of(log_id: Callable[[], str]) -> RenderDocuments:
    """A function that gives the latest state of the documents that changes are about, encoded.

    Keyed by (library id, document id); what no longer exists is missing. For feeds.
    """

    def render(
        reader: Reader, changes: Iterable[Change]
    ) -> dict[tuple[str | None, str | None], bytes]:
        wanted: dict[str, set[str]] = {}
        for change in changes:
            if change.library_id and change.subject and change.type.startswith("document."):
                wanted.setdefault(change.library_id, set()).add(change.subject)
        result: dict[tuple[str | None, str | None], bytes] = {}
        for library_id, ids in wanted.items():
            library = reader.library(library_id)
            if library is None:
                continue
            documents = list(reader.documents_by_id(library.number, ids).values())
            for document, chunks in zip(documents, reader.chunks(documents), strict=True):
                result[library_id, document.id] = encode(document_json(document, chunks, log_id()))
        return result

    return render


def metadata_of(passage: Passage) -> dict[str, Any]:
    """The document's metadata with the chunk's own over it."""
    metadata: dict[str, Any] = msgspec.json.decode(passage.metadata)
    if passage.chunk_metadata is not None:
        metadata.update(msgspec.json.decode(passage.chunk_metadata))
    return metadata


def hit_json(passage: Passage, rank: int, score: float, include: Collection[str]) -> dict[str, Any]:
    """A search result. A chunk's own metadata lies over its document's."""
    metadata: Any = Raw(passage.metadata)
    if passage.chunk_metadata is not None:
        metadata = metadata_of(passage)
    hit: dict[str, Any] = {
        "rank": rank,
        "chunk_id": chunk_id(passage.document_id, passage.ordinal),
        "document_id": passage.document_id,
        "title": passage.title,
        "text": passage.text,
        "score": score,
        "metadata": metadata,
    }
    if passage.start is not None:
        hit["start"], hit["end"] = passage.start, passage.end
    if "vector" in include and passage.vector is not None:
        hit["vector"] = passage.vector.tolist()
    return hit
