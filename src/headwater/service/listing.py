"""Documents as they are read: one, or a page of them, with their chunks and vectors if asked.

`documents.py` asks, in a reading thread. A page ends where it has grown large: a document may have
megabytes, and there may be a thousand on a page.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from headwater.filters import Filter
from headwater.model import Chunk, Document, Library
from headwater.service.libraries import still
from headwater.service.matching import find
from headwater.store.base import Reader

PAGE_BYTES = 16 << 20
"""A page ends with the document that makes it larger, counted as it is sent."""

_AT_ONCE = 16
_NUMBER_BYTES = 22
"""About what a number of a vector takes in JSON."""


class FoundDocument(msgspec.Struct, frozen=True):
    document: Document
    chunks: list[Chunk]

    @property
    def size_bytes(self) -> int:
        document = self.document
        size = len(document.metadata) + len(document.text or "")
        for chunk in self.chunks:
            size += len(chunk.text or "") + len(chunk.metadata or b"")
            if chunk.vector is not None:
                size += _NUMBER_BYTES * len(chunk.vector)
        return size


class DocumentPage(msgspec.Struct, frozen=True):
    """`next_row` is where the next page goes on; None: this is the last."""

    documents: list[FoundDocument]
    next_row: int | None
    size_bytes: int = 0


def page_of(
    reader: Reader,
    library: Library,
    after_row: int,
    limit: int,
    *,
    chunks: bool,
    vectors: bool,
    pending: bool = False,
    filter: Filter | None = None,
) -> DocumentPage:
    """Up to `limit` in order of first insertion; without chunks unless asked.

    With `pending`, only those that wait for their vectors; with `filter`, those that meet it:
    then a bounded number is looked at, and a page may be short although more follow. Raises
    `LibraryNotFound`.
    """
    number = still(reader, library).number
    read = reader.pending_documents if pending else reader.documents
    next_row: int | None = None
    if filter is None:
        slices = _slices(reader, library, after_row, limit, pending=pending)
        last_row = None
    else:
        look = reader.pending_documents if pending else reader.described
        found, next_row = find(
            lambda after, count: look(number, after_row=after, limit=count),
            filter,
            after_row,
            limit,
        )
        slices = _named(reader, library, [one.id for one in found])
        last_row = found[-1].row if found else None
    taken: list[FoundDocument] = []
    size_bytes = 0
    for document in slices:
        own = reader.chunks([document], vectors=vectors)[0] if chunks else []
        taken.append(FoundDocument(document, own))
        size_bytes += taken[-1].size_bytes
        if size_bytes >= PAGE_BYTES:
            break
    reached = taken[-1].document.row if taken else after_row
    if filter is None:
        more = bool(taken) and bool(read(number, after_row=reached, limit=1))
        next_row = reached if more else None
    elif last_row is not None and reached < last_row:
        next_row = reached
    return DocumentPage(taken, next_row, size_bytes)


def _slices(
    reader: Reader, library: Library, after_row: int, limit: int, *, pending: bool
) -> Iterator[Document]:
    read = reader.pending_documents if pending else reader.documents
    while limit > 0:
        some = read(library.number, after_row=after_row, limit=min(limit, _AT_ONCE))
        yield from some
        if not some:
            return
        limit -= len(some)
        after_row = some[-1].row


def _named(reader: Reader, library: Library, ids: list[str]) -> Iterator[Document]:
    for at in range(0, len(ids), _AT_ONCE):
        some = ids[at : at + _AT_ONCE]
        by_id = reader.documents_by_id(library.number, some)
        yield from (by_id[id] for id in some)
