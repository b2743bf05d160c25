"""The rooms of this process: opened for whoever joins, kept true by the log, searched for.

One task follows the log for all rooms; each room has a task of its own that keeps the results of
its query. What people pass to each other goes straight to those here, and by the bus to the other
processes that have people in that session.
"""

from __future__ import annotations

import anyio
import anyio.abc
import msgspec
import structlog

from headwater.changes import Log
from headwater.changes.bell import Bell
from headwater.errors import (
    CursorExpired,
    HeadwaterError,
    LibraryNotFound,
    PresenceLost,
    Replaced,
    SessionNotFound,
    Unavailable,
)
from headwater.feeds import Selection
from headwater.feeds.event import events
from headwater.live.bus import Bus
from headwater.live.results import Results
from headwater.live.room import Room, Seat
from headwater.model import EVENT_TYPES, Change, Position, SessionState
from headwater.service.libraries import Libraries
from headwater.service.live import Deltas, LiveQuery, LiveSearches
from headwater.store.base import Reader

SESSION_TYPES = frozenset(kind for kind in EVENT_TYPES if kind.startswith("session."))
_FOLLOWED = SESSION_TYPES | {"library.updated", "library.deleted"}
_PAGE = 500
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
"""Between two attempts at a query that fails."""

_SELECTION = Selection(told=SESSION_TYPES)
_encode = msgspec.json.Encoder().encode

log_line = structlog.get_logger(__name__)


