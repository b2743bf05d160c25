"""Writing sessions: who comes and goes, what they ask, pin and note.

Each handler writes its rows and tells its changes in the caller's transaction; see
`session_commands.py` for what each promises.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import bindparam, insert, update

from headwater.errors import (
    DocumentNotFound,
    NoteNotFound,
    PinNotFound,
    SessionElsewhere,
    SessionFull,
    SessionNotFound,
    StaleRevision,
    TooManyNotes,
    TooManyPins,
    TooManySessions,
)
from headwater.model import Mark, MarkKind, Person, Position, Session, chunk_id
from headwater.store import schema
from headwater.store.records import encode
from headwater.store.session_commands import (
    DeleteSession,
    ForgetSessions,
    Joined,
    JoinSession,
    LeaveSession,
    PlaceMark,
    RemoveLostPeople,
    RemoveMark,
    RenewLease,
    ReviseMark,
    ReviseQuery,
)
from headwater.store.session_data import author_data, mark_data, person_data, query_data
from headwater.store.session_rows import mark_named, people_in, pin_on, session_named
from headwater.store.transaction import Transaction


def _insertion(table: Any, *without: str) -> str:
    names = [column.name for column in table.columns if column.name not in ("row", *without)]
    return schema.compiled(insert(table).values({name: bindparam(name) for name in names}))


_CREATE = _insertion(schema.sessions)
_ENTER = _insertion(schema.session_people)
_PLACE = _insertion(schema.session_marks)
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
_RENEW = (
    "INSERT INTO session_processes (process, until_us) VALUES (?, ?) "
    "ON CONFLICT (process) DO UPDATE SET until_us = excluded.until_us"
)
_MARKED: dict[MarkKind, str] = {"pin": "session.pinned", "note": "session.noted"}
_UNMARKED: dict[MarkKind, str] = {"pin": "session.unpinned", "note": "session.note_removed"}


# ── Coming and going ────────────────────────────────────────────────────────────────────────────


def join_session(tx: Transaction, command: JoinSession) -> Joined:
    session = session_named(tx.db, command.name)
    if session is None:
        session = _create(tx, command)
    elif command.number is not None and command.number != session.library:
        tx.library(command.number)
        raise SessionElsewhere(
            f"the session {command.name!r} is on the library {session.library_name!r}; join it "
            "there, or choose another name",
            library=session.library_name,
        )
    if command.client_id is not None:
        for person in people_in(tx.db, session.row):
            if person.client_id == command.client_id:
                _leave(tx, session, person, "replaced")
    (people,) = tx.db.execute(
        "SELECT count(*) FROM session_people WHERE session = ?", [session.row]
    ).fetchone()
    if people >= command.most_people:
        raise SessionFull(
            f"{people} people are in the session {session.name!r}, which is the limit; "
            "come again when one has left",
            limit=command.most_people,
        )
    tx.db.execute(_RENEW, [command.process, command.lease_us])
    person = Person(
        command.person_id,
        command.display_name,
        command.colour,
        command.process,
        tx.at_us,
        command.client_id,
    )
    tx.db.execute(
        _ENTER,
        {
            "session": session.row,
            "id": person.id,
            "name": person.name,
            "colour": person.colour,
            "client_id": person.client_id,
            "process": person.process,
            "joined_us": person.joined_us,
        },
    )
    data = {"person": person_data(person), "people": people + 1}
    position = _tell(tx, "session.joined", session, **data)
    joined = session_named(tx.db, session.name)
    assert joined is not None
    return Joined(joined, position)


def _create(tx: Transaction, command: JoinSession) -> Session:
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
    _tell(tx, "session.created", session, library=library.name)
    return session


def leave_session(tx: Transaction, command: LeaveSession) -> Position | None:
    found = tx.db.execute(
        "SELECT s.id FROM session_people p JOIN sessions s ON s.row = p.session WHERE p.id = ?",
        [command.person_id],
    ).fetchone()
    session = None if found is None else session_named(tx.db, found[0])
    if session is None:  # gone with its library
        return None
    (person,) = [p for p in people_in(tx.db, session.row) if p.id == command.person_id]
    return _leave(tx, session, person, command.reason)


def _leave(tx: Transaction, session: Session, person: Person, reason: str) -> Position:
    tx.db.execute("DELETE FROM session_people WHERE id = ?", [person.id])
    tx.db.execute("UPDATE sessions SET seen_us = ? WHERE row = ?", [tx.at_us, session.row])
    (people,) = tx.db.execute(
        "SELECT count(*) FROM session_people WHERE session = ?", [session.row]
    ).fetchone()
    data = {"person": person_data(person), "reason": reason, "people": people}
    return _tell(tx, "session.left", session, **data)


def renew_lease(tx: Transaction, command: RenewLease) -> None:
    tx.db.execute(_RENEW, [command.process, command.until_us])


def remove_lost_people(tx: Transaction, command: RemoveLostPeople) -> int:
    leases = dict(tx.db.execute("SELECT process, until_us FROM session_processes").fetchall())
    holders = tx.db.execute("SELECT DISTINCT process FROM session_people").fetchall()
    lost = {
        process
        for process in {*leases, *(process for (process,) in holders)}
        if process in command.dead or leases.get(process, 0) < command.now_us
    }
    removed = 0
    for process in sorted(lost):
        for person, session in tx.db.execute(
            "SELECT p.id, s.id FROM session_people p JOIN sessions s ON s.row = p.session "
            "WHERE p.process = ? ORDER BY p.row",
            [process],
        ).fetchall():
            found = session_named(tx.db, session)
            if found is not None:
                (who,) = [p for p in people_in(tx.db, found.row) if p.id == person]
                _leave(tx, found, who, "lost")
                removed += 1
        tx.db.execute("DELETE FROM session_processes WHERE process = ?", [process])
    return removed


# ── The query ───────────────────────────────────────────────────────────────────────────────────


def revise_query(tx: Transaction, command: ReviseQuery) -> Session:
    session = _session(tx.db, command.session_id)
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
    revised = _session(tx.db, session.id)
    _tell(tx, "session.updated", revised, **query_data(revised))
    return revised


# ── Pins and notes ──────────────────────────────────────────────────────────────────────────────


def place_mark(tx: Transaction, command: PlaceMark) -> Mark:
    session = _session(tx.db, command.session_id)
    document = tx.db.execute(
        "SELECT title, num_chunks FROM documents WHERE library = ? AND id = ?",
        [session.library, command.document_id],
    ).fetchone()
    if document is None or (command.ordinal is not None and command.ordinal >= document[1]):
        raise DocumentNotFound(
            f"there is no document {command.document_id!r} in this session's library, or it has "
            "no such chunk; use the ids of a hit"
        )
    chunk = None if command.ordinal is None else chunk_id(command.document_id, command.ordinal)
    if command.kind == "pin":
        pinned = pin_on(tx.db, session.row, command.document_id, chunk)
        if pinned is not None:
            return pinned
    count = session.pins if command.kind == "pin" else session.notes
    if count >= command.most:
        full = TooManyPins if command.kind == "pin" else TooManyNotes
        raise full(
            f"the session has {count} {command.kind}s, which is the limit; remove one",
            limit=command.most,
        )
    mark = Mark(
        id=command.mark_id,
        kind=command.kind,
        revision=1,
        document_id=command.document_id,
        chunk_id=chunk,
        title=document[0],
        text=command.text,
        author=command.author,
        created_us=tx.at_us,
        updated_us=tx.at_us,
    )
    tx.db.execute(
        _PLACE,
        {
            "session": session.row,
            "id": mark.id,
            "kind": mark.kind,
            "revision": mark.revision,
            "document_id": mark.document_id,
            "chunk_id": mark.chunk_id,
            "title": mark.title,
            "text": mark.text,
            "author": mark.author.name,
            "author_colour": mark.author.colour,
            "created_us": mark.created_us,
            "updated_us": mark.updated_us,
        },
    )
    _tell_mark(tx, session, mark)
    return mark


def revise_mark(tx: Transaction, command: ReviseMark) -> Mark:
    session = _session(tx.db, command.session_id)
    _current_mark(tx.db, session, command)
    tx.db.execute(
        "UPDATE session_marks SET text = ?, revision = revision + 1, updated_us = ? WHERE id = ?",
        [command.text, tx.at_us, command.mark_id],
    )
    mark = mark_named(tx.db, session.row, command.kind, command.mark_id)
    assert mark is not None
    _tell_mark(tx, session, mark)
    return mark


def remove_mark(tx: Transaction, command: RemoveMark) -> Position:
    session = _session(tx.db, command.session_id)
    mark = _current_mark(tx.db, session, command)
    tx.db.execute("DELETE FROM session_marks WHERE id = ?", [mark.id])
    gone = {
        f"{mark.kind}_id": mark.id,
        "revision": mark.revision,
        "document_id": mark.document_id,
        "chunk_id": mark.chunk_id,
        "author": author_data(command.author),
    }
    return _changed(tx, _UNMARKED[mark.kind], session, **{mark.kind: gone})


def _current_mark(
    db: sqlite3.Connection, session: Session, command: ReviseMark | RemoveMark
) -> Mark:
    mark = mark_named(db, session.row, command.kind, command.mark_id)
    if mark is None:
        missing = PinNotFound if command.kind == "pin" else NoteNotFound
        raise missing(
            f"there is no {command.kind} {command.mark_id[:80]!r} in this session (any more); "
            "the state lists what there is"
        )
    if mark.revision != command.base_revision:
        raise StaleRevision(
            f"the {mark.kind} is at revision {mark.revision} by now, not "
            f"{command.base_revision}; look at `current` and edit that",
            current=mark_data(mark),
        )
    return mark


def _tell_mark(tx: Transaction, session: Session, mark: Mark) -> None:
    _changed(tx, _MARKED[mark.kind], session, **{mark.kind: mark_data(mark)})


# ── The end ─────────────────────────────────────────────────────────────────────────────────────


def delete_session(tx: Transaction, command: DeleteSession) -> Position:
    session = _session(tx.db, command.session_id)
    drop_rows(tx.db, session.row)
    counts = {"people": session.people, "pins": session.pins, "notes": session.notes}
    return _tell(tx, "session.deleted", session, **counts)


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


def _session(db: sqlite3.Connection, id: str) -> Session:
    session = session_named(db, id)
    if session is None or session.id != id:
        raise SessionNotFound("the session has been deleted; join again to begin a new one")
    return session


def _changed(tx: Transaction, type: str, session: Session, **data: Any) -> Position:
    """Tell a change that moves the session's own time and position."""
    tx.db.execute(
        "UPDATE sessions SET updated_us = ?, position = ? WHERE row = ?",
        [tx.at_us, tx.position + 1, session.row],
    )
    return _tell(tx, type, session, **data)


def _tell(tx: Transaction, type: str, session: Session, **data: Any) -> Position:
    told = {"session_id": session.id, "session": session.name, **data}
    return tx.change(type, session.library_id, session.id, encode(told))
