"""Views that live in one thread: an index per library, kept up with the log.

`KeywordViews` and the metadata view are made of this. Their indexes are slow to change and belong
to one thread (`index_lane.py`), so everything that touches one is a job there, and only the loop
decides what comes next. `opening.py` brings an index up, `eviction.py` says which must go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.abc
import structlog

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import Unavailable
from headwater.model import Change, Committed, Library, Position
from headwater.search.eviction import overweight
from headwater.search.following import (
    TYPES,
    FollowerStatus,
    FollowingIndex,
    Index,
    LaneSlot,
    LogStretch,
    Unusable,
    read_stretch,
)
from headwater.search.index_lane import IndexLane, unpanicked
from headwater.search.opening import Opening, gone
from headwater.search.page import DELETED, REBUILDING
from headwater.search.views import Part, Views
from headwater.settings import SearchSettings
from headwater.store.base import Reader
from headwater.threads import Pool

T = TypeVar("T")

_CLOSE_S = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a page did: the indexes it changed, or why they failed."""

    page: LogStretch
    changed: dict[str, tuple[int, int]]
    failed: dict[str, Exception]


class Follower(Views[LaneSlot[Index]]):
    """The indexes of one kind for all libraries in use. Loop only; the work is done on one lane.

    `make` gives a library's index, not yet restored or begun, and is called on the loop; `discard`
    takes away what is kept of a deleted library, in the lane's thread. Over `memory_bytes` the
    indexes used longest ago are closed.
    """

    commits_per_turn = 32

    def __init__(
        self,
        kind: str,
        make: Callable[[Library], Index],
        settings: SearchSettings,
        log: Log,
        clock: Clock,
        *,
        memory_bytes: int,
        discard: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(kind, settings, log, clock)
        self._make = make
        self._discard_kept = discard
        self._memory_bytes = memory_bytes
        self._heavy = anyio.Event()
        """Set when the indexes take more memory than they may."""
        self._crowded = False
        """They still did after the last look, as questions waited or some were being made."""
        self._lane = IndexLane(kind)
        self._opening: Opening[Index] = Opening(self._lane, self._weigh, clock)
        self._beside = IndexLane(f"{kind}-anew")
        """Makes indexes anew while the lane's answer: neither is ever touched by both at once."""
        self._renewing: Opening[Index] = Opening(self._beside, self._weigh, clock)
        self._unfinished: LaneSlot[Index] | None = None
        """What is being made anew."""

    async def ask(self, library: Library, question: Callable[[Index], T]) -> tuple[T, Position]:
        """`question`'s answer, given in the lane's thread, and a position it had reached.

        Opens the index when it is not open, and first waits until it has applied everything that
        was committed when the call was made. Raises `NotCaughtUp` when all that takes longer than
        the settings allow, and whatever `question` raises; a question that raises `Unusable`
        costs the index, which is made anew.
        """
        target = self._log.head
        with anyio.move_on_after(self._settings.max_wait.total_seconds()):
            slot = await self._current(library)
            # Nothing is awaited between the check and the submission: a job that closes the
            # index can only come after this one.
            position = self._position_of(slot)
            try:
                return await self._lane.do(partial(question, slot.index)), position
            except Unusable as error:
                self._fail(slot, error)
                raise self._told(slot.id, error) from error
            finally:
                if self._crowded:
                    self._weigh()
        raise self._behind(library.id, target)

    async def warm(self, library: Library) -> None:
        """Open the index and wait until it is, or could not be: that is in the log."""
        if self._group is not None:
            await self._open(library).done.wait()

    def opened(self, library_id: str) -> bool:
        """Whether the library's index is open or being opened."""
        slot = self._slots.get(library_id)
        return slot is not None and slot.state != "failed"

    async def renewed(self, library: Library, position: Position) -> FollowerStatus:
        """Return when the index was made anew after an `index.rebuilding` change at `position`.

        Questions are answered by the old one meanwhile. Raises what keeps it from being made.
        """
        return self._status(await self._renewed(library, position))

    def status(self) -> list[FollowerStatus]:
        return [self._status(slot) for slot in self._slots.values()]

    def _status(self, slot: LaneSlot[Index]) -> FollowerStatus:
        return FollowerStatus(
            slot.id,
            slot.state,
            self._position_of(slot),
            slot.rows,
            slot.memory_bytes,
            slot.reason,
        )

    # ── From nothing to the end ─────────────────────────────────────────────────────────────────

    def _parts(self) -> Iterable[Part]:
        store = self._log.store
        return partial(self._lane.run, store), partial(self._beside.run, store), self._tend

    def _slot(self, library: Library) -> LaneSlot[Index]:
        return LaneSlot(library, self._make(library), self._clock.monotonic())

    async def _fill(self, slot: LaneSlot[Index], suspect: str | None) -> None:
        await self._opening.bring_up(slot, suspect)
        while not await self._catch_up(slot):
            self._weigh()
        await self._join(slot)
        self._weigh()

    async def _catch_up(self, slot: LaneSlot[Index]) -> bool:
        return await (self._renewing if slot.index.gentle else self._opening).catch_up(slot)

    async def _make_anew(self, old: LaneSlot[Index]) -> None:
        """What is kept of the old one goes first, so that a process that dies meanwhile begins
        with nothing. If it cannot be replaced, it must be made again."""
        new = self._unfinished = self._slot(old.library)
        try:
            await self._lane.do(old.index.disown)
            await self._renewing.renew(new)
            while not await self._catch_up(new):
                pass
            if not await self._replace(old, new):
                raise old.error or gone(old.id)
            self._unfinished = None
            new.index.gentle = False
            self._let_go(old)
        except Exception as error:
            await self._beside.unheard(partial(new.index.close, None, spoilt=True))
            self._unfinished = None
            if self._slots.get(old.id) is old and old.ready:
                self._fail(old, error)
            raise
        finally:
            self._weigh()

    def _let_go(self, slot: LaneSlot[Index], *, spoilt: bool = False) -> None:
        self._lane.soon(partial(slot.index.close, None, spoilt=spoilt))

    def _discard(self, library_id: str) -> None:
        if self._discard_kept is not None:
            self._lane.soon(partial(self._discard_kept, library_id))

    async def _close(self) -> None:
        # The lane's thread has been joined: nobody else touches an index any more.
        deadline = self._clock.monotonic() + _CLOSE_S
        await Pool(f"{self.kind}-close", 1).call(self._close_all, deadline)

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    def _take(self, committed: Committed) -> bool:
        """Go past what concerns no index here: that costs the thread nothing."""
        if any(map(self._concerns, committed.changes)):
            return False
        self._applied.ring(committed.through)
        return True

    def _concerns(self, change: Change) -> bool:
        if change.type in (DELETED, REBUILDING):
            return True
        slot = self._slots.get(change.library_id or "")
        return slot is not None and slot.ready and change.type in TYPES

    async def _take_page(self) -> None:
        ready = {slot.id: slot.index for slot in self._slots.values() if slot.ready}
        turn = await self._lane.do(partial(self._apply, ready, self._applied.position))
        for library_id, facts in turn.changed.items():
            slot = self._slots.get(library_id)
            if slot is not None:
                slot.rows, slot.memory_bytes = facts
        for library_id, error in turn.failed.items():
            slot = self._slots.get(library_id)
            if slot is not None and slot.ready:
                self._fail(slot, error)
        for library_id in turn.page.deleted:
            self._deleted(library_id)
        for library_id in turn.page.outdated:
            self._outdated(library_id)
        self._applied.ring(turn.page.through)
        if turn.changed:
            self._weigh()

    # ── Looking after ───────────────────────────────────────────────────────────────────────────

    async def _tend(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep what stands still from falling off the log's end, and memory within its bound.

        In between sizes are taken too, as questions also make an index larger.
        """
        task_status.started()
        every = self._settings.snapshot_every.total_seconds()
        due = self._clock.monotonic() + every
        while True:
            with anyio.move_on_after(due - self._clock.monotonic()):
                await self._heavy.wait()
            async with self._turn:
                if self._clock.monotonic() >= due:
                    await self._settle()
                    due = self._clock.monotonic() + every
                self._evict()

    async def _settle(self) -> None:
        """Commit everything at the position of this turn."""
        position = self._applied.position
        for slot in list(self._slots.values()):
            if slot.ready:
                try:
                    slot.rows, slot.memory_bytes = await self._lane.do(
                        partial(_settled, slot.index, position)
                    )
                except Unavailable:
                    break
                except Exception as error:  # noqa: BLE001 - the index's, not the task's
                    self._fail(slot, error)

    def _weigh(self) -> None:
        """Something has grown, or may be let go of now: wake `_tend` when it is too much."""
        if overweight(self._slots.values(), self._memory_bytes):
            self._heavy.set()

    def _evict(self) -> None:
        """Let go of what is too much. Only while the turn is held: then every index that is ready
        has applied what `_applied` says, and may be kept as that."""
        self._heavy = anyio.Event()
        for slot in overweight(self._slots.values(), self._memory_bytes):
            if self._renewals.under_way(slot.id):
                continue  # there is another in its place soon
            del self._slots[slot.id]
            self._lane.soon(partial(slot.index.close, self._applied.position))
            log.info("view.evicted", kind=self.kind, library=slot.id)
        total = sum(slot.memory_bytes for slot in self._slots.values())
        self._crowded = len(self._slots) > 1 and total > self._memory_bytes

    # ── In the lane's thread ────────────────────────────────────────────────────────────────────

    def _apply(self, indexes: Mapping[str, Index], after: Position) -> _Turn:
        """Apply one page to everybody and commit: all that is there, however many wrote it."""
        failed: dict[str, Exception] = {}

        def apply(reader: Reader) -> LogStretch:
            failed.clear()
            page = read_stretch(reader, after, indexes)
            for library_id, own in page.changes.items():
                try:
                    unpanicked(partial(indexes[library_id].apply, reader, own))
                except Unavailable:
                    raise
                except Exception as error:
                    log.exception("view.not_applied", kind=self.kind, library=library_id)
                    failed[library_id] = error
            return page

        page = self._lane.reading(apply)
        changed: dict[str, tuple[int, int]] = {}
        for library_id in page.changes:
            if library_id in failed:
                continue
            index = indexes[library_id]
            try:
                unpanicked(partial(index.commit, page.through))
            except Exception as error:
                log.exception("view.not_committed", kind=self.kind, library=library_id)
                failed[library_id] = error
                continue
            changed[library_id] = index.rows, index.memory_bytes
        return _Turn(page, changed, failed)

    def _close_all(self, deadline: float) -> None:
        if self._unfinished is not None:
            self._unfinished.index.close(None, spoilt=True)
        for slot in self._slots.values():
            keeps = slot.ready and self._clock.monotonic() <= deadline
            slot.index.close(
                self._applied.position if keeps else None, spoilt=slot.state == "failed"
            )


def _settled(index: FollowingIndex, position: Position) -> tuple[int, int]:
    index.commit(position)
    return index.rows, index.memory_bytes
