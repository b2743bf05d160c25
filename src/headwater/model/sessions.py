"""Sessions: who is there, what they ask together, what they pinned and noted."""

from __future__ import annotations

from typing import Literal

import msgspec

from headwater.model.log import Position

MarkKind = Literal["pin", "note"]


class Author(msgspec.Struct, frozen=True, gc=False):
    """Who did something in a session, as they called themselves then. Nobody vouches for it."""

    name: str
    colour: str | None = None


class Session(msgspec.Struct, frozen=True, gc=False):
    """A named room on one library: people, one query they share, what they pinned and noted.

    `row` is the store's key and rises in order of creation. `query` is encoded JSON, None until
    somebody asks; `revision` counts its edits from 0. `people`, `pins` and `notes` are counts.
    """

    row: int
    id: str
    name: str
    library: int
    library_id: str
    library_name: str
    revision: int
    query: bytes | None
    author: Author | None
    created_us: int
    updated_us: int
    position: Position
    people: int = 0
    pins: int = 0
    notes: int = 0


class Person(msgspec.Struct, frozen=True, gc=False):
    """Somebody who is in a session now, through one connection held by the process `process`.

    `client_id` is what the client calls itself over several connections; others never see it.
    """

    id: str
    name: str
    colour: str | None
    process: str
    joined_us: int
    client_id: str | None = None


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A pin or a note on a document, or on one chunk of it. `revision` counts from 1."""

    id: str
    kind: MarkKind
    revision: int
    document_id: str
    chunk_id: str | None
    title: str | None
    text: str | None
    author: Author
    created_us: int
    updated_us: int


class SessionState(msgspec.Struct, frozen=True, gc=False):
    """All there is of a session at `position`: people and marks in the order they came."""

    session: Session
    people: list[Person]
    marks: list[Mark]
    position: Position
