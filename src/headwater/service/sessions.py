"""Shared search sessions: joined, asked, pinned to, annotated, left, listed and deleted.

What is done here is a command of the store, and so a change in the log; `rooms.py` hears of it as
every process does. Nothing here changes a room by itself.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import msgspec

from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import (
    HeadwaterError,
    InvalidQuery,
    InvalidSession,
    MessageTooLarge,
    SessionNotFound,
)
from headwater.live.mailbox import Mailbox
from headwater.live.room import Room, Seat
from headwater.model import Library, Mark, MarkKind, Position, Session, SessionState
from headwater.service.libraries import Libraries, is_name
from headwater.service.live import LiveQuery, LiveSearches
from headwater.service.presence import Presence
from headwater.service.rooms import Rooms, lost
from headwater.settings import SessionSettings
from headwater.store.base import Reader
from headwater.store.session_commands import (
    DeleteSession,
    Joined,
    JoinSession,
    PlaceMark,
    RemoveMark,
    ReviseMark,
    ReviseQuery,
)

_COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}|[a-z]{3,20}")
_CLIENT = re.compile(r"[\x21-\x7e]{1,128}")
_CHUNK = re.compile(r"(.+)#([0-9]{1,9})", re.DOTALL)
LONGEST_DISPLAY_NAME = 64
_JOINERS = "\u200c\u200d"
"""Persian, Indic scripts and emoji put them between the signs of a name."""
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Not `Cn`: what is unassigned here is a new sign to others."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody who wants to join, as they call themselves; checked when they do."""

    name: str
    colour: str | None = None
    client_id: str | None = None


@dataclass(eq=False, slots=True)
class Stay:
    """Somebody's time in a session: from `join` to `leave`, which must follow."""

    session: Session
    room: Room
    seat: Seat


class Sessions:
    """Loop only."""

    def __init__(
        self,
        log: Log,
        libraries: Libraries,
        live: LiveSearches,
        rooms: Rooms,
        presence: Presence,
        clock: Clock,
        settings: SessionSettings,
        process: str,
    ) -> None:
        self.settings = settings
        self.rooms = rooms
        self._log = log
        self._libraries = libraries
        self._live = live
        self._presence = presence
        self._clock = clock
        self._process = process

    # ── Coming and going ────────────────────────────────────────────────────────────────────────

    async def join(self, name: str, library: str | None, newcomer: Newcomer) -> Stay:
        """Be in the session of that name, which begins with the first one who names a `library`.

        Raises `InvalidSession`, and what `JoinSession` and opening the room raise.
        """
        _check_name(name)
        _check_newcomer(newcomer)
        on = None if library is None else await self._libraries.get(library)
        settings = self.settings
        person_id = self._clock.uuid7()
        command = JoinSession(
            name=name,
            number=None if on is None else on.number,
            session_id=self._clock.uuid7(),
            person_id=person_id,
            display_name=newcomer.name,
            colour=newcomer.colour,
            client_id=newcomer.client_id,
            process=self._process,
            lease_us=self._presence.lease_us(),
            most_sessions=settings.most,
            most_people=settings.people,
        )
        entered = False
        try:
            joined: Joined = await self._log.store.write(command)
            entered = True
            room = await self.rooms.enter(joined.session.id, joined.position)
        except BaseException as error:
            # Cancelled while waiting, it may be written all the same.
            if entered or not isinstance(error, HeadwaterError):
                await self._presence.leave(person_id, "left")
            raise
        seat = Seat(person_id, newcomer.name, newcomer.colour, Mailbox(settings.buffer_bytes))
        room.seats[person_id] = seat
        if not room.has(person_id):  # put out before it sat down
            seat.end(lost())
        return Stay(joined.session, room, seat)

    async def leave(self, stay: Stay, reason: str) -> None:
        """Shielded: it is told even when the one who leaves is being cancelled."""
        stay.room.seats.pop(stay.seat.person_id, None)
        self.rooms.leave(stay.room)
        await self._presence.leave(stay.seat.person_id, reason)

    # ── What people do ──────────────────────────────────────────────────────────────────────────

    async def revise(self, stay: Stay, base_revision: int, query: LiveQuery | None) -> Session:
        """Ask something else, or nothing. Raises `StaleRevision` and what is wrong with `query`."""
        stored = None
        if query is not None:
            library = await self._libraries.get(stay.session.library_id)
            stored = msgspec.json.encode(_told(await self._checked(query, library)))
        revised: Session = await self._log.store.write(
            ReviseQuery(stay.session.id, base_revision, stored, stay.seat.author)
        )
        return revised

    async def place(
        self,
        stay: Stay,
        kind: MarkKind,
        chunk_id: str | None,
        document_id: str | None,
        text: str | None,
    ) -> Mark:
        """Pin or annotate a hit, or a whole document. Raises as `PlaceMark`, `InvalidSession`."""
        document, ordinal = _place(chunk_id, document_id)
        mark: Mark = await self._log.store.write(
            PlaceMark(
                session_id=stay.session.id,
                kind=kind,
                mark_id=self._clock.uuid7(),
                document_id=document,
                ordinal=ordinal,
                text=self._check_text(kind, text),
                author=stay.seat.author,
                most=self.settings.pins if kind == "pin" else self.settings.notes,
            )
        )
        return mark

    async def revise_mark(
        self, stay: Stay, kind: MarkKind, mark_id: str, base_revision: int, text: str | None
    ) -> Mark:
        """Raises as `ReviseMark`, `InvalidSession`."""
        mark: Mark = await self._log.store.write(
            ReviseMark(stay.session.id, kind, mark_id, base_revision, self._check_text(kind, text))
        )
        return mark

    async def remove_mark(
        self, stay: Stay, kind: MarkKind, mark_id: str, base_revision: int
    ) -> Position:
        """Raises as `RemoveMark`."""
        position: Position = await self._log.store.write(
            RemoveMark(stay.session.id, kind, mark_id, base_revision, stay.seat.author)
        )
        return position

    def pass_on(self, stay: Stay, data: msgspec.Raw) -> None:
        """Give `data` to the others, now or never. Raises `MessageTooLarge`."""
        limit_bytes = self.settings.message_bytes
        if len(bytes(data)) > limit_bytes:
            raise MessageTooLarge(
                f"the message has {len(bytes(data))} bytes, the limit is {limit_bytes}; send "
                "less, or write a note",
                limit_bytes=limit_bytes,
            )
        self.rooms.pass_on(stay.room, stay.seat, data)

    # ── From outside ────────────────────────────────────────────────────────────────────────────

    async def page(self, after: int, limit: int, library: str | None) -> list[Session]:
        number = None if library is None else (await self._libraries.get(library)).number
        return await self._log.store.read(
            lambda reader: reader.sessions(after=after, limit=limit, library=number)
        )

    async def get(self, ref: str) -> SessionState:
        """By name or id. Raises `SessionNotFound`."""
        state = await self._log.store.read(lambda reader: reader.session_state(ref))
        if state is None:
            raise SessionNotFound(
                f"there is no session {ref!r}; connect to /v1/sessions/{{name}}?library=… to "
                "begin it",
                session=ref,
            )
        return state

    async def delete(self, ref: str) -> tuple[Session, Position]:
        """By name or id: gone for everybody in it, with its pins and notes."""

        def query(reader: Reader) -> Session | None:
            return reader.session(ref)

        session = await self._log.store.read(query)
        if session is None:
            raise SessionNotFound(f"there is no session {ref!r}; list them", session=ref)
        position: Position = await self._log.store.write(DeleteSession(session.id))
        return session, position

    def figures(self) -> dict[str, int]:
        """Of this process: what is open now, and what was passed on since it started."""
        return {
            "open": len(self.rooms),
            "people": self.rooms.people,
            "messages_passed_on": self.rooms.passed_on,
            "messages_dropped": self.rooms.not_passed_on,
        }

    # ── Checks ──────────────────────────────────────────────────────────────────────────────────

    async def _checked(self, query: LiveQuery, library: Library) -> LiveQuery:
        """`query` as it is kept: it can be asked, and has the largest k where it had none."""
        most = self.settings.k
        if query.k is not None and query.k > most:
            raise InvalidQuery(f"k is {query.k}; in a session it may be 1 to {most}", parameter="k")
        if query.k is None and query.score_threshold is not None:
            query = msgspec.structs.replace(query, k=most)
        if "vector" in query.include:
            raise InvalidQuery("a session's hits come without their vectors", parameter="include")
        await self._live.prepare(library, query)
        return query

    def _check_text(self, kind: MarkKind, text: str | None) -> str | None:
        if text is None or not text.strip():
            if kind == "note":
                raise InvalidSession("a note needs a `text`")
            return None
        if len(text) > self.settings.note_chars:
            raise InvalidSession(
                f"the text has {len(text)} characters, the limit is {self.settings.note_chars}",
                limit=self.settings.note_chars,
            )
        if "\0" in text:
            raise InvalidSession("the text holds U+0000, which cannot be stored; remove it")
        return text


