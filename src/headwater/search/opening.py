"""How an index comes to where the log is: from what was kept, or else anew from the store.

`Follower` asks for it when a library is first used. All of it is jobs on the kind's lane, one page
at a time, so that other libraries are answered in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic

import anyio
import structlog

from headwater.clock import Clock
from headwater.errors import CursorExpired, LibraryNotFound
from headwater.model import Position
from headwater.search.following import Index, LaneSlot, LogStretch, Unusable, read_stretch
from headwater.search.index_lane import IndexLane
from headwater.store.base import Reader

_PAUSE_RATIO = 3.0
"""Its work holds the GIL most of the time, which searches need in between."""

log = structlog.get_logger(__name__)


class Opening(Generic[Index]):
    """Loop only. `grown` is called after every page that an index has grown by."""

    def __init__(self, lane: IndexLane, grown: Callable[[], None], clock: Clock) -> None:
        self._lane = lane
        self._clock = clock
        self._grown = grown

    async def bring_up(self, slot: LaneSlot[Index], suspect: str | None) -> None:
        """Make an index that holds what the store does; `catch_up` goes on from there.

        `suspect` says why what is kept is not to be used. Raises `LibraryNotFound`,
        `CursorExpired`, and what the index does.
        """
        if not await self._lane.read(partial(_exists, id=slot.id)):
            raise gone(slot.id)
        reason = await self._restore(slot, suspect)
        if reason is not None:
            await self._rebuild(slot, reason)

    async def catch_up(self, slot: LaneSlot[Index]) -> bool:
        """Apply one page of the log; whether that was all.

        Raises `CursorExpired`, `LibraryNotFound`.
        """
        page, slot.rows, slot.memory_bytes = await self._lane.do(
            partial(self._apply, slot.index, slot.id, slot.position)
        )
        slot.position = page.through
        slot.outdated = slot.outdated or slot.id in page.outdated
        if slot.id in page.deleted:
            raise gone(slot.id)
        return page.through >= page.head

    async def _restore(self, slot: LaneSlot[Index], suspect: str | None) -> str | None:
        """Go on from what was kept. Returns why that cannot be, "" when there is nothing."""
        if suspect is not None:
            return suspect
        try:
            position = await self._lane.do(slot.index.restore)
            if position is None:
                return ""
            head = await self._lane.read(_head)
            if position > head:
                return f"what was kept is at {position}, ahead of the log at {head}"
            slot.position = position
            slot.state = "replaying"
            while not await self.catch_up(slot):
                self._grown()
        except Unusable as error:
            return str(error)
        except CursorExpired:
            return "the log no longer reaches back to what was kept"
        return None

    async def renew(self, slot: LaneSlot[Index]) -> None:
        """Make an index beside the one that answers, at a quarter of the time this could take.

        Raises as `bring_up`.
        """
        if not await self._lane.read(partial(_exists, id=slot.id)):
            raise gone(slot.id)
        slot.index.gentle = True
        await self._rebuild(slot, "", pause=_PAUSE_RATIO)

    async def _rebuild(self, slot: LaneSlot[Index], reason: str, *, pause: float = 0) -> None:
        if reason:
            log.warning("view.rebuilding", kind=self._lane.name, library=slot.id, reason=reason)
        slot.state = "rebuilding"
        slot.reason = reason or None
        await self._lane.do(slot.index.begin)
        # What is committed from here on is replayed afterwards, whether a page held it or not.
        slot.position = await self._lane.read(_head)
        after: int | None = 0
        began_s = self._clock.monotonic()
        while after is not None:
            after, slot.rows, slot.memory_bytes = await self._lane.do(
                partial(self._fill, slot.index, after)
            )
            self._grown()
            if pause:
                now_s = self._clock.monotonic()
                await anyio.sleep(pause * (now_s - began_s))
                began_s = self._clock.monotonic()
        await self._lane.do(partial(slot.index.commit, slot.position))

    # ── In the lane's thread ────────────────────────────────────────────────────────────────────

    def _fill(self, index: Index, after: int) -> tuple[int | None, int, int]:
        next_after = self._lane.reading(lambda reader: index.fill(reader, after))
        return next_after, index.rows, index.memory_bytes

    def _apply(self, index: Index, id: str, after: Position) -> tuple[LogStretch, int, int]:
        def apply(reader: Reader) -> LogStretch:
            page = read_stretch(reader, after, {id: index}, only=id)
            own = page.changes.get(id)
            if own:
                index.apply(reader, own)
            return page

        page = self._lane.reading(apply)
        if page.changes:
            index.commit(page.through)
        return page, index.rows, index.memory_bytes


def gone(library_id: str) -> LibraryNotFound:
    return LibraryNotFound(f"library {library_id} is gone", id=library_id)


def _head(reader: Reader) -> Position:
    return reader.head()


def _exists(reader: Reader, id: str) -> bool:
    library = reader.library(id)
    return library is not None and library.id == id
