"""Pins and notes of sessions: placed, edited and removed by revision."""

from __future__ import annotations

import sqlite3

from headwater.errors import (
    DocumentNotFound,
    NoteNotFound,
    PinNotFound,
    StaleRevision,
    TooManyNotes,
    TooManyPins,
)
from headwater.model import Mark, MarkKind, Position, Session, chunk_id
from headwater.store import schema
from headwater.store.session_commands import PlaceMark, RemoveMark, ReviseMark
from headwater.store.session_data import author_data, mark_data
from headwater.store.session_rows import mark_named, pin_on
from headwater.store.session_writes import changed, insertion, session_of_id
from headwater.store.transaction import Transaction

_PLACE = insertion(schema.session_marks)
_MARKED: dict[MarkKind, str] = {"pin": "session.pinned", "note": "session.noted"}
_UNMARKED: dict[MarkKind, str] = {"pin": "session.unpinned", "note": "session.note_removed"}


def place_mark(tx: Transaction, command: PlaceMark) -> Mark:
    session = session_of_id(tx.db, command.session_id)
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
    session = session_of_id(tx.db, command.session_id)
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
    session = session_of_id(tx.db, command.session_id)
    mark = _current_mark(tx.db, session, command)
    tx.db.execute("DELETE FROM session_marks WHERE id = ?", [mark.id])
    gone = {
        f"{mark.kind}_id": mark.id,
        "revision": mark.revision,
        "document_id": mark.document_id,
        "chunk_id": mark.chunk_id,
        "author": author_data(command.author),
    }
    return changed(tx, _UNMARKED[mark.kind], session, **{mark.kind: gone})


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
    changed(tx, _MARKED[mark.kind], session, **{mark.kind: mark_data(mark)})
