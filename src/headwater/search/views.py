"""Views that follow the log, one per library in use: what those of every kind have in common.

`LocalViews` (vectors) and `Follower` (words and metadata, in a thread of their own) say what a
view is made of and how a commit is applied. A view is opened when first used. It is a cache of the
store and nothing else: one that could not apply a change never answers again, and is made anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from headwater.changes.bell import Bell, Place
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
from headwater.model import Committed, Library, Position
from headwater.search.renewal import Renewals
from headwater.search.slot import Slot
from headwater.settings import SearchSettings

S = TypeVar("S", bound=Slot[Any])
Part = Callable[..., Coroutine[Any, Any, None]]
"""A `run` that says `started` by its `task_status`."""

_RETRY_S = 0.2

log = structlog.get_logger(__name__)


class Views(ABC, Generic[S]):
    """The views of one kind. Loop only."""

    place: Place = 2
    """When news are applied, among those who follow the log: `Bell.wait_past`."""

    commits_per_turn = 8
    """How many recent commits `_follow` goes past before others have their turn of the loop."""

    def __init__(self, kind: str, settings: SearchSettings, log: Log, clock: Clock) -> None:
        self.kind = kind
        self._settings = settings
        self._log = log
        self._clock = clock
        self._slots: dict[str, S] = {}
        self._suspect: dict[str, str] = {}
        """Libraries whose view failed: what is kept of it is not to be used, and why."""
        self._applied = Bell()
        self._turn = anyio.Lock(fast_acquire=True)
        """Held while changes are applied, and while a view joins those they are applied to."""
        self._renewals: Renewals[S] = Renewals(kind, self._slots, self._make_anew)
        self._group: anyio.abc.TaskGroup | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the log until cancelled, then keep what can be kept."""
        self._applied.ring(self._log.head)
        try:
            async with anyio.create_task_group() as group:
                for part in self._parts():
                    await group.start(part)
                await group.start(self._renewals.run)
                group.start_soon(self._follow)
                self._group = group
                task_status.started()
                try:
                    await anyio.sleep_forever()
                finally:
                    self._group = None
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    # ── What a kind says of itself ──────────────────────────────────────────────────────────────

    @abstractmethod
    def _parts(self) -> Iterable[Part]:
        """What runs beside, each begun once the one before has started."""

    @abstractmethod
    async def _close(self) -> None:
        """Keep what can be kept: nothing of it runs any more."""

    @abstractmethod
    def _slot(self, library: Library) -> S:
        """An empty one."""

    @abstractmethod
    async def _fill(self, slot: S, suspect: str | None) -> None:
        """Put in what the store holds, from what is kept unless that is `suspect`; then `_join`."""

    @abstractmethod
    async def _catch_up(self, slot: S) -> bool:
        """Apply one page of the log to one that has not joined; whether that was all."""

    @abstractmethod
    async def _make_anew(self, old: S) -> None:
        """Make another beside one that answers, and `_replace` that. See `Renewals`."""

    @abstractmethod
    def _take(self, committed: Committed) -> bool:
        """Go past a recent commit, as applied; False: it takes a page."""

    @abstractmethod
    async def _take_page(self) -> None:
        """Apply a page of the log to all that are ready. Raises `CursorExpired`, `Unavailable`."""

    @abstractmethod
    def _let_go(self, slot: S, *, spoilt: bool = False) -> None:
        """It is out of use; `spoilt`: nothing is to be kept of it."""

    @abstractmethod
    def _discard(self, library_id: str) -> None:
        """Take away what is kept of a deleted library."""

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    async def caught_up(self, library_id: str, position: Position) -> None:
        """Return when a question asked now would see `position`. At once when not loaded.

        Raises `NotCaughtUp` when that takes longer than the settings allow.
        """
        slot = self._slots.get(library_id)
        if slot is None or not slot.ready or self._position_of(slot) >= position:
            return
        with anyio.move_on_after(self._settings.max_wait.total_seconds()):
            await self._applied.wait_past(position - 1)
            return
        raise self._behind(library_id, position)

    def open(self, library: Library) -> None:
        """Begin to open the view without waiting. Does nothing when it is, or when stopping."""
        if self._group is not None:
            self._open(library)

    def _position_of(self, slot: S) -> Position:
        return max(slot.position, self._applied.position) if slot.ready else slot.position

    async def _current(self, library: Library) -> S:
        """The library's view once it has applied all that was committed when this was called."""
        target = self._log.head
        slot = self._slots.get(library.id)
        if slot is not None and slot.ready and self._position_of(slot) >= target:
            slot.used_at = self._clock.monotonic()
            return slot
        with anyio.move_on_after(self._settings.max_wait.total_seconds()):
            while True:
                slot = self._open(library)
                slot.asked += 1
                try:
                    await self._reach(slot, target)
                finally:
                    slot.asked -= 1
                if self._slots.get(library.id) is slot and slot.ready:
                    return slot
        raise self._behind(library.id, target)

    async def _renewed(self, library: Library, position: Position) -> S:
        """The view that was made anew after an `index.rebuilding` change at `position`.

        Raises what keeps it from being made.
        """
        while True:
            slot = self._open(library)
            await self._reach(slot, position)
            if slot.outdated:
                error = await self._renewals.finished(slot)
                if error is not None:
                    raise self._told(slot.id, error)
            elif self._slots.get(library.id) is slot and slot.ready:
                return slot

    async def _reach(self, slot: S, position: Position) -> None:
        await slot.done.wait()
        if slot.error is not None:
            raise self._told(slot.id, slot.error)
        if self._position_of(slot) < position:
            await self._applied.wait_past(position - 1)

    # ── Opening ─────────────────────────────────────────────────────────────────────────────────

    def _open(self, library: Library) -> S:
        """The library's view; begins to bring it up when it is not there, or has failed."""
        if self._group is None:
            raise ShuttingDown(f"the {self.kind} views are not running; connect again in a moment")
        slot = self._slots.get(library.id)
        if slot is None or slot.state == "failed":
            slot = self._slots[library.id] = self._slot(library)
            self._group.start_soon(self._bring_up, slot)
        slot.used_at = self._clock.monotonic()
        return slot

    async def _bring_up(self, slot: S) -> None:
        suspect = self._suspect.pop(slot.id, None)
        try:
            await self._fill(slot, suspect)
        except Exception as error:
            # The task's root: those who wait hear of it, and the next question tries again.
            expected = isinstance(error, HeadwaterError)
            if expected:
                log.warning("view.not_loaded", kind=self.kind, library=slot.id, error=str(error))
            else:
                log.exception("view.not_loaded", kind=self.kind, library=slot.id)
                suspect = f"the index failed: {error}"
            if not slot.done.is_set():
                slot.failed(error)
            self._let_go(slot, spoilt=not expected)
            if isinstance(slot.error, LibraryNotFound):
                if self._slots.get(slot.id) is slot:
                    del self._slots[slot.id]
                self._discard(slot.id)
            elif suspect is not None:
                self._suspect.setdefault(slot.id, suspect)
            return
        if slot.outdated:
            self._renewals.begin(slot)
        log.info(
            "view.ready", kind=self.kind, library=slot.id, rows=slot.rows, position=slot.position
        )

    async def _join(self, slot: S) -> None:
        """Make a filled view one of those that `_follow` serves, without a gap."""
        async with self._turn:
            await self._meet(slot)
            if slot.error is not None:
                raise slot.error
            slot.became_ready()

    async def _replace(self, old: S, new: S) -> bool:
        """Put a filled view in the place of one that answers, likewise; whether that still did."""
        async with self._turn:
            await self._meet(new)
            if self._slots.get(old.id) is not old or not old.ready:
                return False  # whoever asks next opens another one
            took_ms = round((self._clock.monotonic() - new.used_at) * 1000)
            new.used_at = old.used_at
            new.became_ready()
            self._slots[old.id] = new
        log.info("view.renewed", kind=self.kind, library=new.id, rows=new.rows, ms=took_ms)
        return True

    async def _meet(self, slot: S) -> None:
        """Bring it to where the others are.

        While the turn is held nothing is applied to them, so the last page ends there or past it.
        """
        while not await self._catch_up(slot) or slot.position < self._applied.position:
            pass

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    async def _follow(self) -> None:
        while True:
            await self._log.bell.wait_past(self._applied.position, place=self.place)
            try:
                async with self._turn:
                    if not self._drain():
                        await self._take_page()
            except CursorExpired:
                self._start_over()
            except Unavailable as error:
                log.warning("views.waiting_for_store", kind=self.kind, error=str(error))
                await anyio.sleep(_RETRY_S)
            await anyio.lowlevel.checkpoint()

    def _drain(self) -> bool:
        """Take what the ring has, as far as one turn of the loop should go; False: nothing."""
        for number in range(self.commits_per_turn):
            committed = self._log.ring.after(self._applied.position)
            if committed is None or not self._take(committed):
                return number > 0
        return True

    def _fail(self, slot: S, error: Exception) -> None:
        """A view that missed a change must never answer again: it is made anew from the store."""
        if slot.state == "failed":
            return
        log.error("view.failed", kind=self.kind, library=slot.id, error=str(error))
        self._suspect[slot.id] = f"the index failed: {error}"
        slot.failed(self._told(slot.id, error))
        self._let_go(slot, spoilt=True)

    def _deleted(self, library_id: str) -> None:
        self._suspect.pop(library_id, None)
        slot = self._slots.pop(library_id, None)
        if slot is not None:
            was_done = slot.done.is_set()
            slot.failed(LibraryNotFound(f"library {library_id} is gone", id=library_id))
            if not was_done:
                return  # `_bring_up` lets go of it, and discards what is kept
            self._let_go(slot)
        self._discard(library_id)

    def _outdated(self, library_id: str) -> None:
        """Somebody wants it made anew. One that is being opened meets that by itself."""
        slot = self._slots.get(library_id)
        if slot is not None and slot.ready:
            self._renewals.begin(slot)

    def _start_over(self) -> None:
        """The log was trimmed past us: what is ready cannot be brought up to date any more."""
        log.error("views.log_trimmed", kind=self.kind, position=self._applied.position)
        reason = "the log was trimmed past this view; it is made again when next asked"
        for slot in list(self._slots.values()):
            if slot.ready:
                self._fail(slot, NotCaughtUp(reason))
        self._applied.ring(self._log.head)

    # ── Errors ──────────────────────────────────────────────────────────────────────────────────

    def _told(self, library_id: str, error: Exception) -> HeadwaterError:
        """What is raised at those who ask."""
        if isinstance(error, HeadwaterError):
            return error
        return Unavailable(
            f"the {self.kind} index of library {library_id} could not be used ({error}); it is "
            "made anew, try again, and see the server's log",
            library_id=library_id,
        )

    def _behind(self, library_id: str, position: Position) -> NotCaughtUp:
        slot = self._slots.get(library_id)
        at = self._applied.position if slot is None else self._position_of(slot)
        return NotCaughtUp(
            f"the {self.kind} index of library {library_id} is at {self._log.cursor(at)}, not yet "
            f"at {self._log.cursor(position)}; what was written is kept, ask again in a moment",
            state="not loaded" if slot is None else slot.state,
        )
