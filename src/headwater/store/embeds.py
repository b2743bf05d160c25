"""Giving pending documents their vectors, and keeping account of the attempts.

The chunks of a pending document are rows without a vector that views have passed by. They get
theirs in new rows, so that a view only ever takes rising ones; nothing else of them changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headwater.errors import DimensionMismatch
from headwater.model import AddedVectors, Position, Span
from headwater.store import schema
from headwater.store.base import DeferEmbedding, Embedding, EmbedDocuments, RedriveEmbedding
from headwater.store.connection import in_lists, listed
from headwater.store.puts import Held, count, held, remove_chunks, same_generation, save
from headwater.store.records import document_data
from headwater.store.transaction import Transaction

_COLUMNS = schema.chunks.columns.keys()
_COPY = (
    f"INSERT INTO chunks ({', '.join(_COLUMNS)}) SELECT "
    + ", ".join(f":{name}" if name in ("row", "vector") else name for name in _COLUMNS)
    + " FROM chunks WHERE row = :old"
)


def embed_documents(tx: Transaction, command: EmbedDocuments) -> list[Position | None]:
    library = tx.library(command.number)
    same_generation(library, command.generation)
    current = held(tx, library.number, [item.id for item in command.items])
    embedded: list[Held] = []
    removed: list[Span] = []
    positions: list[Position | None] = []
    for item in command.items:
        matrix = np.ascontiguousarray(item.vectors, dtype=np.float32)
        if matrix.shape != (item.chunks.count, library.dimension):
            raise DimensionMismatch(
                f"{item.chunks.count} chunks in a library of dimension {library.dimension} came "
                f"with vectors of shape {matrix.shape}"
            )
        document = current.get(item.id)
        if document is None or not document.pending or document.span != item.chunks:
            positions.append(None)
            continue
        removed.append(document.span)
        added = _move(tx, item, matrix)
        document.first, document.pending = added.first, None
        data = document_data(
            document.id, document.title, added.count, document.version, document.metadata
        )
        document.position = tx.change(
            "document.embedded", library.id, document.id, data, added, item.chunks
        )
        positions.append(document.position)
        tx.add_vectors(AddedVectors(library.id, added.first, matrix))
        embedded.append(document)
    save(tx, library.number, embedded)
    remove_chunks(tx, removed)
    _settle(tx, [document.row for document in embedded])
    count(tx, library.number, 0, 0, -len(embedded))
    return positions


def _move(tx: Transaction, item: Embedding, matrix: Any) -> Span:
    first = tx.take_chunks(item.chunks.count)
    tx.db.executemany(
        _COPY,
        [
            {"row": first + ordinal, "old": item.chunks.first + ordinal, "vector": vector.data}
            for ordinal, vector in enumerate(matrix)
        ],
    )
    return Span(first, item.chunks.count)


def _settle(tx: Transaction, rows: Sequence[int]) -> None:
    for part in in_lists(rows):
        marks, values = listed(part)
        tx.db.execute(f"DELETE FROM pending WHERE document IN ({marks})", values)


def defer_embedding(tx: Transaction, command: DeferEmbedding) -> None:
    library = tx.library(command.number)
    for part in in_lists(command.documents):
        marks, values = listed(part)
        tx.db.execute(
            "UPDATE pending SET attempts = attempts + 1, due_us = ?, code = ?, detail = ?, "
            f"retryable = ? WHERE library = ? AND document IN ({marks})",
            [
                command.due_us,
                command.code,
                command.detail,
                int(command.retryable),
                library.number,
                *values,
            ],
        )


def redrive_embedding(tx: Transaction, command: RedriveEmbedding) -> int:
    library = tx.library(command.number)
    if not library.pending:
        return 0
    return tx.db.execute(
        "UPDATE pending SET due_us = ? WHERE library = ?", [-tx.at_us, library.number]
    ).rowcount
