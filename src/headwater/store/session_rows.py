"""Rows of sessions, people and marks as values: what both sides of the store read with.

A session of a deleted library has lost its name, and is invisible with it.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from headwater.model import Author, Mark, Person, Session, SessionState

_SESSIONS = (
    "SELECT s.row, s.id, s.name, l.number, l.id, l.name, s.revision, s.query, s.author, "
    "s.author_colour, s.created_us, s.updated_us, s.position, "
    "(SELECT count(*) FROM session_people p WHERE p.session = s.row), "
    "(SELECT count(*) FROM session_marks m WHERE m.session = s.row AND m.kind = 'pin'), "
    "(SELECT count(*) FROM session_marks m WHERE m.session = s.row AND m.kind = 'note') "
    "FROM sessions s JOIN libraries l ON l.number = s.library AND l.deleted_us IS NULL "
)
_PEOPLE = "SELECT id, name, colour, process, joined_us, client_id FROM session_people "
_MARKS = (
    "SELECT id, kind, revision, document_id, chunk_id, title, text, author, author_colour, "
    "created_us, updated_us FROM session_marks "
)


def session_of(row: tuple[Any, ...]) -> Session:
    values = list(row)
    name, colour = values[8:10]
    values[8:10] = [None if name is None else Author(name, colour)]
    return Session(*values)


def mark_of(row: tuple[Any, ...]) -> Mark:
    values = list(row)
    values[7:9] = [Author(*values[7:9])]
    return Mark(*values)


def session_named(db: sqlite3.Connection, ref: str) -> Session | None:
    """By name or by id; a name wins over an equal id."""
    row = db.execute(
        f"{_SESSIONS} WHERE s.name = ? OR s.id = ? ORDER BY s.name = ? DESC LIMIT 1",
        [ref, ref, ref],
    ).fetchone()
    return None if row is None else session_of(row)


def sessions_after(
    db: sqlite3.Connection, after: int, limit: int, library: int | None
) -> list[Session]:
    where, values = ("AND s.library = ? ", [library]) if library is not None else ("", [])
    rows = db.execute(
        f"{_SESSIONS} WHERE s.row > ? {where} ORDER BY s.row LIMIT ?", [after, *values, limit]
    ).fetchall()
    return [session_of(row) for row in rows]


def people_in(db: sqlite3.Connection, session: int) -> list[Person]:
    rows = db.execute(f"{_PEOPLE} WHERE session = ? ORDER BY row", [session]).fetchall()
    return [Person(*row) for row in rows]


def marks_in(db: sqlite3.Connection, session: int) -> list[Mark]:
    rows = db.execute(f"{_MARKS} WHERE session = ? ORDER BY row", [session]).fetchall()
    return [mark_of(row) for row in rows]


def mark_named(db: sqlite3.Connection, session: int, kind: str, id: str) -> Mark | None:
    row = db.execute(
        f"{_MARKS} WHERE session = ? AND kind = ? AND id = ?", [session, kind, id]
    ).fetchone()
    return None if row is None else mark_of(row)


def pin_on(
    db: sqlite3.Connection, session: int, document_id: str, chunk_id: str | None
) -> Mark | None:
    row = db.execute(
        f"{_MARKS} WHERE session = ? AND kind = 'pin' AND document_id = ? AND chunk_id IS ?",
        [session, document_id, chunk_id],
    ).fetchone()
    return None if row is None else mark_of(row)


def state_of(db: sqlite3.Connection, ref: str, position: int) -> SessionState | None:
    session = session_named(db, ref)
    if session is None:
        return None
    return SessionState(session, people_in(db, session.row), marks_in(db, session.row), position)


def holders(db: sqlite3.Connection) -> dict[str, int]:
    """The processes that have people in sessions, and until when their leases run."""
    return dict(
        db.execute(
            "SELECT p.process, coalesce(max(r.until_us), 0) FROM session_people p "
            "LEFT JOIN session_processes r ON r.process = p.process GROUP BY p.process"
        ).fetchall()
    )
