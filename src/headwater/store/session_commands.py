"""The store contract, continued: the commands and reads of shared sessions.

A session, who is in it, and what was pinned and noted are rows; each of their changes is in the
log by the same transaction. As with every command, what fails changes nothing. Changes carry
`session_id`, `session` (its name) and what a listener needs; see `session_data.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from headwater.model import Author, MarkKind, Position, Session, SessionState


@dataclass(frozen=True, slots=True)
class JoinSession:
    """→ `Joined`. Changes `session.created` when there is none of that name, `session.joined`.

    `number` is the library; None joins only what is there. A person of the same `client_id` who
    is still in the session is taken out first (`session.left`, reason `replaced`). `process`
    answers for the person: until `lease_us`, and on as long as it renews its lease. Raises
    `SessionNotFound`, `SessionElsewhere`, `LibraryNotFound`, `TooManySessions`, `SessionFull`.
    """

    name: str
    number: int | None
    session_id: str
    person_id: str
    display_name: str
    colour: str | None
    client_id: str | None
    process: str
    lease_us: int
    most_sessions: int
    most_people: int


@dataclass(frozen=True, slots=True)
class Joined:
    """The session with the new person in it, and the position of `session.joined`."""

    session: Session
    position: Position


@dataclass(frozen=True, slots=True)
class LeaveSession:
    """→ `Position | None`: None when that person was not in any more. Change `session.left`."""

    person_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RenewLease:
    """→ `None`. The process answers for its people until `until_us`. No change row."""

    process: str
    until_us: int


@dataclass(frozen=True, slots=True)
class RemoveLostPeople:
    """→ `int`: how many people were taken out; each has its `session.left`, reason `lost`.

    Those of processes that are `dead`, or whose lease ran out before `now_us`. That is the clock's
    time, as leases are: the log's own does not go back when the clock is set back.
    """

    dead: Collection[str]
    now_us: int


@dataclass(frozen=True, slots=True)
class ReviseQuery:
    """→ `Session`. Change `session.updated`, which carries the query without its vector.

    `query` is None to ask nothing any more. Raises `SessionNotFound`; `StaleRevision` when the
    query's revision is not `base_revision`.
    """

    session_id: str
    base_revision: int
    query: bytes | None
    author: Author


@dataclass(frozen=True, slots=True)
class PlaceMark:
    """→ `Mark`. Change `session.pinned` or `session.noted`.

    With `ordinal` the mark is on that chunk, else on the document. A second pin on the same place
    gives the first one and no change. Raises `SessionNotFound`, `DocumentNotFound` (also for an
    ordinal that the document does not have), `TooManyPins`, `TooManyNotes`.
    """

    session_id: str
    kind: MarkKind
    mark_id: str
    document_id: str
    ordinal: int | None
    text: str | None
    author: Author
    most: int


@dataclass(frozen=True, slots=True)
class ReviseMark:
    """→ `Mark` with its next revision. Change `session.pinned` or `session.noted`.

    Raises `SessionNotFound`, `PinNotFound`, `NoteNotFound`; `StaleRevision` when its revision is
    not `base_revision`.
    """

    session_id: str
    kind: MarkKind
    mark_id: str
    base_revision: int
    text: str | None


@dataclass(frozen=True, slots=True)
class RemoveMark:
    """→ `Position`. Change `session.unpinned` or `session.note_removed`. Raises as `ReviseMark`."""

    session_id: str
    kind: MarkKind
    mark_id: str
    base_revision: int
    author: Author


@dataclass(frozen=True, slots=True)
class DeleteSession:
    """→ `Position`. Change `session.deleted`. Raises `SessionNotFound`."""

    session_id: str


@dataclass(frozen=True, slots=True)
class ForgetSessions:
    """→ `list[str]`: the ids of at most `limit` sessions that were deleted.

    Those that nobody is in, and that nobody has been in since before `before_us`. Each has its
    change `session.deleted`.
    """

    before_us: int
    limit: int


SessionCommand: TypeAlias = (
    JoinSession
    | LeaveSession
    | RenewLease
    | RemoveLostPeople
    | ReviseQuery
    | PlaceMark
    | ReviseMark
    | RemoveMark
    | DeleteSession
    | ForgetSessions
)


class SessionReader(ABC):
    """The part of `Reader` that is about sessions."""

    @abstractmethod
    def session(self, ref: str) -> Session | None:
        """By name or by id."""

    @abstractmethod
    def sessions(self, *, after: int, limit: int, library: int | None = None) -> list[Session]:
        """By rising `row`, those with `row` > `after`; of one library when it is given."""

    @abstractmethod
    def session_state(self, ref: str) -> SessionState | None:
        """All of a session, at the head of this transaction."""

    @abstractmethod
    def session_holders(self) -> dict[str, int]:
        """The processes that have people in sessions, and until when (µs) their leases run."""