class Rooms:
    """Loop only."""

    def __init__(self, log: Log, libraries: Libraries, live: LiveSearches, bus: Bus) -> None:
        self._log = log
        self._libraries = libraries
        self._live = live
        self._bus = bus
        self._rooms: dict[str, Room] = {}
        self._followed = Bell()
        self._tasks: anyio.abc.TaskGroup | None = None
        self.passed_on = 0
        self.not_passed_on = 0
        bus.on_datagram(self._hear)

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def people(self) -> int:
        """How many are in sessions through this process."""
        return sum(len(room.seats) for room in self._rooms.values())

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the log until cancelled."""
        self._followed.ring(self._log.head)
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await self._follow()

    # ── Entering and leaving ────────────────────────────────────────────────────────────────────

    async def enter(self, session_id: str, position: Position) -> Room:
        """The room of a session, once it knows all up to `position`; every one needs its `leave`.

        Raises `SessionNotFound` or `LibraryNotFound` when it is gone meanwhile, and what reading
        the store raises.
        """
        assert self._tasks is not None, "run it first"
        room = self._rooms.get(session_id)
        if room is None:
            room = self._rooms[session_id] = Room(session_id)
            self._tasks.start_soon(self._keep, room)
        room.users += 1
        try:
            await room.loaded.wait()
            await self._followed.wait_past(position - 1)
            if room.ended is not None:
                raise room.ended
        except BaseException:
            self.leave(room)
            raise
        return room

    def leave(self, room: Room) -> None:
        """The last one to leave closes the room."""
        room.users -= 1
        if room.users == 0:
            self._forget(room)

    def state(self, room: Room) -> bytes:
        """The frame that tells somebody everything at once."""
        return room.state(str(self._log.cursor(max(room.position, self._followed.position))))

    def pass_on(self, room: Room, sender: Seat, data: msgspec.Raw) -> None:
        """Give `data` to all others in the session who take it now."""
        frame = _encode({"type": "message", "person_id": sender.person_id, "data": data})
        self.passed_on += 1
        self.not_passed_on += room.pass_on(frame, sender.person_id)
        datagram = room.id.encode() + b"\n" + frame
        for process in room.processes():
            if process != self._bus.name and not self._bus.send(process, datagram):
                self.not_passed_on += 1

    def _hear(self, datagram: bytes) -> None:
        """What somebody in another process passes on."""
        session_id, _, frame = datagram.partition(b"\n")
        room = self._rooms.get(session_id.decode("ascii", "replace"))
        if room is not None:
            self.not_passed_on += room.pass_on(frame, "")

    def _forget(self, room: Room) -> None:
        if self._rooms.get(room.id) is room:
            del self._rooms[room.id]
        room.scope.cancel()

    # ── The log ─────────────────────────────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        position = self._followed.position
        while True:
            await self._log.bell.wait_past(position)
            if not self._rooms:
                position = self._log.head
            else:
                try:
                    position = await self._catch_up(position)
                except Unavailable as error:
                    log_line.warning("sessions.not_followed", detail=error.detail)
                    await anyio.sleep(_FIRST_PAUSE_S)
                    continue
            self._followed.ring(position)

    async def _catch_up(self, position: Position) -> Position:
        """Apply what comes after `position`, up to the one returned."""
        committed = self._log.ring.after(position)
        if committed is not None:
            for change in committed.changes:
                if change.position > position:
                    self._apply(change)
            return committed.through
        try:
            page = await self._log.read(position, _PAGE, types=_FOLLOWED)
        except CursorExpired:
            return await self._load_all_again()
        for change in page.changes:
            self._apply(change)
        return page.through

    async def _load_all_again(self) -> Position:
        """The log was trimmed past this process, which must have slept: begin with what there is.

        Rooms opened after the head was read begin at it or later by themselves.
        """
        head = await self._log.store.read(lambda reader: reader.head())
        ids = list(self._rooms)

        def query(reader: Reader) -> dict[str, SessionState | None]:
            return {id: reader.session_state(id) for id in ids}

        for id, state in (await self._log.store.read(query)).items():
            room = self._rooms.get(id)
            if room is not None:
                self._load(room, state)
        return head

    def _apply(self, change: Change) -> None:
        if change.type == "library.deleted":
            for there in list(self._rooms.values()):
                if there.library_id == change.library_id:
                    self._end(there, LibraryNotFound("the session's library has been deleted"))
            return
        if change.type == "library.updated":
            for there in self._rooms.values():
                there.apply(change)
            return
        if change.type not in SESSION_TYPES or change.subject is None:
            return
        room = self._rooms.get(change.subject)
        if room is None:
            return
        if change.type == "session.deleted":
            self._end(room, _gone())
        elif room.apply(change):
            for event in events(change, _SELECTION, self._log.store.log_id):
                room.tell(b'{"type":"event","event":' + event.json + b"}")
            if change.type == "session.left":
                self._put_out(room, change)

    def _put_out(self, room: Room, change: Change) -> None:
        """Somebody here is gone for all others: replaced, or by this process's silence."""
        data = msgspec.json.decode(change.data)
        seat = room.seats.get(data["person"]["person_id"])
        if seat is None:
            return
        if data["reason"] == "replaced":
            seat.end(
                Replaced(
                    "another connection with your `client_id` has joined; go on there, and do not "
                    "connect again"
                )
            )
        else:
            seat.end(lost())

    def _load(self, room: Room, state: SessionState | None) -> None:
        if state is None:
            self._end(room, _gone())
        else:
            room.load(state)

    def _end(self, room: Room, error: HeadwaterError) -> None:
        room.end(error)
        self._forget(room)

    # ── A room's own task ───────────────────────────────────────────────────────────────────────

    async def _keep(self, room: Room) -> None:
        """Load the room, then keep its results, until it is forgotten."""
        with room.scope:
            try:
                state = await self._log.store.read(lambda reader: reader.session_state(room.id))
            except HeadwaterError as error:
                self._end(room, error)
                return
            if not room.loaded.is_set():
                self._load(room, state)
            while True:
                async with anyio.create_task_group() as tasks:
                    revised = room.revised
                    tasks.start_soon(self._answer, room)
                    await revised.wait()
                    tasks.cancel_scope.cancel()

    async def _answer(self, room: Room) -> None:
        """Keep the results of the query that is stored now, and tell them."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                session = await self._log.store.read(lambda reader: reader.session(room.id))
                if session is None:
                    return  # the log tells of it
                room.asked_revision, room.failure = session.revision, None
                if session.query is None:
                    return
                query = msgspec.json.decode(session.query, type=LiveQuery)
                results = Results("chunk_id" if query.group_by is None else "document_id")
                room.results = results
                library = await self._libraries.get(session.library_id)
                async with self._live.watch(library, query) as watch:
                    while True:
                        deltas = await watch.take()
                        if deltas is None:
                            await watch.wait()
                            continue
                        if room.results is not results:
                            return  # revised meanwhile; the next one is about to be asked
                        pause_s = _FIRST_PAUSE_S
                        results.apply(((e.event, e.data) for e in deltas.events), deltas.cursor)
                        _tell(room, deltas)
            except LibraryNotFound:
                return  # as above
            except HeadwaterError as error:
                log_line.info("session.query_failed", session=room.id, code=error.code)
                room.fail(error)
            except Exception as error:  # the task's root: one room fails, not all
                log_line.error("session.query_crashed", session=room.id, exc_info=error)
                room.fail(HeadwaterError("a bug in the server; its log has the details"))
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def lost() -> PresenceLost:
    return PresenceLost(
        "this server was silent for too long, and the others were told that you have left; join "
        "again"
    )


def _tell(room: Room, deltas: Deltas) -> None:
    for event in deltas.events:
        room.tell(
            b'{"type":"live","revision":%d,"event":"%b","data":%b}'
            % (room.asked_revision, event.event.encode(), bytes(event.data))
        )


def _gone() -> SessionNotFound:
    return SessionNotFound("the session has been deleted; join again to begin a new one")
