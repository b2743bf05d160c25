"""A reader of the feed: a place in the log, what it wants, and the next piece to tell it.

Frames are encoded once for all readers with the same wish that stand at the head; whoever is
behind reads the store and pays for itself. A reader holds nothing but its position: however slow,
it costs no memory here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import anyio

from headwater.changes.log import Log
from headwater.errors import CursorExpired
from headwater.feeds.event import Event, Format, events, sse
from headwater.feeds.selection import Selection
from headwater.model import Change, Committed, Cursor, Position
from headwater.store.base import Reader

RenderDocuments = Callable[[Reader, Iterable[Change]], dict[tuple[str | None, str | None], bytes]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a reader wants and how: readers with equal wishes share frames."""

    selection: Selection
    format: Format = "json"
    documents: bool = False
    framing: Literal["sse", "apart"] = "sse"
    """Joined as server-sent events, or one by one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Encoded frames for everything wanted in the log up to `through`; may be empty.

    `body` has them for a wish framed as `sse`, `events` for one framed `apart`.
    """

    body: bytes
    count: int
    through: Position
    events: tuple[Event, ...] = ()
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        size_bytes = len(self.body) + sum(len(event.json) for event in self.events)
        object.__setattr__(self, "size_bytes", size_bytes)

    @classmethod
    def of(cls, wish: Wish, told: list[Event], through: Position) -> Piece:
        if wish.framing == "apart":
            return cls(b"", len(told), through, tuple(told))
        return cls(b"".join(map(sse, told)), len(told), through)


class Frames:
    """Encoded pieces of recent commits, shared. Loop only; bounded by the bytes it keeps."""

    def __init__(self, log: Log, render: RenderDocuments, capacity_bytes: int) -> None:
        self._log = log
        self._render = render
        self._capacity_bytes = capacity_bytes
        self._size_bytes = 0
        self._pieces: OrderedDict[tuple[Wish, Position], Piece] = OrderedDict()
        self._making: dict[tuple[Wish, Position], anyio.Event] = {}

    async def piece(self, wish: Wish, committed: Committed) -> Piece:
        key = (wish, committed.through)
        while (piece := self._pieces.get(key)) is None and key in self._making:
            # Readers that come together would all read the same documents.
            await self._making[key].wait()
        if piece is None:
            made = self._making[key] = anyio.Event()
            try:
                told = await self.tell(wish, committed.changes)
            finally:
                del self._making[key]
                made.set()
            piece = self._pieces[key] = Piece.of(wish, told, committed.through)
            self._size_bytes += piece.size_bytes + 200
            while self._size_bytes > self._capacity_bytes and len(self._pieces) > 1:
                self._size_bytes -= self._pieces.popitem(last=False)[1].size_bytes + 200
        return piece

    async def ahead(self, wish: Wish, position: Position, limit_bytes: int) -> Piece | None:
        """What the ring has after `position`, up to about one write; None: read the store."""
        pieces: list[Piece] = []
        size = 0
        start = position
        while size < limit_bytes:
            committed = self._log.ring.after(position)
            if committed is None:
                break
            if committed.after == position or committed.changes[0].position > position:
                piece = await self.piece(wish, committed)
            else:
                # The reader stands inside the commit: what it has had is left out.
                rest = [change for change in committed.changes if change.position > position]
                told = await self.tell(wish, rest)
                piece = Piece.of(wish, told, committed.through)
            pieces.append(piece)
            size += piece.size_bytes
            position = piece.through
        if position == start:
            return None
        if len(pieces) == 1:
            return pieces[0]
        return Piece(
            b"".join(piece.body for piece in pieces),
            sum(piece.count for piece in pieces),
            position,
            tuple(event for piece in pieces for event in piece.events),
        )

    async def tell(self, wish: Wish, changes: Iterable[Change], skip: int = 0) -> list[Event]:
        """The events of `changes`; the first `skip` events of the first change are left out."""
        picked = wish.selection.pick(changes)
        documents = None
        if wish.documents and picked:
            documents = await self._log.store.read(lambda reader: self._render(reader, picked))
        log_id = self._log.store.log_id
        told: list[Event] = []
        for change in picked:
            told += events(change, wish.selection, log_id, wish.format, documents, skip)
            skip = 0
        return told


class FeedReader:
    """Reads on from a cursor: each `next` gives what follows, as soon as there is something."""

    __slots__ = (
        "_frames",
        "_log",
        "_most",
        "_page",
        "_paged",
        "_skip",
        "_write_bytes",
        "position",
        "wish",
    )

    def __init__(
        self, log: Log, frames: Frames, wish: Wish, cursor: Cursor, *, page: int, write_bytes: int
    ) -> None:
        self._log = log
        self._frames = frames
        self.wish = wish
        self._skip = cursor.part
        self._most = self._page = page
        self._paged = False
        self._write_bytes = write_bytes
        self.position = cursor.position

    @property
    def behind(self) -> bool:
        # Within a change it is behind that one, which can be in the store before it is heard of.
        return self._skip > 0 or self.position < self._log.head

    @property
    def cursor(self) -> Cursor:
        """Where it stands, also between the events of one change."""
        return Cursor(self._log.store.log_id, self.position, self._skip)

    def stand(self, cursor: Cursor) -> None:
        """Go on from there, for a reader that could not tell all of what `next` gave."""
        self.position, self._skip = cursor.position, cursor.part

    def sip(self, changes: int) -> None:
        """Read about so many changes at a time, from the store, until the head is reached."""
        self._paged, self._page = True, max(1, changes)

    def gulp(self) -> None:
        """What was read was not too much: read more at a time."""
        if self._paged:
            self._page = min(2 * self._page, self._most)
            self._paged = self.behind

    async def next(self) -> Piece:
        """Wait for news, then give the frames up to some later position and stand there.

        Cancelling it leaves the reader where it was. Raises `CursorExpired` when the log was
        trimmed past it.
        """
        await self._log.bell.wait_past(self.position)
        piece = None
        if not self._skip and not self._paged:
            piece = await self._frames.ahead(self.wish, self.position, self._write_bytes)
        if piece is None:
            piece = await self._from_store()
        self.position = piece.through
        self._skip = 0
        return piece

    async def _from_store(self) -> Piece:
        told, through = await read_events(
            self._log, self._frames, self.wish, Cursor("", self.position, self._skip), self._page
        )
        return Piece.of(self.wish, told, through)


async def read_events(
    log: Log, frames: Frames, wish: Wish, cursor: Cursor, limit: int
) -> tuple[list[Event], Position]:
    """Events after `cursor` from the store, of at most `limit` changes, and where they end.

    The log advances even when nothing matches, so the end may be reached with no events.
    Raises `CursorExpired`.
    """
    selection = wish.selection
    try:
        page = await log.read(
            cursor.position, limit, library_ids=selection.library_ids, types=selection.stored
        )
    except CursorExpired:
        trimmed = await log.store.read(lambda reader: reader.trimmed())
        raise log.expired(log.cursor(cursor.position), trimmed) from None
    first_is_partial = cursor.part and page.changes
    told: list[Event] = []
    if first_is_partial and page.changes[0].position == cursor.position + 1:
        told = await frames.tell(wish, page.changes[:1], cursor.part)
        told += await frames.tell(wish, page.changes[1:])
    else:
        told = await frames.tell(wish, page.changes)
    return told, page.through
