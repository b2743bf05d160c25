"""The search engine of one process: local views of vectors that follow the log.

Every commit is applied to the views that are loaded, on the loop; searches run on lanes, a batch at
a time; loading and upkeep go on beside them. What it shares with the other kinds is in `views.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import anyio
import numpy as np
import structlog

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import (
    DimensionMismatch,
    LibraryRegenerated,
)
from headwater.model import AddedVectors, Change, Committed, Library, Position, Rows, Vectors
from headwater.search.base import Mask, Neighbours, SearchEngine, ViewStatus
from headwater.search.index import VectorIndex
from headwater.search.loader import Loader, Stale
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
from headwater.search.segment import row_bytes
from headwater.search.sieve import Bitmaps, Sieve
from headwater.search.upkeep import Upkeep
from headwater.search.view import View
from headwater.search.views import Part, Views
from headwater.settings import SearchSettings
from headwater.threads import Lane, Pool

_RETRY = timedelta(milliseconds=200)
_COMMITS_PER_TURN = 8
_ASKS_AT_ONCE = 4
"""Searches a lane takes together. A graph gains nothing from more, but heads are read once for all,
and the lane waits once for the interpreter lock. Of eight clients it takes half: with all of them
the loop and the lane would wait for each other by turns. Measured side by side at 100,000 chunks:
1,850 answers a second by fours, 1,440 by eights; while 1,000 documents a second come in, 580 by
either, and a sixth less by ones."""
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


class LocalViews(Views[View], SearchEngine):
    """Keeps its files below `folder`, one folder per library.

    Of several processes on one folder only the one for which `write_snapshots` is true writes or
    deletes there and announces what was built; the others read.
    """

    place = 1  # a writer does not hear before its document can be found

    def __init__(
        self,
        folder: Path,
        settings: SearchSettings,
        log: Log,
        clock: Clock,
        *,
        write_snapshots: Callable[[], bool],
    ) -> None:
        super().__init__("vector", settings, log, clock)
        self._bitmaps: WeakKeyDictionary[Mask, Bitmaps] = WeakKeyDictionary()
        self._loader = Loader(folder, settings, log, clock)
        self._upkeep = Upkeep(
            folder,
            settings,
            log,
            clock,
            self._slots,
            self._position_of,
            write_snapshots=write_snapshots,
        )
        self._lanes: list[Lane[_Ask, list[Found]]] = [
            Lane(f"search-{number}", _answer, max_batch=_ASKS_AT_ONCE)
            for number in range(settings.threads)
        ]
        self._next_lane = 0
        self._pool = Pool("index-read", 1)
        self._prepared: dict[str, View] = {}
        """Filled with vectors that are about to be valid."""

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    async def search(
        self,
        library: Library,
        queries: Vectors,
        k: Sequence[int],
        *,
        exact: bool = False,
        allowed: Mask | None = None,
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

    async def warm(self, libraries: Sequence[Library]) -> None:
        for library in libraries:
            if not self._has_room(library):
                continue
            view = self._open(library)
            await view.done.wait()
            if view.error is not None:
                log.warning("view.not_warm", library=library.id, error=str(view.error))

    def status(self) -> list[ViewStatus]:
        return [view.status(self._position_of(view)) for view in self._slots.values()]

    async def renewed(self, library: Library, position: Position) -> ViewStatus:
        view = await self._renewed(library, position)
        return view.status(self._position_of(view))

    @asynccontextmanager
    async def prepared(self, library: Library) -> AsyncIterator[None]:
        view = await self._prepare(library)
        if view is None:
            yield
            return
        self._prepared[library.id] = view
        try:
            yield
            # The view is handed on when the log comes to the switch, a moment after its commit.
            with anyio.move_on_after(self._settings.max_wait.total_seconds()):
                await self._applied.wait_past(self._log.head - 1)
        finally:
            if self._prepared.get(library.id) is view:
                del self._prepared[library.id]

    async def _prepare(self, library: Library) -> View | None:
        """With all its graphs; None when nobody would miss it, or there is no room, or it fails."""
        old = self._slots.get(library.id)
        if old is None or not old.ready or not self._has_room(library):
            return None
        new = self._slot(library)
        try:
            await self._loader.prepare(new)
            await self._upkeep.build_all(new.index)
        except Exception:
            # It is made when the vectors are valid, as it would have been without this.
            log.exception("view.not_prepared", library=library.id)
            return None
        return new

    def _has_room(self, library: Library) -> bool:
        used = sum(view.index.memory_bytes for view in self._slots.values())
        needed = library.chunks * row_bytes(library.dimension, library.quantization == "int8")
        return used + needed <= self._settings.memory_bytes

    async def optimize(self, library: Library) -> ViewStatus:
        view = await self._current(library)
        self._upkeep.optimize(view)
        await self._upkeep.optimized(view)
        return view.status(self._position_of(view))

    async def rows(self, library: Library) -> Rows:
        view = await self._current(library)
        return await self._pool.call(view.index.rows)

    # ── From nothing to the end ─────────────────────────────────────────────────────────────────

    def _parts(self) -> Iterable[Part]:
        return *(lane.run for lane in self._lanes), self._upkeep.run

    def _slot(self, library: Library) -> View:
        return View(library, self._loader.empty(library), self._clock.monotonic())

    async def _fill(self, slot: View, suspect: str | None) -> None:
        await self._loader.load(slot, self._join, reason=suspect)

    async def _catch_up(self, slot: View) -> bool:
        return await self._loader.catch_up(slot)

    async def _bring_up(self, slot: View) -> None:
        began = self._clock.monotonic()
        await super()._bring_up(slot)
        if slot.ready:
            self._upkeep.wake()
            if slot.reason is not None and slot.rows:
                took_ms = round((self._clock.monotonic() - began) * 1000)
                await self._upkeep.announce("index.rebuilt", slot, took_ms, slot.reason)

    async def _make_anew(self, old: View) -> None:
        """With all its graphs. If that fails the old one goes on, and stays outdated."""
        new = self._slot(old.library)
        try:
            await self._loader.fill(new)
            await self._upkeep.build_all(new.index)
            await self._replace(old, new)
        except Stale:
            pass  # the old one goes, too, as soon as it hears of it
        finally:
            self._upkeep.wake()

    def _let_go(self, slot: View, *, spoilt: bool = False) -> None:
        pass  # it did by itself, as it failed; the next snapshot takes the place of the last

    def _discard(self, library_id: str) -> None:
        self._upkeep.discard(library_id)

    async def _close(self) -> None:
        await self._upkeep.save_all(self._clock.monotonic() + _SAVE_AT_STOP.total_seconds())

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    def _take(self, committed: Committed) -> bool:
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
                elif change.type == REBUILDING:
                    self._outdated(library_id)
                elif change.type == OPTIMIZING:
                    self._optimize(library_id)
                elif library_id in self._slots and (change.added.count or change.removed.count):
                    changes[library_id].append(change)
        for library_id, own in changes.items():
            added = [
                (_rows_of(piece), piece.matrix)
                for piece in committed.vectors
                if piece.library_id == library_id
            ]
            self._apply(library_id, Step(added, *marks(own)))
        self._applied.ring(committed.through)
        return True

    async def _take_page(self) -> None:
        ready = {view.id: view.library.generation for view in self._slots.values() if view.ready}
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
            self._outdated(library_id)
        for library_id in page.optimized:
            self._optimize(library_id)
        self._applied.ring(page.through)

    def _apply(self, library_id: str, step: Step) -> None:
        view = self._slots.get(library_id)
        if view is None or not view.ready:
            return
        was_settled, sealed = view.settled, len(view.index.parts.sealed)
        try:
            view.apply(step, self._clock.monotonic())
        except Exception as error:
            log.exception("view.not_applied", kind=self.kind, library=library_id)
            self._fail(view, error)
            return
        if was_settled or len(view.index.parts.sealed) > sealed:
            self._upkeep.wake()

    def _regenerated(self, library_id: str) -> None:
        """Its vectors are of another generation: the view must not meet them. A new one is begun
        at once, of what was prepared for it; one that is being loaded sees it by itself."""
        begun = self._prepared.pop(library_id, None)
        view = self._slots.get(library_id)
        if view is not None and view.ready:
            del self._slots[library_id]
            if self._group is not None:
                self._open(view.library).begun = begun

    def _optimize(self, library_id: str) -> None:
        view = self._slots.get(library_id)
        if view is not None and view.ready:
            self._upkeep.optimize(view)


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
