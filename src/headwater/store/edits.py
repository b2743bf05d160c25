"""Patching and deleting one document."""

from __future__ import annotations

from typing import Any

from headwater.errors import DocumentNotFound
from headwater.model import NOTHING, Position, Written
from headwater.store.base import UNSET, DeleteDocument, PatchDocument
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
    chunks = document.span
    data = document_data(
        document.id, document.title, document.num_chunks, document.version, document.metadata
    )
    tx.db.execute("DELETE FROM documents WHERE row = ?", [document.row])
    remove_chunks(tx, [chunks])
    if document.pending:
        tx.db.execute("DELETE FROM pending WHERE document = ?", [document.row])
    count(tx, library.number, -1, -chunks.count, -bool(document.pending))
    return tx.change("document.deleted", library.id, document.id, data, NOTHING, chunks)


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
