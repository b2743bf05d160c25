"""Who comes to sessions and goes: people, and the leases of the processes that hold them."""

from __future__ import annotations

from headwater.errors import SessionElsewhere, SessionFull
from headwater.model import Person, Position, Session
from headwater.store import schema
from headwater.store.session_commands import (
    Joined,
    JoinSession,
    LeaveSession,
    RemoveLostPeople,
    RenewLease,
)
from headwater.store.session_data import person_data
from headwater.store.session_rows import people_in, session_named
from headwater.store.session_writes import create_session, insertion, tell
from headwater.store.transaction import Transaction

_ENTER = insertion(schema.session_people)
_RENEW = (
    "INSERT INTO session_processes (process, until_us) VALUES (?, ?) "
    "ON CONFLICT (process) DO UPDATE SET until_us = excluded.until_us"
)


def join_session(tx: Transaction, command: JoinSession) -> Joined:
    session = session_named(tx.db, command.name)
    if session is None:
        session = create_session(tx, command)
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
    position = tell(tx, "session.joined", session, **data)
    joined = session_named(tx.db, session.name)
    assert joined is not None
    return Joined(joined, position)


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
    return tell(tx, "session.left", session, **data)


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
