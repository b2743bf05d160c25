"""Patching a document; deleting one or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater.errors import DocumentNotFound
from headwater.model import Position, Written
from headwater.store.base import UNSET, DeleteDocument, DeleteDocuments, PatchDocument
from headwater.store.connection import in_lists, listed
from headwater.store.puts import Held, count, held, remove_chunks, save, version_mismatch
from headwater.store.records import PENDING_STATUS, canonical, decode, document_data
from headwater.store.transaction import Transaction


def patch_document(tx: Transaction, command: PatchDocument) -> Written:
    library = tx.library(command.number)
    document = _existing(tx, command)
    title = document.title if command.title is UNSET else command.title
    metadata = document.metadata
    if command.metadata is not UNSET:
        metadata = canonical(merged(decode(metadata), command.metadata))
    if title == document.title and metadata == document.metadata:
        return document.written("unchanged")
    document.title, document.metadata = title, metadata
    document.version += 1
    document.updated_us = tx.at_us
    data = document_data(
        document.id,
        title,
        document.num_chunks,
        document.version,
        metadata,
        b',"chunks_kept":true' + (PENDING_STATUS if document.pending else b""),
    )
    document.position = tx.change(
        "document.updated", library.id, document.id, data, kept=document.span
    )
    save(tx, library.number, [document])
    return document.written("updated")


def delete_document(tx: Transaction, command: DeleteDocument) -> Position:
    library = tx.library(command.number)
    document = _existing(tx, command)
    _remove(tx, library.number, [document])
    return _tell_deleted(tx, library.id, document)


def delete_documents(tx: Transaction, command: DeleteDocuments) -> list[Position | None]:
    library = tx.library(command.number)
    current = held(tx, library.number, list(dict.fromkeys(command.ids)))
    wanted: Sequence[Position | None] = command.positions or [None] * len(command.ids)
    gone: list[Held] = []
    positions: list[Position | None] = []
    for id, position in zip(command.ids, wanted, strict=True):
        document = current.get(id)
        if document is None or not _goes(command, position, document):
            positions.append(None)
            continue
        del current[id]  # named again, it is not there any more
        gone.append(document)
        positions.append(_tell_deleted(tx, library.id, document))
    _remove(tx, library.number, gone)
    return positions


def _goes(command: DeleteDocuments, position: Position | None, document: Held) -> bool:
    if position in (None, document.position):
        return True
    return command.still is not None and command.still(document.row, document.metadata)


def _tell_deleted(tx: Transaction, library_id: str, document: Held) -> Position:
    data = document_data(
        document.id, document.title, document.num_chunks, document.version, document.metadata
    )
    return tx.change("document.deleted", library_id, document.id, data, removed=document.span)


def _remove(tx: Transaction, number: int, documents: Sequence[Held]) -> None:
    for part in in_lists([document.row for document in documents]):
        marks, rows = listed(part)
        tx.db.execute(f"DELETE FROM documents WHERE row IN ({marks})", rows)
    remove_chunks(tx, [document.span for document in documents])
    pending = [document.row for document in documents if document.pending]
    for part in in_lists(pending):
        marks, rows = listed(part)
        tx.db.execute(f"DELETE FROM pending WHERE document IN ({marks})", rows)
    chunks = sum(document.span.count for document in documents)
    count(tx, number, -len(documents), -chunks, -len(pending))


def _existing(tx: Transaction, command: PatchDocument | DeleteDocument) -> Held:
    document = held(tx, command.number, [command.id]).get(command.id)
    if document is None:
        raise DocumentNotFound(f"there is no document {command.id!r} in this library")
    if command.if_version is not None and document.version != command.if_version:
        raise version_mismatch(command.id, command.if_version, document)
    return document


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396, section 2): null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
