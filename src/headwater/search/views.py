"""The search engine of one process: local views that follow the log.

`follow` hands every commit to the views that are loaded; searches run on lanes, a batch at a
time; loading and upkeep go on beside them. A view is loaded when first used. It is a cache of the
store and nothing else: one that cannot apply a change is dropped, visibly, and made again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import anyio
import anyio.abc
import anyio.lowlevel
import numpy as np
import structlog

from headwater.changes.bell import Bell
from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import (
    CursorExpired,
    DimensionMismatch,
    HeadwaterError,
    LibraryNotFound,
    LibraryRegenerated,
    NotCaughtUp,
    ShuttingDown,
    Unavailable,
)
from headwater.model import AddedVectors, Change, Committed, Library, Position, Rows, Vectors
from headwater.search.base import Allowed, Neighbours, SearchEngine, ViewStatus
from headwater.search.index import VectorIndex
from headwater.search.loader import Loader
from headwater.search.page import (
    DELETED,
    OPTIMIZING,
    REBUILDING,
    REGENERATED,
    Step,
    marks,
    read_page,
)
from headwater.search.parts import Found
from headwater.search.renewal import Renewals
from headwater.search.segment import row_bytes
from headwater.search.sieve import Bitmaps, Sieve
from headwater.search.upkeep import Upkeep
from headwater.search.view import View
from headwater.settings import SearchSettings
from headwater.threads import Lane, Pool

_RETRY = timedelta(milliseconds=200)
_COMMITS_PER_TURN = 8
_ASKS_AT_ONCE = 2
"""Searches a lane takes together. A graph gains nothing from more, and waiting for the whole batch
puts the lane and the loop in lockstep: eight clients got 1,020 answers a second with 64, 1,190
with 2."""
_SAVE_AT_STOP = timedelta(seconds=3)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Ask:
    index: VectorIndex
    queries: Vectors
    k: Sequence[int]
    exact: bool
    sieve: Sieve | None
    ef: int | None


class LocalViews(SearchEngine):
    """Keeps its files below `folder`, one folder per library.

    Of several processes on one folder only the one for which `write_snapshots` is true writes or
    deletes there and announces what was built; the others read.
    """

    def __init__(
        self,
        folder: Path,
        settings: SearchSettings,
        log: Log,
        clock: Clock,
        *,
        write_snapshots: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._log = log
        self._clock = clock
        self._views: dict[str, View] = {}
        self._suspect: dict[str, str] = {}
        """Libraries whose view failed: their snapshot is not to be used, and why."""
        self._bitmaps: WeakKeyDictionary[Allowed, Bitmaps] = WeakKeyDictionary()
        self._applied = Bell()
        self._turn = anyio.Lock(fast_acquire=True)
        self._loader = Loader(folder, settings, log, clock)
        self._upkeep = Upkeep(
            folder,
            settings,
            log,
            clock,
            self._views,
            self._position_of,
            write_snapshots=write_snapshots,
        )
        self._renewals = Renewals(self._views, self._loader, self._upkeep, clock, self._replace)
        self._lanes: list[Lane[_Ask, list[Found]]] = [
            Lane(f"search-{number}", _answer, max_batch=_ASKS_AT_ONCE)
            for number in range(settings.threads)
        ]
        self._next_lane = 0
        self._pool = Pool("index-read", 1)
        self._group: anyio.abc.TaskGroup | None = None
        log.on_news(self._at_once)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self._applied.ring(self._log.head)
        try:
            async with anyio.create_task_group() as group:
                for lane in self._lanes:
                    await group.start(lane.run)
                await group.start(self._upkeep.run)
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
                deadline = self._clock.monotonic() + _SAVE_AT_STOP.total_seconds()
                await self._upkeep.save_all(deadline)

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    async def search(
        self,
        library: Library,
        queries: Vectors,
        k: Sequence[int],
        *,
        exact: bool = False,
        allowed: Allowed | None = None,
        ef: int | None = None,
    ) -> list[Neighbours]:
        if queries.ndim != 2 or queries.shape[1] != library.dimension:
            raise DimensionMismatch(
                f"library {library.name!r} takes vectors of {library.dimension} numbers, "
                f"not {queries.shape[-1]}",
                expected=library.dimension,
                given=queries.shape[-1],
            )
        if not len(queries):
            return []
        view = await self._current(library)
        if view.library.generation != library.generation:
            raise LibraryRegenerated(
                f"the vectors of library {library.name!r} were made anew meanwhile; search again"
            )
        position = self._position_of(view)
        self._next_lane = (self._next_lane + 1) % len(self._lanes)
        lane = self._lanes[self._next_lane]
        sieve = None
        if allowed is not None:
            sieve = Sieve(allowed, self._bitmaps.setdefault(allowed, WeakKeyDictionary()))
        found = await lane.submit(_Ask(view.index, queries, k, exact, sieve, ef))
        return [Neighbours(one.rows, one.scores, position, one.exact, one.steps) for one in found]

    async def caught_up(self, library_id: str, position: Position) -> None:
        view = self._views.get(library_id)
        if view is None or not view.ready or self._position_of(view) >= position:
            return
        with anyio.move_on_after(self._settings.max_wait.total_seconds()):
            await self._applied.wait_past(position - 1)
            return
        raise self._behind(library_id, position)

    def open(self, library: Library) -> None:
        if self._group is not None:
            self._open(library)

    async def warm(self, libraries: Sequence[Library]) -> None:
        for library in libraries:
            used = sum(view.index.memory_bytes for view in self._views.values())
            needed = library.chunks * row_bytes(library.dimension, library.quantization == "int8")
            if used + needed > self._settings.memory_bytes:
                continue
            view = self._open(library)
            await view.done.wait()
            if view.error is not None:
                log.warning("view.not_warm", library=library.id, error=str(view.error))

    def status(self) -> list[ViewStatus]:
        return [view.status(self._position_of(view)) for view in self._views.values()]

    async def renewed(self, library: Library, position: Position) -> ViewStatus:
        while True:
            view = self._open(library)
            await view.done.wait()
            if view.error is not None:
                raise self._unusable(view)
            if self._position_of(view) < position:
                await self._applied.wait_past(position - 1)
            elif view.outdated:
                self._renewals.begin(view)
                await self._renewals.settled(view.id)
            elif self._views.get(view.id) is view:
                return view.status(self._position_of(view))

    async def optimize(self, library: Library) -> ViewStatus:
        view = await self._current(library)
        self._upkeep.optimize(view)
        await self._upkeep.optimized(view)
        return view.status(self._position_of(view))

    async def rows(self, library: Library) -> Rows:
        view = await self._current(library)
        return await self._pool.call(view.index.rows)

    # ── Views ───────────────────────────────────────────────────────────────────────────────────

    def _position_of(self, view: View) -> Position:
        return max(view.position, self._applied.position) if view.ready else view.position

    async def _current(self, library: Library) -> View:
        """The library's view once it has applied all that was committed when this was called."""
        target = self._log.head
        view = self._views.get(library.id)
        if view is not None and view.ready and self._position_of(view) >= target:
            view.used_at = self._clock.monotonic()
            return view
        with anyio.move_on_after(self._settings.max_wait.total_seconds()):
            while True:
                view = self._open(library)
                await view.done.wait()
                if view.error is not None:
                    raise self._unusable(view)
                if self._position_of(view) < target:
                    await self._applied.wait_past(target - 1)
                if self._views.get(library.id) is view and view.ready:
                    return view
        raise self._behind(library.id, target)

    def _open(self, library: Library) -> View:
        """The library's view; starts to load it when it is not loaded, or has failed."""
        if self._group is None:
            raise ShuttingDown("the search views are not running; connect again in a moment")
        now = self._clock.monotonic()
        view = self._views.get(library.id)
        if view is None or view.state == "failed":
            index = self._loader.empty(library)
            view = View(library, index, now)
            self._views[library.id] = view
            self._group.start_soon(self._load, view)
        view.used_at = now
        return view

    async def _load(self, view: View) -> None:
        began = self._clock.monotonic()
        suspect = self._suspect.pop(view.id, None)
        try:
            rebuilt = await self._loader.load(view, self._join, reason=suspect)
        except Exception as error:
            # The task's root: those who wait hear of it, and the next search tries again.
            if suspect is not None:
                self._suspect[view.id] = suspect
            if isinstance(error, HeadwaterError):
                log.warning("view.not_loaded", library=view.id, error=str(error))
            else:
                log.exception("view.not_loaded", library=view.id)
            view.failed(error)
            if isinstance(error, LibraryNotFound) and self._views.get(view.id) is view:
                del self._views[view.id]
            return
        if view.outdated:
            self._renewals.begin(view)
        self._upkeep.wake()
        if rebuilt is not None and view.index.live:
            took_ms = round((self._clock.monotonic() - began) * 1000)
            await self._upkeep.announce("index.rebuilt", view, took_ms, rebuilt)

    async def _join(self, view: View) -> None:
        """Make a filled view one of those that `_follow` serves, without a gap.

        While the turn is held nothing is applied, so the last page ends at or past the place where
        the followers are.
        """
        async with self._turn:
            while not await self._loader.catch_up(view) or view.position < self._applied.position:
                pass
            view.became_ready()

    async def _replace(self, view: View) -> None:
        """Put a filled view in the place of the one that answers, likewise."""
        async with self._turn:
            while not await self._loader.catch_up(view) or view.position < self._applied.position:
                pass
            old = self._views.get(view.id)
            if old is None or not old.ready:
                return  # whoever searches next loads another one
            view.used_at = old.used_at
            view.became_ready()
            self._views[view.id] = view

    def _asked(self, library_id: str, type: str) -> None:
        """Somebody has asked for something to be done to the library's views."""
        view = self._views.get(library_id)
        if view is None or not view.ready:
            return  # one that is being loaded meets the change by itself, or begins behind it
        if type == REBUILDING:
            self._renewals.begin(view)
        else:
            self._upkeep.optimize(view)

    def _unusable(self, view: View) -> HeadwaterError:
        if isinstance(view.error, HeadwaterError):
            return view.error
        return Unavailable(
            f"the index of library {view.id} could not be loaded ({view.error}); try again, and "
            "see the server's log",
            library_id=view.id,
        )

    def _behind(self, library_id: str, position: Position) -> NotCaughtUp:
        view = self._views.get(library_id)
        at = self._applied.position if view is None else self._position_of(view)
        return NotCaughtUp(
            f"the index of library {library_id} is at {self._log.cursor(at)}, not yet at "
            f"{self._log.cursor(position)}; what was written is kept, ask again in a moment",
            state="not loaded" if view is None else view.state,
        )

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    def _at_once(self, committed: Committed | None) -> None:
        """Apply a commit that follows directly, before its writer hears of it.

        What keeps up costs nobody a turn of the loop; `_follow` does the rest.
        """
        if (
            committed is not None
            and self._group is not None
            and not self._turn.locked()
            and committed.after <= self._applied.position
        ):
            self._take(committed)

    async def _follow(self) -> None:
        while True:
            await self._log.bell.wait_past(self._applied.position)
            try:
                async with self._turn:
                    if not self._drain():
                        await self._take_page()
            except CursorExpired:
                self._start_over()
            except Unavailable as error:
                log.warning("views.waiting_for_store", error=str(error))
                await anyio.sleep(_RETRY.total_seconds())
            await anyio.lowlevel.checkpoint()

    def _drain(self) -> bool:
        """Apply what the ring has, as far as one turn of the loop should go; False: it has none."""
        for number in range(_COMMITS_PER_TURN):
            committed = self._log.ring.after(self._applied.position)
            if committed is None:
                return number > 0
            self._take(committed)
        return True

    def _take(self, committed: Committed) -> None:
        """Apply a commit from the ring; it may begin before where we are, which is harmless."""
        changes: defaultdict[str, list[Change]] = defaultdict(list)
        for change in committed.changes:
            library_id = change.library_id
            if library_id is not None:
                if change.type == DELETED:
                    self._deleted(library_id)
                elif change.type == REGENERATED:
                    self._regenerated(library_id)
                    changes.pop(library_id, None)
                elif change.type in (REBUILDING, OPTIMIZING):
                    self._asked(library_id, change.type)
                elif library_id in self._views and (change.added.count or change.removed.count):
                    changes[library_id].append(change)
        for library_id, own in changes.items():
            added = [
                (_rows_of(piece), piece.matrix)
                for piece in committed.vectors
                if piece.library_id == library_id
            ]
            self._apply(library_id, Step(added, *marks(own)))
        self._applied.ring(committed.through)

    async def _take_page(self) -> None:
        ready = {view.id: view.library.generation for view in self._views.values() if view.ready}
        page = await self._log.store.read(
            partial(read_page, after=self._applied.position, views=ready)
        )
        for library_id, step in page.steps.items():
            self._apply(library_id, step)
        for library_id in page.deleted:
            self._deleted(library_id)
        for library_id in page.regenerated:
            self._regenerated(library_id)
        for library_id in page.outdated:
            self._asked(library_id, REBUILDING)
        for library_id in page.optimized:
            self._asked(library_id, OPTIMIZING)
        self._applied.ring(page.through)

    def _apply(self, library_id: str, step: Step) -> None:
        view = self._views.get(library_id)
        if view is None or not view.ready:
            return
        was_settled, sealed = view.settled, len(view.index.parts.sealed)
        try:
            view.apply(step, self._clock.monotonic())
        except Exception as error:
            # A view that missed a change must never answer again: it is made anew from the store.
            log.exception("view.failed", library=library_id)
            self._suspect[library_id] = f"a change could not be applied: {error}"
            view.failed(error)
            return
        if was_settled or len(view.index.parts.sealed) > sealed:
            self._upkeep.wake()

    def _deleted(self, library_id: str) -> None:
        self._suspect.pop(library_id, None)
        view = self._views.pop(library_id, None)
        if view is not None and not view.done.is_set():
            view.failed(LibraryNotFound(f"library {library_id} is gone", id=library_id))
        self._upkeep.discard(library_id)

    def _regenerated(self, library_id: str) -> None:
        """Its vectors are of another generation: the view must not meet them. A new one is begun
        at once; one that is being loaded sees it by itself."""
        view = self._views.get(library_id)
        if view is not None and view.ready:
            del self._views[library_id]
            if self._group is not None:
                self._open(view.library)

    def _start_over(self) -> None:
        """The log was trimmed past us: what is loaded cannot be brought up to date any more."""
        log.error("views.log_trimmed", position=self._applied.position)
        for view in self._views.values():
            if view.ready:
                reason = "the log was trimmed past this view"
                self._suspect[view.id] = reason
                view.failed(NotCaughtUp(f"{reason}; it is made again at the next search"))
        self._applied.ring(self._log.head)


def _rows_of(piece: AddedVectors) -> Rows:
    return np.arange(piece.first, piece.first + len(piece.matrix), dtype=np.int64)


def _answer(asks: Sequence[_Ask]) -> list[list[Found] | BaseException]:
    """One search per index, manner and filter, however many asked. Runs on a lane."""
    groups: defaultdict[tuple[int, bool, int, int | None], list[int]] = defaultdict(list)
    for number, ask in enumerate(asks):
        allowed = None if ask.sieve is None else ask.sieve.allowed
        groups[id(ask.index), ask.exact, id(allowed), ask.ef].append(number)
    answers: list[list[Found] | BaseException] = [[] for _ in asks]
    for members in groups.values():
        first = asks[members[0]]
        queries = np.concatenate([asks[number].queries for number in members])
        ks = [k for number in members for k in asks[number].k]
        try:
            found = first.index.search(
                queries, ks, exact=first.exact, sieve=first.sieve, ef=first.ef
            )
        except Exception as error:  # noqa: BLE001 - raised at those who asked, not at others
            for number in members:
                answers[number] = error
            continue
        for number in members:
            count = len(asks[number].queries)
            answers[number], found = found[:count], found[count:]
    return answers
