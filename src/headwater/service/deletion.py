"""Deleting many documents: those of a filter, or those named.

Goes in small transactions, one after the other, so that other writes fit in between. Each document
is a change of its own. It must not take a document that an update has taken out of the filter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headwater.changes.log import Log
from headwater.filters import Filter
from headwater.model import Described, Library, Position
from headwater.search.base import SearchEngine
from headwater.service.libraries import still
from headwater.service.matching import SCANNED_DOCUMENTS, find, meets
from headwater.store.base import DeleteDocuments, Reader

T = TypeVar("T")

_SCANNED = 100_000
"""Documents one request looks at: about a second of a reading thread."""
_DOCUMENTS = 200
_CHUNKS = 2_000
"""Of one transaction; about 10 ms."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was done. `next_row` is where to go on; None: there is nothing more to delete."""

    matched: int
    deleted: int
    position: Position
    next_row: int | None = None


class Deletions:
    """Loop only."""

    def __init__(self, log: Log, engine: SearchEngine) -> None:
        self._log = log
        self._engine = engine

    async def matching(
        self,
        library: Library,
        filter: Filter,
        *,
        after_row: int,
        limit: int,
        dry_run: bool,
        searchable: bool,
    ) -> Deletion:
        """Delete up to `limit` documents that meet the filter; `dry_run` only counts them.

        Looks at a bounded number of documents. Cancelled, it has deleted some of them. Raises
        `LibraryNotFound`.
        """
        matched = deleted = looked_at = 0
        position = self._log.head
        next_row: int | None = after_row
        while next_row is not None and matched < limit and looked_at < _SCANNED:
            start, wanted = next_row, limit - matched

            def read(
                reader: Reader, start: int = start, wanted: int = wanted
            ) -> tuple[list[Described], int | None]:
                still(reader, library)  # else none would be found, as if there were none

                def page(after: int, count: int) -> list[Described]:
                    return reader.described(library.number, after_row=after, limit=count)

                return find(page, filter, start, wanted)

            found, next_row = await self._log.store.read(read)
            looked_at += SCANNED_DOCUMENTS
            matched += len(found)
            if not dry_run:
                for piece in pieces(found, lambda document: document.chunks.count):
                    gone = await self._delete(library, filter, piece)
                    deleted += len(gone)
                    position = max([position, *gone])
        if searchable and deleted:
            await self._engine.caught_up(library.id, position)
        return Deletion(matched, deleted, position, next_row)

    async def named(
        self, library: Library, ids: Sequence[str], *, dry_run: bool, searchable: bool
    ) -> Deletion:
        """Delete those of `ids` that exist; `dry_run` only counts them.

        Raises `LibraryNotFound`.
        """
        wanted = list(dict.fromkeys(ids))
        chunks = await self._log.store.read(
            lambda reader: reader.chunk_counts(still(reader, library).number, wanted)
        )
        if dry_run:
            return Deletion(len(chunks), 0, self._log.head)
        position, deleted = self._log.head, 0
        for piece in pieces(wanted, lambda id: chunks.get(id, 0)):
            command = DeleteDocuments(library.number, piece)
            done: list[Position | None] = await self._log.store.write(command)
            gone = [each for each in done if each is not None]
            deleted += len(gone)
            position = max([position, *gone])
        if searchable and deleted:
            await self._engine.caught_up(library.id, position)
        return Deletion(deleted, deleted, position)

    async def _delete(
        self, library: Library, filter: Filter, found: Sequence[Described]
    ) -> list[Position]:
        """Delete what was found and by its turn, in the transaction, still meets the filter."""
        command = DeleteDocuments(
            library.number,
            [document.id for document in found],
            [document.position for document in found],
            lambda row, metadata: meets(filter, metadata),
        )
        done: list[Position | None] = await self._log.store.write(command)
        return [position for position in done if position is not None]


def pieces(documents: Sequence[T], chunks_of: Callable[[T], int]) -> Iterator[list[T]]:
    """As many documents at a time as one transaction should delete; a huge one goes alone."""
    piece: list[T] = []
    chunks = 0
    for document in documents:
        count = chunks_of(document)
        if piece and (len(piece) == _DOCUMENTS or chunks + count > _CHUNKS):
            yield piece
            piece, chunks = [], 0
        piece.append(document)
        chunks += count
    if piece:
        yield piece
