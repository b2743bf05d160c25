"""Views that live in one thread: an index per library, kept up with the log.

`KeywordViews` and the metadata view are made of this. Their indexes are slow to change and belong
to one thread (`index_lane.py`), so everything that touches one is a job there, and only the loop
decides what comes next. `opening.py` brings an index up, `eviction.py` says which must go. One that
could not apply a change must never answer again: it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from headwater.changes.bell import Bell
from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import (
    CursorExpired,
    HeadwaterError,
    LibraryNotFound,
    NotCaughtUp,
    ShuttingDown,
    Unavailable,
)
from headwater.model import Change, Library, Position
from headwater.search.eviction import overweight
from headwater.search.following import (
    TYPES,
    FollowerStatus,
    FollowingIndex,
    Index,
    LogStretch,
    Slot,
    Unusable,
    read_stretch,
)
from headwater.search.index_lane import IndexLane, unpanicked
from headwater.search.opening import Opening, gone
from headwater.search.page import DELETED, REBUILDING
from headwater.settings import SearchSettings
from headwater.store.base import Reader
from headwater.threads import Pool

T = TypeVar("T")

_PASSES_PER_TURN = 32
_RETRY_S = 0.2
_CLOSE_S = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a turn of following did: the indexes it changed, or why they failed."""

    through: Position
    deleted: list[str]
    outdated: set[str]
    changed: dict[str, tuple[int, int]]
    failed: dict[str, Exception]


