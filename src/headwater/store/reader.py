"""Reading within one transaction: the SQLite half of `base.Reader`.

Used inside reading threads by `sqlite.py`, which opens and ends the transaction. What is read
often or in bulk is plain SQL for the driver; everything else is Core, compiled once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Select, bindparam, literal_column, or_, select

from headwater.errors import CursorExpired
from headwater.model import (
    Alert,
    Chunk,
    Described,
    Document,
    Library,
    Passage,
    Pending,
    Position,
    Rows,
    Session,
    SessionState,
    Span,
    Vectors,
)
from headwater.store import alert_rows, schema, session_rows
from headwater.store.alert_commands import Place
from headwater.store.base import LogPage, Reader
from headwater.store.check import check
from headwater.store.connection import in_lists, listed
from headwater.store.job_rows import SqliteJobReader
from headwater.store.records import (
    CHANGE_COLUMNS,
    DOCUMENT_COLUMNS,
    LIBRARY_COLUMNS,
    PENDING_COLUMNS,
    changes_of,
    chunk_of,
    documents_of,
    library_of,
    pending_of,
    vector_of,
)
from headwater.store.regenerations import NEXT_VECTOR
from headwater.store.upkeep import batch_processes, newest_before

# A filtered page looks at this many positions per change asked for, and at least at so many.
_STRETCH_FACTOR = 50
_STRETCH = 20_000
_PAGE_BYTES = 8 << 20
"""Data after which a page of the log is full: a change has its document's metadata, which may be as
long as a line."""
_AT_ONCE = 16
_DATA = CHANGE_COLUMNS.split(", ").index("data")

_table = schema.libraries.c


def _visible_libraries() -> Select[Any]:
    return select(*LIBRARY_COLUMNS).where(_table.deleted_us.is_(None))


_LIBRARY = schema.compiled(
    _visible_libraries()
    .where(or_(_table.id == bindparam("ref"), _table.name == bindparam("ref")))
    .order_by((_table.id == bindparam("ref")).desc())
)
_LIBRARIES = schema.compiled(
    _visible_libraries()
    .where(_table.number > bindparam("after"))
    .order_by(_table.number)
    .limit(bindparam("limit"))
    .offset(literal_column("0"))
)
_LIBRARIES_PENDING = schema.compiled(
    _visible_libraries().where(_table.pending > literal_column("0")).order_by(_table.number)
)
# CROSS JOIN keeps SQLite's planner to this order of the tables.
_DOCUMENTS = (
    f"SELECT {DOCUMENT_COLUMNS} FROM libraries l CROSS JOIN documents d "
    "WHERE l.number = ? AND l.deleted_us IS NULL AND d.library = l.number "
)
_PENDING = (
    f"SELECT {DOCUMENT_COLUMNS} FROM libraries l CROSS JOIN pending p CROSS JOIN documents d "
    "WHERE l.number = ? AND l.deleted_us IS NULL AND p.library = l.number AND d.row = p.document "
)
_VISIBLE = "CROSS JOIN libraries l WHERE l.number = c.library AND l.deleted_us IS NULL "


class SqliteReader(SqliteJobReader, Reader):
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def head(self) -> Position:
        (position,) = self._db.execute("SELECT max(position) FROM changes").fetchone()
        return position or 0

    def trimmed(self) -> Position:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'trimmed'").fetchone()
        return int(row[0])

    def log(
        self,
        after: Position,
        limit: int,
        *,
        library_ids: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> LogPage:
        trimmed = self.trimmed()
        if after < trimmed:
            raise CursorExpired(
                f"position {after} is older than what the log keeps (after {trimmed}); read the "
                "current state and go on from its position",
                reason="trimmed",
            )
        head = self.head()
        if after >= head or limit < 1:
            return LogPage([], after)
        end = head
        where = "position > ? AND position <= ?"
        values: list[Any] = []
        for column, wanted in (("library_id", library_ids), ("type", types)):
            if wanted is not None:
                end = min(head, after + max(_STRETCH, _STRETCH_FACTOR * limit))
                if not wanted:
                    return LogPage([], end)
                marks, padded = listed(list(wanted))
                where += f" AND {column} IN ({marks})"
                values += padded
        cursor = self._db.execute(
            f"SELECT {CHANGE_COLUMNS} FROM changes WHERE {where} ORDER BY position LIMIT ?",
            [after, end, *values, limit],
        )
        rows: list[Any] = []
        size_bytes = 0
        while some := cursor.fetchmany(_AT_ONCE):
            rows += some
            size_bytes += sum([len(row[_DATA]) for row in some])
            if size_bytes >= _PAGE_BYTES:
                break
        cursor.close()
        full = len(rows) == limit or size_bytes >= _PAGE_BYTES
        changes = changes_of(rows)
        return LogPage(changes, changes[-1].position if full else end)

    def position_at(self, at_us: int) -> Position:
        return max(newest_before(self._db, at_us) or 0, self.trimmed())

    def library(self, ref: str) -> Library | None:
        row = self._db.execute(_LIBRARY, {"ref": ref}).fetchone()
        return None if row is None else library_of(row)

    def libraries(self, *, after: int, limit: int) -> list[Library]:
        rows = self._db.execute(_LIBRARIES, {"after": after, "limit": limit}).fetchall()
        return [library_of(row) for row in rows]

    def libraries_pending(self) -> list[Library]:
        return [library_of(row) for row in self._db.execute(_LIBRARIES_PENDING).fetchall()]

    def document(self, number: int, id: str) -> Document | None:
        return self.documents_by_id(number, [id]).get(id)

    def documents_by_id(self, number: int, ids: Collection[str]) -> dict[str, Document]:
        found: list[Document] = []
        for part in in_lists(list(ids)):
            marks, values = listed(part)
            found += self._documents(
                number, f"{_DOCUMENTS} AND d.id IN ({marks})", [number, *values]
            )
        return {document.id: document for document in found}

    def documents(
        self,
        number: int,
        *,
        after_row: int,
        through_row: int | None = None,
        changed_after: Position | None = None,
        limit: int,
    ) -> list[Document]:
        where = "AND d.row > ? "
        values: list[int] = [number, after_row]
        if through_row is not None:
            where += "AND d.row <= ? "
            values.append(through_row)
        if changed_after is not None:
            where += "AND d.position > ? "
            values.append(changed_after)
        return self._documents(
            number, f"{_DOCUMENTS} {where} ORDER BY d.row LIMIT ?", [*values, limit]
        )

    def pending_documents(self, number: int, *, after_row: int, limit: int) -> list[Document]:
        return self._documents(
            number,
            f"{_PENDING} AND p.document > ? ORDER BY p.document LIMIT ?",
            [number, after_row, limit],
        )

    def due_documents(self, number: int, *, limit: int) -> list[Document]:
        return self._documents(
            number, f"{_PENDING} ORDER BY p.due_us, p.document LIMIT ?", [number, limit]
        )

    def _documents(self, number: int, query: str, values: Sequence[Any]) -> list[Document]:
        """What `query` finds, with what is pending of it: a join would halve the speed of all."""
        documents = documents_of(self._db.execute(query, values).fetchall())
        library = self._db.execute(
            "SELECT pending FROM libraries WHERE number = ?", [number]
        ).fetchone()
        if not documents or library is None or not library[0]:
            return documents
        pending: dict[int, Pending] = {}
        for part in in_lists([document.row for document in documents]):
            marks, rows = listed(part)
            for row, *rest in self._db.execute(
                f"SELECT document, {PENDING_COLUMNS} FROM pending WHERE document IN ({marks})",
                rows,
            ).fetchall():
                pending[row] = pending_of(tuple(rest))
        return [
            msgspec.structs.replace(document, pending=pending[document.row])
            if document.row in pending
            else document
            for document in documents
        ]

    def chunk_counts(self, number: int, ids: Collection[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in in_lists(list(ids)):
            marks, values = listed(part)
            found.update(
                self._db.execute(
                    "SELECT d.id, d.num_chunks FROM libraries l CROSS JOIN documents d "
                    "WHERE l.number = ? AND l.deleted_us IS NULL AND d.library = l.number "
                    f"AND d.id IN ({marks})",
                    [number, *values],
                ).fetchall()
            )
        return found

    def chunks(self, documents: Sequence[Document], *, vectors: bool = False) -> list[list[Chunk]]:
        vector = self._vector() if vectors else "NULL"
        found: dict[int, Chunk] = {}
        for first, last in _ranges((d.chunks.first, d.chunks.count) for d in documents):
            for row in self._db.execute(
                "SELECT c.row, c.ordinal, c.text, c.start_char, c.end_char, c.metadata, "
                f"{vector} FROM chunks c {_VISIBLE} AND c.row BETWEEN ? AND ? ORDER BY c.row",
                [first, last],
            ).fetchall():
                found[row[0]] = chunk_of(row)
        return [[found[row] for row in _rows(d.chunks) if row in found] for d in documents]

    def described(self, number: int, *, after_row: int, limit: int) -> list[Described]:
        return [
            Described(row, id, metadata, Span(first, count), position)
            for row, id, metadata, first, count, position in self._db.execute(
                "SELECT d.row, d.id, d.metadata, d.first_chunk, d.num_chunks, d.position "
                "FROM libraries l CROSS JOIN documents d WHERE l.number = ? "
                "AND l.deleted_us IS NULL AND d.library = l.number AND d.row > ? "
                "ORDER BY d.row LIMIT ?",
                [number, after_row, limit],
            ).fetchall()
        ]

    def last_row(self, number: int) -> int:
        found = self._db.execute(
            "SELECT d.row FROM documents d INDEXED BY documents_library WHERE d.library = "
            "(SELECT number FROM libraries WHERE number = ? AND deleted_us IS NULL) "
            "ORDER BY d.row DESC LIMIT 1",
            [number],
        ).fetchone()
        return found[0] if found else 0

    def chunk_metadata(self, spans: Sequence[Span]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for first, last in _ranges((span.first, span.count) for span in spans):
            found.update(
                self._db.execute(
                    f"SELECT c.row, c.metadata FROM chunks c {_VISIBLE} "
                    "AND c.row BETWEEN ? AND ? AND c.metadata IS NOT NULL",
                    [first, last],
                ).fetchall()
            )
        return found

    def chunk_owners(self, rows: Sequence[int]) -> dict[int, tuple[int, bytes | None]]:
        found: dict[int, tuple[int, bytes | None]] = {}
        for part in in_lists([int(row) for row in rows]):
            marks, values = listed(part)
            for row, document, own in self._db.execute(
                f"SELECT c.row, c.document, c.metadata FROM chunks c {_VISIBLE} "
                f"AND c.row IN ({marks})",
                values,
            ).fetchall():
                found[row] = document, own
        return found

    def passages(
        self, rows: Sequence[int], *, texts: bool = True, vectors: bool = False
    ) -> dict[int, Passage]:
        text_column = "c.text" if texts else "NULL"
        vector = self._vector() if vectors else "NULL"
        found: dict[int, Passage] = {}
        for part in in_lists([int(row) for row in rows]):
            marks, values = listed(part)
            for (
                row,
                document_id,
                title,
                ordinal,
                text,
                start,
                end,
                meta,
                own,
                blob,
            ) in self._db.execute(
                f"SELECT c.row, d.id, d.title, c.ordinal, {text_column}, c.start_char, c.end_char, "
                f"d.metadata, c.metadata, {vector} FROM chunks c CROSS JOIN documents d "
                f"{_VISIBLE} AND d.row = c.document AND c.row IN ({marks})",
                values,
            ).fetchall():
                found[row] = Passage(
                    row, document_id, title, ordinal, text, start, end, meta, own, vector_of(blob)
                )
        return found

    def texts_after(
        self, number: int, after_row: int, limit: int
    ) -> list[tuple[int, str | None, str | None]]:
        return self._db.execute(
            f"SELECT c.row, d.title, c.text FROM chunks c CROSS JOIN documents d {_VISIBLE} "
            "AND c.library = ? AND c.row > ? AND d.row = c.document ORDER BY c.row LIMIT ?",
            [number, after_row, limit],
        ).fetchall()

    def vectors_after(self, number: int, after_row: int, limit: int) -> tuple[Rows, Vectors]:
        library = self._db.execute(
            "SELECT dimension FROM libraries WHERE number = ? AND deleted_us IS NULL", [number]
        ).fetchone()
        if library is None:
            return _stacked([])
        vector = self._vector()
        return _stacked(
            self._db.execute(
                f"SELECT c.row, {vector} FROM chunks c {_VISIBLE} AND c.library = ? "
                f"AND c.row > ? AND {vector} IS NOT NULL ORDER BY c.row LIMIT ?",
                [number, after_row, limit],
            ).fetchall(),
            library[0],
        )

    def next_vectors_after(
        self, number: int, generation: int, after_row: int, limit: int
    ) -> tuple[Rows, Vectors]:
        return _stacked(
            self._db.execute(
                "SELECT n.row, n.vector FROM next_vectors n CROSS JOIN chunks c "
                "WHERE n.library = ? AND n.generation = ? AND n.row > ? AND n.vector IS NOT NULL "
                "AND c.row = n.row ORDER BY n.row LIMIT ?",
                [number, generation, after_row, limit],
            ).fetchall()
        )

    def vectors_of(self, spans: Sequence[tuple[int, int]]) -> tuple[Rows, Vectors]:
        found: list[tuple[int, bytes]] = []
        vector = self._vector()
        for first, last in _ranges(spans):
            found += self._db.execute(
                f"SELECT c.row, {vector} FROM chunks c {_VISIBLE} "
                f"AND c.row BETWEEN ? AND ? AND {vector} IS NOT NULL ORDER BY c.row",
                [first, last],
            ).fetchall()
        return _stacked(found)

    def alert(self, number: int, id: str) -> Alert | None:
        return alert_rows.alert_named(self._db, number, id)

    def alerts(self, *, after: int, limit: int, library: int | None = None) -> list[Alert]:
        return alert_rows.alerts_after(self._db, after, limit, library)

    def alerts_by_id(self, ids: Collection[str]) -> dict[str, Alert]:
        return alert_rows.alerts_by_id(self._db, ids)

    def alerts_place(self) -> Place | None:
        return alert_rows.place_of(self._db)

    def _vector(self) -> str:
        """How the valid vector of chunk `c` of library `l` is said in SQL."""
        (moving,) = self._db.execute("SELECT EXISTS (SELECT 1 FROM next_vectors)").fetchone()
        return NEXT_VECTOR if moving else "c.vector"

    def session(self, ref: str) -> Session | None:
        return session_rows.session_named(self._db, ref)

    def sessions(self, *, after: int, limit: int, library: int | None = None) -> list[Session]:
        return session_rows.sessions_after(self._db, after, limit, library)

    def session_state(self, ref: str) -> SessionState | None:
        return session_rows.state_of(self._db, ref, self.head())

    def session_holders(self) -> dict[str, int]:
        return session_rows.holders(self._db)

    def batch_processes(self) -> set[str]:
        return batch_processes(self._db)

    def check(self) -> list[str]:
        return check(self._db)


def _rows(span: Span) -> range:
    return range(span.first, span.first + span.count)


def _ranges(spans: Any) -> list[tuple[int, int]]:
    """(first, count) spans as (first, last) ranges in the same order, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for first, count in spans:
        if not count:
            continue
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], first + count - 1)
        else:
            ranges.append((first, first + count - 1))
    return ranges


def _stacked(found: list[Any], dimension: int = 0) -> tuple[Rows, Vectors]:
    """Rows and vectors as arrays; read-only, as they share the bytes that were read."""
    if not found:
        return np.empty(0, np.int64), np.empty((0, dimension), np.float32)
    rows, blobs = zip(*found, strict=True)
    matrix = np.frombuffer(b"".join(blobs), np.float32)
    return np.array(rows, np.int64), matrix.reshape(len(rows), -1)
