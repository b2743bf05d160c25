"""NDJSON and CSV files: text, a document a line or a record."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Raw as Json

from headwater.model import Chunk, Document
from headwater.service.export_files.base import encode, whole_text

CSV_COLUMNS = ("id", "title", "text", "texts", "chunks", "metadata")


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class NdjsonFile:
    """With `chunks` every document is its chunks, with `vectors` those have theirs."""

    def __init__(self, sink: Sink, *, chunks: bool, vectors: bool) -> None:
        self._sink = sink
        self._chunks = chunks
        self._vectors = vectors

    def write(self, documents: Sequence[Document], chunks: Sequence[Sequence[Chunk]]) -> int:
        lines = [encode(self._made(*pair)) for pair in zip(documents, chunks, strict=True)]
        body = b"\n".join([*lines, b""])
        self._sink.write(body)
        return len(body)

    def finish(self) -> None:
        """A text ends where it ends."""

    def abandon(self) -> None:
        """Nothing is held back."""

    def _made(self, document: Document, chunks: Sequence[Chunk]) -> dict[str, Any]:
        made: dict[str, Any] = {"id": document.id}
        if document.title is not None:
            made["title"] = document.title
        if document.form == "chunks" or self._chunks:
            made["chunks"] = chunks_of(chunks, vectors=self._vectors)
        elif document.form == "texts":
            made["texts"] = [chunk.text for chunk in chunks]
        else:
            made["text"] = whole_text(document, chunks)
        if document.metadata != b"{}":
            made["metadata"] = Json(document.metadata)
        return made


class CsvFile:
    """As RFC 4180 has it. Columns that are no text are JSON."""

    def __init__(self, sink: Sink, *, chunks: bool, vectors: bool) -> None:
        self._sink = sink
        self._chunks = chunks
        self._vectors = vectors
        self._put([CSV_COLUMNS])

    def write(self, documents: Sequence[Document], chunks: Sequence[Sequence[Chunk]]) -> int:
        return self._put([self._record(*pair) for pair in zip(documents, chunks, strict=True)])

    def finish(self) -> None:
        """A text ends where it ends."""

    def abandon(self) -> None:
        """Nothing is held back."""

    def _record(self, document: Document, chunks: Sequence[Chunk]) -> Sequence[str]:
        text = texts = parts = ""
        if document.form == "chunks" or self._chunks:
            parts = encode(chunks_of(chunks, vectors=self._vectors)).decode()
        elif document.form == "texts":
            texts = encode([chunk.text for chunk in chunks]).decode()
        else:
            text = whole_text(document, chunks) or ""
        metadata = "" if document.metadata == b"{}" else document.metadata.decode()
        return document.id, document.title or "", text, texts, parts, metadata

    def _put(self, records: Sequence[Sequence[str]]) -> int:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(records)
        body = text.getvalue().encode()
        self._sink.write(body)
        return len(body)


def chunks_of(chunks: Sequence[Chunk], *, vectors: bool) -> list[dict[str, Any]]:
    made = []
    for chunk in chunks:
        one: dict[str, Any] = {}
        if chunk.text is not None:
            one["text"] = chunk.text
        if vectors and chunk.vector is not None:
            one["vector"] = chunk.vector.tolist()
        if chunk.metadata is not None:
            one["metadata"] = Json(chunk.metadata)
        made.append(one)
    return made