def _told(query: LiveQuery) -> dict[str, Any]:
    """What was said of it; what was left out stays out."""
    unsaid = msgspec.to_builtins(LiveQuery())
    said: dict[str, Any] = msgspec.to_builtins(query)
    return {name: value for name, value in said.items() if value != unsaid[name]}


def _place(chunk_id: str | None, document_id: str | None) -> tuple[str, int | None]:
    """The document, and the chunk's ordinal in it when one was named."""
    if (chunk_id is None) == (document_id is None):
        raise InvalidSession("name either a `chunk_id` or a `document_id`")
    if document_id is not None:
        return document_id, None
    match = _CHUNK.fullmatch(chunk_id or "")
    if match is None:
        raise InvalidSession("a `chunk_id` is as in a hit: the document's id, #, a number")
    return match[1], int(match[2])


def _check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidSession(
            "a session's name has 1 to 128 characters without `/` and control characters, no "
            f"space at either end, and does not look like an id; this one is {name[:140]!r}"
        )


def _check_newcomer(newcomer: Newcomer) -> None:
    name = newcomer.name
    proper = all(
        character in _JOINERS or unicodedata.category(character) not in _UNSEEN
        for character in name
    )
    if (
        len(name) > LONGEST_DISPLAY_NAME
        or name != name.strip()
        or not name.strip(_JOINERS)
        or not proper
    ):
        raise InvalidSession(
            f"`display_name` has 1 to {LONGEST_DISPLAY_NAME} characters, no space at either end "
            "and no control characters",
            parameter="display_name",
        )
    if newcomer.colour is not None and not _COLOUR.fullmatch(newcomer.colour):
        raise InvalidSession(
            "`colour` is as in CSS: `#c0392b`, or a name of small letters", parameter="colour"
        )
    if newcomer.client_id is not None and not _CLIENT.fullmatch(newcomer.client_id):
        raise InvalidSession(
            "`client_id` has 1 to 128 visible ASCII characters", parameter="client_id"
        )
