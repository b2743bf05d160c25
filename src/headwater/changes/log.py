"""One way to read the log, for everybody who follows it.

`Log` sits on the store: it is told of every commit, keeps the ring and the bell, and answers
"what comes after position p?" from the ring at the head and from the store further back. Callers
keep their own position and can never be too slow. It must never be a second truth: what it says
is in the store, committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from headwater import failpoints
from headwater.changes.bell import Bell
from headwater.changes.ring import Ring
from headwater.errors import CursorExpired
from headwater.model import Committed, Cursor, Position
from headwater.store.base import LogPage, Store


class Log:
    """The change log as followers see it. Loop only.

    `publish` and `hear` are handed to the store as its `on_commit` and `on_foreign`.
    """

    def __init__(self, ring_bytes: int) -> None:
        self.ring = Ring(ring_bytes)
        self.bell = Bell()
        self.published = 0
        self.committed_at_us = 0
        self._hooks: list[Callable[[Committed | None], None]] = []
        self._store: Store | None = None

    def attach(self, store: Store, head: Position) -> None:
        """Begin at `head` of a store that has been opened."""
        self._store = store
        self.bell.ring(head)

    @property
    def store(self) -> Store:
        assert self._store is not None, "attach a store first"
        return self._store

    @property
    def head(self) -> Position:
        """The highest position this process has heard of."""
        return self.bell.position

    def on_news(self, hook: Callable[[Committed | None], None]) -> None:
        """Call `hook` with each commit of this process, and with None when another committed.

        For caches that must be right before the writer hears its answer; a hook must be quick.
        """
        self._hooks.append(hook)

    def publish(self, committed: Committed) -> None:
        """A transaction of this process has committed."""
        if committed.changes:
            self.published += len(committed.changes)
            self.committed_at_us = committed.changes[-1].at_us
            self.ring.append(committed)
            for hook in self._hooks:
                hook(committed)
            self.bell.ring(committed.through)
        failpoints.reach("changes.after_publish")

    def hear(self, head: Position) -> None:
        """Another process has committed, up to `head`."""
        if head > self.head:
            for hook in self._hooks:
                hook(None)
            self.bell.ring(head)

    def cursor(self, position: Position, part: int = 0) -> Cursor:
        return Cursor(self.store.log_id, position, part)

    async def resolve(self, text: str) -> Cursor:
        """`beginning`, `now` or a cursor, as a cursor that can be read after.

        Raises `InvalidCursor`; `CursorExpired` with the earliest cursor that still works.
        """
        if text == "now":
            return self.cursor(self.head)
        if text == "beginning":
            return self.cursor(await self.store.read(lambda reader: reader.trimmed()))
        return await self.within(await self.parse(text))

    async def within(self, cursor: Cursor) -> Cursor:
        """`cursor`, when the log can be read after it; else raises `CursorExpired`."""
        trimmed, head = await self.store.read(lambda reader: (reader.trimmed(), reader.head()))
        if cursor.position < trimmed:
            raise self.expired(cursor, trimmed)
        # A part is one of the change behind the position: where that is the head, there is none.
        if cursor.position > head or (cursor.part and cursor.position == head):
            raise CursorExpired(
                f"cursor {cursor} is ahead of this log, which may have been restored from an "
                "older copy; read the current state and go on from there",
                reason="ahead",
                earliest=str(self.cursor(trimmed)),
            )
        return cursor

    async def parse(self, text: str) -> Cursor:
        """A cursor of this log, however old.

        Raises `InvalidCursor`; `CursorExpired` for one of another log, with the earliest cursor
        of this one.
        """
        try:
            return Cursor.parse(text, log_id=self.store.log_id)
        except CursorExpired as error:
            trimmed = await self.store.read(lambda reader: reader.trimmed())
            error.fields["earliest"] = str(self.cursor(trimmed))
            raise

    def expired(self, cursor: Cursor, trimmed: Position) -> CursorExpired:
        return CursorExpired(
            f"cursor {cursor} is older than what the log keeps; read the current state "
            "(an export's summary gives its cursor) and go on from there",
            reason="trimmed",
            earliest=str(self.cursor(trimmed)),
        )

    async def read(
        self,
        after: Position,
        limit: int,
        *,
        library_ids: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> LogPage:
        """A page from the store; see `Reader.log`. Raises `CursorExpired`."""
        return await self.store.read(
            lambda reader: reader.log(after, limit, library_ids=library_ids, types=types)
        )