class Follower(Generic[Index]):
    """The indexes of one kind for all libraries in use. Loop only; the work is done on one lane.

    `make` gives a library's index, not yet restored or begun, and is called on the loop; `discard`
    takes away what is kept of a deleted library, in the lane's thread. Over `memory_bytes` the
    indexes used longest ago are closed.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Library], Index],
        settings: SearchSettings,
        log: Log,
        clock: Clock,
        *,
        memory_bytes: int,
        discard: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._make = make
        self._discard = discard
        self._settings = settings
        self._log = log
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._slots: dict[str, Slot[Index]] = {}
        self._suspect: dict[str, str] = {}
        """Libraries whose index failed: what is kept of it is not to be used, and why."""
        self._applied = Bell()
        self._heavy = anyio.Event()
        """Set when the indexes take more memory than they may."""
        self._crowded = False
        """They still did after the last look, as questions waited or some were being made."""
        self._turn = anyio.Lock(fast_acquire=True)
        """Held while changes are applied, and while an index joins those they are applied to."""
        self._lane = IndexLane(name)
        self._opening: Opening[Index] = Opening(self._lane, self._weigh, clock)
        self._beside = IndexLane(f"{name}-anew")
        """Makes indexes anew while the lane's answer: neither is ever touched by both at once."""
        self._renewing: Opening[Index] = Opening(self._beside, self._weigh, clock)
        self._under_way: dict[str, anyio.Event] = {}
        self._unfinished: dict[str, Slot[Index]] = {}
        """What is being made anew."""
        self._group: anyio.abc.TaskGroup | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the log until cancelled, then close every index, keeping what can be kept."""
        self._applied.ring(self._log.head)
        try:
            async with anyio.create_task_group() as group:
                await group.start(self._lane.run, self._log.store)
                await group.start(self._beside.run, self._log.store)
                group.start_soon(self._follow)
                group.start_soon(self._tend)
                self._group = group
                task_status.started()
                try:
                    await anyio.sleep_forever()
                finally:
                    self._group = None
        finally:
            # The lane's thread has been joined: nobody else touches an index any more.
            with anyio.CancelScope(shield=True):
                deadline = self._clock.monotonic() + _CLOSE_S
                await Pool(f"{self.name}-close", 1).call(self._close_all, deadline)

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    async def ask(self, library: Library, question: Callable[[Index], T]) -> tuple[T, Position]:
        """`question`'s answer, given in the lane's thread, and a position it had reached.

        Opens the index when it is not open, and first waits until it has applied everything that
        was committed when the call was made. Raises `NotCaughtUp` when all that takes longer than
        the settings allow, and whatever `question` raises; a question that raises `Unusable`
        costs the index, which is made anew.
        """
        target = self._log.head
        with anyio.move_on_after(self._settings.max_wait.total_seconds()):
            slot = await self._reached(library, target)
            # Nothing is awaited between the check and the submission: a job that closes the
            # index can only come after this one.
            position = max(slot.position, self._applied.position)
            try:
                return await self._lane.do(partial(question, slot.index)), position
            except Unusable as error:
                self._fail(slot, error)
                raise self._error_of(slot) from error
            finally:
                if self._crowded:
                    self._weigh()
        raise self._behind(library.id, target)

    async def _reached(self, library: Library, target: Position) -> Slot[Index]:
        """The library's index once it has applied `target`, to be asked at once."""
        while True:
            slot = self._open(library)
            slot.asked += 1
            try:
                await slot.done.wait()
                if slot.error is not None:
                    raise self._error_of(slot)
                if self._applied.position < target:
                    await self._applied.wait_past(target - 1)
            finally:
                slot.asked -= 1
            if self._slots.get(library.id) is slot and slot.ready:
                return slot

    async def caught_up(self, library_id: str, position: Position) -> None:
        """Return when a question asked now would see `position`. At once when not loaded.

        Raises `NotCaughtUp` when that takes longer than the settings allow.
        """
        slot = self._slots.get(library_id)
        if slot is None or not slot.ready or self._applied.position >= position:
            return
        with anyio.move_on_after(self._settings.max_wait.total_seconds()):
            await self._applied.wait_past(position - 1)
            return
        raise self._behind(library_id, position)

    def open(self, library: Library) -> None:
        """Begin to open the index without waiting. Does nothing when it is, or when stopping."""
        if self._group is not None:
            self._open(library)

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
        while True:
            slot = self._open(library)
            await slot.done.wait()
            if slot.error is not None:
                raise self._error_of(slot)
            if self._applied.position < position:
                await self._applied.wait_past(position - 1)
            elif slot.outdated:
                self._renew(slot)
                await self._under_way[slot.id].wait()
                if slot.error is not None and self._slots.get(slot.id) is slot:
                    raise self._error_of(slot)
            elif self._slots.get(library.id) is slot:
                return self._status(slot)

    def status(self) -> list[FollowerStatus]:
        return [self._status(slot) for slot in self._slots.values()]

    def _status(self, slot: Slot[Index]) -> FollowerStatus:
        return FollowerStatus(
            slot.id,
            slot.state,
            self._applied.position if slot.ready else slot.position,
            slot.rows,
            slot.memory_bytes,
            slot.reason,
        )

    # ── Opening ─────────────────────────────────────────────────────────────────────────────────

    def _open(self, library: Library) -> Slot[Index]:
        if self._group is None:
            raise ShuttingDown(f"the {self.name} views are not running; connect again in a moment")
        now = self._clock.monotonic()
        slot = self._slots.get(library.id)
        if slot is None or slot.state == "failed":
            slot = Slot(library, self._make(library), now)
            self._slots[library.id] = slot
            self._group.start_soon(self._bring_up, slot)
        slot.used_at = now
        return slot

    async def _bring_up(self, slot: Slot[Index]) -> None:
        suspect = self._suspect.pop(slot.id, None)
        try:
            await self._opening.bring_up(slot, suspect)
            await self._join(slot)
        except Exception as error:
            # The task's root: those who wait hear of it, and the next question tries again.
            expected = isinstance(error, HeadwaterError)
            if expected:
                log.warning("view.not_loaded", kind=self.name, library=slot.id, error=str(error))
                if suspect is not None:
                    self._suspect.setdefault(slot.id, suspect)
            else:
                log.exception("view.not_loaded", kind=self.name, library=slot.id)
                self._suspect[slot.id] = f"the index failed: {error}"
            if not slot.done.is_set():
                slot.failed(error)
            await self._lane.unheard(partial(slot.index.close, None, spoilt=not expected))
            if isinstance(error, LibraryNotFound):
                self._suspect.pop(slot.id, None)
                if self._slots.get(slot.id) is slot:
                    del self._slots[slot.id]
                if self._discard is not None:
                    await self._lane.unheard(partial(self._discard, slot.id))
            return
        if slot.outdated:
            self._renew(slot)
        log.info(
            "view.ready", kind=self.name, library=slot.id, rows=slot.rows, position=slot.position
        )

    async def _join(self, slot: Slot[Index]) -> None:
        """Make an index one of those that `_follow` serves, without a gap.

        While the turn is held nothing is applied, so the last page ends at or past the place
        where the others are.
        """
        while not await self._opening.catch_up(slot):
            self._weigh()
        async with self._turn:
            while not await self._opening.catch_up(slot) or (
                slot.position < self._applied.position
            ):
                pass
            if slot.error is not None:
                raise slot.error
            slot.became_ready()
            self._weigh()

    # ── Making anew ─────────────────────────────────────────────────────────────────────────────

    def _renew(self, slot: Slot[Index]) -> None:
        """The index is outdated: make another beside it, unless that has begun.

        What is kept of it goes first, so that a process that dies meanwhile begins with nothing.
        """
        slot.outdated = True
        if self._group is not None and slot.id not in self._under_way:
            self._under_way[slot.id] = anyio.Event()
            self._group.start_soon(self._make_anew, slot)

    async def _make_anew(self, old: Slot[Index]) -> None:
        new = Slot(old.library, self._make(old.library), self._clock.monotonic())
        self._unfinished[old.id] = new
        try:
            await self._lane.do(old.index.disown)
            await self._renewing.renew(new)
            while not await self._renewing.catch_up(new):
                pass
            async with self._turn:
                while not await self._renewing.catch_up(new) or (
                    new.position < self._applied.position
                ):
                    pass
                if self._slots.get(old.id) is not old or not old.ready:
                    raise gone(old.id)
                new.index.gentle = False
                new.used_at, new.asked = old.used_at, 0
                new.became_ready()
                self._slots[old.id] = new
                del self._unfinished[old.id]
            self._lane.soon(partial(old.index.close, None))
            log.info("view.renewed", kind=self.name, library=new.id, rows=new.rows)
        except Exception as error:
            # The task's root. What is kept of the old one is gone: it must be made again.
            if not isinstance(error, HeadwaterError):
                log.exception("view.not_renewed", kind=self.name, library=old.id)
            await self._beside.unheard(partial(new.index.close, None, spoilt=True))
            del self._unfinished[old.id]
            if self._slots.get(old.id) is old and old.ready:
                self._fail(old, error)
        finally:
            self._under_way.pop(old.id).set()
            self._weigh()
        if new.ready and new.outdated:
            self._renew(new)

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        while True:
            await self._log.bell.wait_past(self._applied.position)
            try:
                async with self._turn:
                    if not self._pass_over():
                        await self._take_turn()
            except CursorExpired:
                self._start_over()
            except Unavailable as error:
                log.warning("views.waiting_for_store", kind=self.name, error=str(error))
                await anyio.sleep(_RETRY_S)
            await anyio.lowlevel.checkpoint()

    def _pass_over(self) -> bool:
        """Go past recent commits that concern no index here: they cost the thread nothing."""
        for number in range(_PASSES_PER_TURN):
            committed = self._log.ring.after(self._applied.position)
            if committed is None or any(map(self._concerns, committed.changes)):
                return number > 0
            self._applied.ring(committed.through)
        return True

    def _concerns(self, change: Change) -> bool:
        if change.type in (DELETED, REBUILDING):
            return True
        slot = self._slots.get(change.library_id or "")
        return slot is not None and slot.ready and change.type in TYPES

    async def _take_turn(self) -> None:
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
        for library_id in turn.deleted:
            self._deleted(library_id)
        for library_id in turn.outdated:
            slot = self._slots.get(library_id)
            if slot is not None and slot.ready:
                self._renew(slot)
        self._applied.ring(turn.through)
        if turn.changed:
            self._weigh()

    def _fail(self, slot: Slot[Index], error: Exception) -> None:
        if slot.state == "failed":
            return
        log.error("view.failed", kind=self.name, library=slot.id, error=str(error))
        self._suspect[slot.id] = f"the index failed: {error}"
        slot.failed(error if isinstance(error, HeadwaterError) else self._broken(slot.id, error))
        self._lane.soon(partial(slot.index.close, None, spoilt=True))

    def _deleted(self, library_id: str) -> None:
        self._suspect.pop(library_id, None)
        slot = self._slots.pop(library_id, None)
        if slot is not None:
            was_open = slot.ready
            slot.failed(gone(library_id))
            if not was_open:
                return  # `_bring_up` lets go of it
            self._lane.soon(partial(slot.index.close, None))
        if self._discard is not None:
            self._lane.soon(partial(self._discard, library_id))

    def _start_over(self) -> None:
        """The log was trimmed past us: what is loaded cannot be brought up to date any more."""
        for slot in list(self._slots.values()):
            if slot.ready:
                reason = "the log was trimmed past this view"
                self._fail(slot, NotCaughtUp(f"{reason}; it is made again at the next search"))
        self._applied.ring(self._log.head)

    # ── Looking after ───────────────────────────────────────────────────────────────────────────

    async def _tend(self) -> None:
        """Keep what stands still from falling off the log's end, and memory within its bound.

        In between sizes are taken too, as questions also make an index larger.
        """
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
            if slot.id in self._under_way:
                continue  # there is another in its place soon
            del self._slots[slot.id]
            self._lane.soon(partial(slot.index.close, self._applied.position))
            log.info("view.evicted", kind=self.name, library=slot.id)
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
                    log.exception("view.not_applied", kind=self.name, library=library_id)
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
                log.exception("view.not_committed", kind=self.name, library=library_id)
                failed[library_id] = error
                continue
            changed[library_id] = index.rows, index.memory_bytes
        return _Turn(page.through, page.deleted, page.outdated, changed, failed)

    def _close_all(self, deadline: float) -> None:
        for slot in self._unfinished.values():
            slot.index.close(None, spoilt=True)
        for slot in self._slots.values():
            keeps = slot.ready and self._clock.monotonic() <= deadline
            slot.index.close(
                self._applied.position if keeps else None, spoilt=slot.state == "failed"
            )

    # ── Errors ──────────────────────────────────────────────────────────────────────────────────

    def _error_of(self, slot: Slot[Index]) -> HeadwaterError:
        if isinstance(slot.error, HeadwaterError):
            return slot.error
        return self._broken(slot.id, slot.error)

    def _broken(self, library_id: str, error: Exception | None) -> Unavailable:
        return Unavailable(
            f"the {self.name} index of library {library_id} could not be used ({error}); it is "
            "made anew, try again, and see the server's log",
            library_id=library_id,
        )

    def _behind(self, library_id: str, position: Position) -> NotCaughtUp:
        slot = self._slots.get(library_id)
        at = self._applied.position if slot is None or slot.ready else slot.position
        return NotCaughtUp(
            f"the {self.name} index of library {library_id} is at {self._log.cursor(at)}, not yet "
            f"at {self._log.cursor(position)}; what was written is kept, ask again in a moment",
            state="not loaded" if slot is None else slot.state,
        )


def _settled(index: FollowingIndex, position: Position) -> tuple[int, int]:
    index.commit(position)
    return index.rows, index.memory_bytes
