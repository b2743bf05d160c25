"""One write transaction: the keys it hands out, the time it stamps, the changes it gathers.

Made by `writer.py` after `BEGIN IMMEDIATE`; the commands write through it. Keys are taken from
`sqlite_sequence` once and counted on here: nobody else can write meanwhile. Change rows are kept
back and written together just before the commit.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import bindparam, select

from headwater.clock import Clock
from headwater.errors import LibraryNotFound
from headwater.model import (
    NOTHING,
    AddedVectors,
    Change,
    Committed,
    Library,
    Position,
    Span,
)
from headwater.store import schema
from headwater.store.connection import Rows
from headwater.store.records import LIBRARY_COLUMNS, library_of

_CHANGES = Rows("changes", schema.changes.columns.keys())
# One statement: each is a turn in the queue for the GIL.
_START = """
SELECT after, document, chunk,
       coalesce((SELECT at_us FROM changes WHERE position = after), 0)
FROM (SELECT coalesce(max(iif(name = 'changes', seq, 0)), 0) AS after,
             coalesce(max(iif(name = 'documents', seq, 0)), 0) AS document,
             coalesce(max(iif(name = 'chunks', seq, 0)), 0) AS chunk
      FROM sqlite_sequence)
"""
_LIBRARY = schema.compiled(
    select(*LIBRARY_COLUMNS).where(
        schema.libraries.c.number == bindparam("number"),
        schema.libraries.c.deleted_us.is_(None),
    )
)


@dataclass(frozen=True, slots=True)
class Mark:
    position: Position
    document: int
    chunk: int
    changes: int
    vectors: int


class Transaction:
    """Open from construction until the writer commits it or rolls it back."""

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self.db = db
        self.clock = clock
        self.after: Position
        self._document: int
        self._chunk: int
        last_us: int
        self.after, self._document, self._chunk, last_us = db.execute(_START).fetchone()
        self.position: Position = self.after
        # A clock set back must not make the log's time run backwards.
        self.at_us: int = max(clock.now_us(), last_us)
        self._changes: list[Change] = []
        self._vectors: list[AddedVectors] = []
        self._libraries: dict[int, Library] = {}
        self.waiting_jobs: int | None = None
        """How many there are, once somebody has counted."""

    def library(self, number: int) -> Library:
        """The library as this transaction has made it. Raises `LibraryNotFound`."""
        library = self._libraries.get(number)
        if library is None:
            row = self.db.execute(_LIBRARY, {"number": number}).fetchone()
            if row is None:
                raise LibraryNotFound("there is no such library (any more); list the libraries")
            library = self._libraries[number] = library_of(row)
        return library

    def forget_libraries(self) -> None:
        """After a library's row has changed."""
        self._libraries.clear()

    def count_on(self, number: int, documents: int, chunks: int, pending: int) -> None:
        """Keep the library's counters right after they were moved in the database."""
        library = self._libraries.get(number)
        if library is not None:
            self._libraries[number] = msgspec.structs.replace(
                library,
                documents=library.documents + documents,
                chunks=library.chunks + chunks,
                pending=library.pending + pending,
            )

    def take_document(self) -> int:
        self._document += 1
        return self._document

    def take_chunks(self, count: int) -> int:
        """`count` consecutive chunk rows; returns the first."""
        first = self._chunk + 1
        self._chunk += count
        return first

    def change(
        self,
        type: str,
        library_id: str | None,
        subject: str | None,
        data: bytes,
        added: Span = NOTHING,
        removed: Span = NOTHING,
        kept: Span = NOTHING,
    ) -> Position:
        self.position = position = self.position + 1
        self._changes.append(
            Change(position, self.at_us, type, library_id, subject, data, added, removed, kept)
        )
        return position

    def add_vectors(self, vectors: AddedVectors) -> None:
        self._vectors.append(vectors)

    def mark(self) -> Mark:
        return Mark(
            self.position, self._document, self._chunk, len(self._changes), len(self._vectors)
        )

    def go_back(self, mark: Mark) -> None:
        """Forget what was done since `mark`; the caller rolls the rows back."""
        self.position, self._document, self._chunk = mark.position, mark.document, mark.chunk
        del self._changes[mark.changes :]
        del self._vectors[mark.vectors :]
        self._libraries.clear()
        self.waiting_jobs = None

    def flush(self) -> None:
        """Write the change rows."""
        values: list[Any] = []
        for change in self._changes:
            values += (
                change.position,
                change.at_us,
                change.type,
                change.library_id,
                change.subject,
                change.added.first,
                change.added.count,
                change.removed.first,
                change.removed.count,
                change.kept.first,
                change.kept.count,
                change.data,
            )
        _CHANGES.insert(self.db, values)

    def committed(self) -> Committed | None:
        """What followers are told once it is durable; None when nothing visible changed."""
        if not self._changes:
            return None
        return Committed(self.after, self.position, tuple(self._changes), tuple(self._vectors))
