"""Sessions made, asked, deleted and forgotten; and how their changes are told.

The people in them are in `session_people.py`, their pins and notes in `session_marks.py`; see
`session_commands.py` for what each command promises.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import bindparam, insert, update

from headwater.errors import SessionNotFound, StaleRevision, TooManySessions
from headwater.model import Position, Session
from headwater.store import schema
from headwater.store.records import encode
from headwater.store.session_commands import (
    DeleteSession,
    ForgetSessions,
    JoinSession,
    ReviseQuery,
)
from headwater.store.session_data import query_data
from headwater.store.session_rows import session_named
from headwater.store.transaction import Transaction


def insertion(table: Any) -> str:
    """The insert of a row whose key the store gives."""
    names = [column.name for column in table.columns if column.name != "row"]
    return schema.compiled(insert(table).values({name: bindparam(name) for name in names}))


_CREATE = insertion(schema.sessions)
_sessions = schema.sessions.c
_REVISE = schema.compiled(
    update(schema.sessions)
    .where(_sessions.row == bindparam("session"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("revision", "query", "author", "author_colour", "updated_us", "position")
        }
    )
)


def create_session(tx: Transaction, command: JoinSession) -> Session:
    """For the first one who joins."""
    if command.number is None:
        raise SessionNotFound(
            f"there is no session {command.name!r}; name a `library` to begin it there",
            session=command.name,
        )
    library = tx.library(command.number)
    (sessions,) = tx.db.execute("SELECT count(*) FROM sessions WHERE name IS NOT NULL").fetchone()
    if sessions >= command.most_sessions:
        raise TooManySessions(
            f"there are {sessions} sessions, which is the limit; delete one that is not needed",
            limit=command.most_sessions,
        )
    tx.db.execute(
        _CREATE,
        {
            "id": command.session_id,
            "name": command.name,
            "library": library.number,
            "revision": 0,
            "query": None,
            "author": None,
            "author_colour": None,
            "created_us": tx.at_us,
            "updated_us": tx.at_us,
            "seen_us": tx.at_us,
            "position": tx.position + 1,
        },
    )
    session = session_named(tx.db, command.name)
    assert session is not None
    tell(tx, "session.created", session, library=library.name)
    return session


def revise_query(tx: Transaction, command: ReviseQuery) -> Session:
    session = session_of_id(tx.db, command.session_id)
    if session.revision != command.base_revision:
        raise StaleRevision(
            f"the query is at revision {session.revision} by now, not {command.base_revision}; "
            "look at `current` and edit that",
            current=query_data(session),
        )
    author = command.author
    tx.db.execute(
        _REVISE,
        {
            "session": session.row,
            "new_revision": session.revision + 1,
            "new_query": command.query,
            "new_author": author.name,
            "new_author_colour": author.colour,
            "new_updated_us": tx.at_us,
            "new_position": tx.position + 1,
        },
    )
    revised = session_of_id(tx.db, session.id)
    tell(tx, "session.updated", revised, **query_data(revised))
    return revised


def delete_session(tx: Transaction, command: DeleteSession) -> Position:
    session = session_of_id(tx.db, command.session_id)
    drop_rows(tx.db, session.row)
    counts = {"people": session.people, "pins": session.pins, "notes": session.notes}
    return tell(tx, "session.deleted", session, **counts)


def forget_sessions(tx: Transaction, command: ForgetSessions) -> list[str]:
    found = tx.db.execute(
        "SELECT id FROM sessions s WHERE name IS NOT NULL AND seen_us < ? AND NOT EXISTS "
        "(SELECT 1 FROM session_people p WHERE p.session = s.row) ORDER BY row LIMIT ?",
        [command.before_us, command.limit],
    ).fetchall()
    forgotten = [id for (id,) in found]
    for id in forgotten:
        delete_session(tx, DeleteSession(id))
    return forgotten


def hide_sessions(tx: Transaction, library: int) -> None:
    """With their library: their names are free, their rows are swept later."""
    tx.db.execute("UPDATE sessions SET name = NULL WHERE library = ?", [library])


def sweep_sessions(tx: Transaction, library: int, limit: int) -> int:
    """Take away at most `limit` of a deleted library's sessions; how many that were."""
    rows = tx.db.execute(
        "SELECT row FROM sessions WHERE library = ? LIMIT ?", [library, limit]
    ).fetchall()
    for (row,) in rows:
        drop_rows(tx.db, row)
    return len(rows)


def drop_rows(db: sqlite3.Connection, session: int) -> None:
    db.execute("DELETE FROM session_people WHERE session = ?", [session])
    db.execute("DELETE FROM session_marks WHERE session = ?", [session])
    db.execute("DELETE FROM sessions WHERE row = ?", [session])


def session_of_id(db: sqlite3.Connection, id: str) -> Session:
    """Raises `SessionNotFound`."""
    session = session_named(db, id)
    if session is None or session.id != id:
        raise SessionNotFound("the session has been deleted; join again to begin a new one")
    return session


def changed(tx: Transaction, type: str, session: Session, **data: Any) -> Position:
    """Tell a change that moves the session's own time and position."""
    tx.db.execute(
        "UPDATE sessions SET updated_us = ?, position = ? WHERE row = ?",
        [tx.at_us, tx.position + 1, session.row],
    )
    return tell(tx, type, session, **data)


def tell(tx: Transaction, type: str, session: Session, **data: Any) -> Position:
    """Tell a change of the session."""
    told = {"session_id": session.id, "session": session.name, **data}
    return tx.change(type, session.library_id, session.id, encode(told))
