"""A session as one process knows it, for as long as somebody is in it through this process.

Made from the store's state at a position, then kept by the changes of the log after it; `service`
feeds it and sends what it says. It must never hold what the store does not: results, which are
searched for anew, and the people's mailboxes are all it has of its own. Loop only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
import msgspec

from headwater.errors import HeadwaterError
from headwater.live.mailbox import Mailbox
from headwater.live.results import Results
from headwater.model import Author, Change, Position, SessionState
from headwater.store.session_data import mark_data, person_data, query_data

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Json).decode


@dataclass(eq=False, slots=True)
class Seat:
    """Somebody's place in a room of this process. `ended` says why it is over, if it is."""

    person_id: str
    name: str
    colour: str | None
    mailbox: Mailbox
    ended: HeadwaterError | None = None

    @property
    def author(self) -> Author:
        return Author(self.name, self.colour)

    def end(self, error: HeadwaterError) -> None:
        """Let whoever sends for it know that there is no more, and why."""
        if self.ended is None:
            self.ended = error
            self.mailbox.wake()


def failure_data(error: HeadwaterError) -> Json:
    """Why there are no results."""
    return {"code": error.code, "detail": error.detail, "retryable": error.retryable}


class Room:
    """`loaded` is set once it has a state, or has `ended` without one."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.library_id = ""
        self.position: Position = 0
        self.scope = anyio.CancelScope()
        self.loaded = anyio.Event()
        self.ended: HeadwaterError | None = None
        self.users = 0
        self.seats: dict[str, Seat] = {}
        self.revised = anyio.Event()
        self.asked_revision = 0
        self.results: Results | None = None
        self.failure: Json | None = None
        self._session: Json = {}
        self._query: Json = {"revision": 0, "query": None, "author": None}
        self._people: dict[str, Json] = {}
        self._marks: dict[str, dict[str, Json]] = {"pin": {}, "note": {}}
        self._missed: list[Change] = []

    def load(self, state: SessionState) -> None:
        """Begin with `state`, or with it anew; then what came meanwhile and is not in it."""
        session = state.session
        self.library_id = session.library_id
        self.position = state.position
        self._session = {
            "session_id": session.id,
            "name": session.name,
            "library_id": session.library_id,
            "library": session.library_name,
        }
        self._query = query_data(session)
        self._people = {person.id: person_data(person) for person in state.people}
        self._marks = {"pin": {}, "note": {}}
        for mark in state.marks:
            self._marks[mark.kind][mark.id] = mark_data(mark)
        self.loaded.set()
        missed, self._missed = self._missed, []
        for change in missed:
            self.apply(change)
        self._ask_anew()
        for seat in self.seats.values():
            seat.mailbox.start_over()

    def apply(self, change: Change) -> bool:
        """A change of this session, or of a library; whether it was news of this session.

        One that ends the session does not come here.
        """
        if not self.loaded.is_set():
            self._missed.append(change)
            return False
        if change.position <= self.position:
            return False
        if change.type == "library.updated":
            if change.library_id == self.library_id:
                self._name_library(_decode(change.data)["name"])
            return False
        self.position = change.position
        data = _decode(change.data)
        match change.type:
            case "session.joined":
                self._people[data["person"]["person_id"]] = data["person"]
            case "session.left":
                self._people.pop(data["person"]["person_id"], None)
            case "session.updated":
                self._query = {name: data[name] for name in ("revision", "query", "author")}
                self._ask_anew()
            case "session.pinned":
                self._marks["pin"][data["pin"]["pin_id"]] = data["pin"]
            case "session.unpinned":
                self._marks["pin"].pop(data["pin"]["pin_id"], None)
            case "session.noted":
                self._marks["note"][data["note"]["note_id"]] = data["note"]
            case "session.note_removed":
                self._marks["note"].pop(data["note"]["note_id"], None)
        return True

    def _name_library(self, name: str) -> None:
        if name != self._session["library"]:
            self._session["library"] = name
            for seat in self.seats.values():
                seat.mailbox.start_over()

    def _ask_anew(self) -> None:
        if self.asked_revision == self.revision:
            return
        self.results = self.failure = None
        revised, self.revised = self.revised, anyio.Event()
        revised.set()

    @property
    def revision(self) -> int:
        """Of the shared query."""
        revision: int = self._query["revision"]
        return revision

    def has(self, person_id: str) -> bool:
        return person_id in self._people

    def processes(self) -> set[str]:
        """Those through which people are in this session."""
        return {person["process"] for person in self._people.values()}

    def state(self, cursor: str) -> bytes:
        """The frame that tells somebody everything at once, as of `cursor`."""
        results = None
        if self.results is not None and self.results.cursor is not None:
            results = {
                "revision": self.asked_revision,
                "cursor": self.results.cursor,
                "hits": self.results.hits(),
            }
        return _encode(
            {
                "type": "state",
                "data": {
                    "session": self._session,
                    "cursor": cursor,
                    "query": self._query,
                    "results": results,
                    "failure": self.failure,
                    "people": list(self._people.values()),
                    "pins": list(self._marks["pin"].values()),
                    "notes": list(self._marks["note"].values()),
                },
            }
        )

    def tell(self, frame: bytes) -> None:
        """To everybody in this room of this process."""
        for seat in self.seats.values():
            seat.mailbox.tell(frame)

    def pass_on(self, frame: bytes, sender: str) -> int:
        """A passing message to all here but its sender; how many were not reached."""
        return sum(
            not seat.mailbox.pass_on(frame)
            for seat in self.seats.values()
            if seat.person_id != sender
        )

    def fail(self, error: HeadwaterError) -> None:
        """The query cannot be answered now; it will be tried again."""
        self.results = None
        self.failure = failure_data(error)
        frame = {"type": "live", "revision": self.asked_revision, "event": "failed"}
        self.tell(_encode({**frame, "data": self.failure}))

    def end(self, error: HeadwaterError) -> None:
        """It is over for everybody."""
        self.ended = self.ended or error
        self.loaded.set()
        for seat in self.seats.values():
            seat.end(error)
