"""Background work on the loaded views: building, merging, saving, evicting, announcing.

One task and one thread of low priority, one job at a time, the most urgent first. Nothing waits
for it but memory and speed: a view is right and complete whether or not this ever runs.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import structlog

from headwater.changes.bell import Bell
from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import HeadwaterError, LibraryNotFound
from headwater.model import Position
from headwater.search import snapshot
from headwater.search.eviction import overweight
from headwater.search.index import Plan, VectorIndex
from headwater.search.orphans import libraries_in, orphans
from headwater.search.segment import Abandoned, Segment
from headwater.search.view import View
from headwater.settings import SearchSettings
from headwater.store.base import Announce
from headwater.threads import Lane, Pool

_IDLE_SAVES = 60
"""A view whose library is idle is saved again after this many save periods, so that the log is
not trimmed past its position."""

_WORTH_GIVING_BACK_BYTES = 64 << 20
_LOOK_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Due:
    view: View
    plan: Plan


class Upkeep:
    """Looks after `views`, the loaded ones by library id. Loop only."""

    def __init__(
        self,
        folder: Path,
        settings: SearchSettings,
        log: Log,
        clock: Clock,
        views: dict[str, View],
        position_of: Callable[[View], Position],
        *,
        write_snapshots: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._log = log
        self._clock = clock
        self._views = views
        self._position_of = position_of
        self._write_snapshots = write_snapshots
        self._bell = Bell()
        self._optimized = Bell()
        self._discarded: list[str] = []
        self._stop = threading.Event()
        self._lane: Lane[Callable[[], Any], Any] = Lane(
            "index-upkeep", _do, max_batch=1, low_priority=True
        )
        self._files = Pool("index-files", 1)

    @property
    def _writes(self) -> bool:
        return self._write_snapshots()

    def wake(self) -> None:
        """Something may have become due."""
        self._bell.wake()

    def discard(self, library_id: str) -> None:
        """The library is deleted: take its files away."""
        if self._writes:
            self._discarded.append(library_id)
            self.wake()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Work until cancelled; a build that is under way is abandoned then."""
        async with anyio.create_task_group() as group:
            await group.start(self._lane.run)
            task_status.started()
            try:
                if self._writes:
                    await self._sweep()
                while True:
                    if not await self._one():
                        with anyio.move_on_after(self._pause()):
                            await self._bell.wait_change()
            finally:
                self._stop.set()

    def optimize(self, view: View) -> None:
        """Seal, merge and drop dead rows as far as it goes, soon.

        It ends however fast new rows die: each part that there is now is built once.
        """
        parts = view.index.parts
        view.passes = len(parts.segments) + len(parts.sealed) + 2
        self.wake()

    async def optimized(self, view: View) -> None:
        """Return when no optimization of the view is left, or the view is gone."""
        while view.passes and self._loaded(view):
            with anyio.move_on_after(_LOOK_S):
                await self._optimized.wait_change()

    async def build_all(self, index: VectorIndex) -> None:
        """Build what there is to build of an index that nobody searches yet."""
        while (plan := index.plan(quiet=True)) is not None:
            try:
                built: Segment = await self._on_lane(partial(index.build, plan, self._stop))
            except BaseException:
                index.drop()
                raise
            index.swap(plan, built)
            if built.memory_bytes > _WORTH_GIVING_BACK_BYTES:
                await self._on_lane(_give_back)

    async def save_all(self, deadline: float) -> None:
        """Save what was not saved, until the clock's monotonic time passes `deadline`."""
        if not self._writes:
            return
        views = [view for view in self._views.values() if view.ready and not view.outdated]
        views.sort(key=lambda view: not view.dirty)
        for view in views:
            if self._clock.monotonic() > deadline:
                log.warning("view.unsaved", library=view.id)
            elif view.dirty or view.saved_position != self._position_of(view):
                await self._save(view, self._files.call)

    # ── What is due ─────────────────────────────────────────────────────────────────────────────

    async def _one(self) -> bool:
        """Do the most urgent job; whether there was one."""
        if self._discarded:
            library_id = self._discarded.pop()
            await self._on_lane(partial(snapshot.remove, self._folder / library_id))
            log.info("view.removed", library=library_id)
            return True
        due = self._next_build()
        if due is not None:
            await self._build(due)
            return True
        for view in list(self._views.values()):
            if view.ready and await self._finish(view):
                return True
        return await self._evict()

    def _next_build(self) -> _Due | None:
        now = self._clock.monotonic()
        for view in self._views.values():
            if view.ready and view.passes:
                plan = view.index.plan(quiet=True, full=True)
                view.passes = 0 if plan is None else view.passes - 1
                if plan is not None:
                    return _Due(view, plan)
                self._optimized.wake()
            if view.ready and not view.settled:
                quiet = now - view.changed_at >= self._settings.settle.total_seconds()
                plan = view.index.plan(quiet=quiet)
                if plan is not None:
                    return _Due(view, plan)
                view.settled = quiet
        return None

    async def _finish(self, view: View) -> bool:
        """Announce and save, when it is time to."""
        now = self._clock.monotonic()
        settle = self._settings.settle.total_seconds()
        worked = False
        if self._writes and view.built_ms and now - view.announced_at >= settle:
            took_ms, view.built_ms, view.announced_at = view.built_ms, 0, now
            await self.announce("index.optimized", view, took_ms, "built")
            worked = True
        if self._writes and self._loaded(view) and self._save_due(view, now) <= now:
            await self._save(view, self._on_lane)
            worked = True
        return worked

    def _loaded(self, view: View) -> bool:
        return view.ready and self._views.get(view.id) is view

    def _save_due(self, view: View, now: float) -> float:
        if view.outdated:
            return float("inf")
        every = self._settings.snapshot_every.total_seconds()
        unsaved = any(segment.file is None for segment in view.index.parts.segments)
        if view.dirty and view.settled and unsaved:
            # Building is over for now: what it made should not have to be made again.
            return view.saved_at + min(every, self._settings.settle.total_seconds())
        if view.dirty:
            return view.saved_at + every
        if view.saved_position != self._position_of(view):
            return view.saved_at + _IDLE_SAVES * every
        return float("inf")

    def _pause(self) -> float:
        """Seconds until something is due by itself."""
        now = self._clock.monotonic()
        times = [now + 60.0]
        settle = self._settings.settle.total_seconds()
        for view in self._views.values():
            if not view.ready:
                continue
            if not view.settled:
                times.append(view.changed_at + settle)
            if self._writes:
                times.append(self._save_due(view, now))
                if view.built_ms:
                    times.append(view.announced_at + settle)
        return max(0.001, min(times) - now)

    # ── Jobs ────────────────────────────────────────────────────────────────────────────────────

    async def _build(self, due: _Due) -> None:
        view, index = due.view, due.view.index
        began = self._clock.monotonic()
        try:
            built: Segment = await self._on_lane(partial(index.build, due.plan, self._stop))
        except Abandoned:
            index.drop()
            return
        except (OSError, RuntimeError, MemoryError) as error:
            # The rows stay in heads, searched exactly; tried again after the next change.
            index.drop()
            view.settled = True
            view.passes = 0
            log.error("view.build_failed", library=view.id, error=str(error))
            return
        index.swap(due.plan, built)
        if built.memory_bytes > _WORTH_GIVING_BACK_BYTES:
            await self._on_lane(_give_back)
        view.dirty = True
        view.built_ms += max(1, round((self._clock.monotonic() - began) * 1000))

    async def _save(
        self, view: View, call: Callable[[Callable[[], None]], Awaitable[None]]
    ) -> None:
        position = self._position_of(view)
        capture = view.index.capture()
        view.dirty = False
        view.saved_at = self._clock.monotonic()
        library = view.library
        try:
            await call(
                partial(
                    snapshot.save,
                    self._folder / view.id,
                    capture,
                    token=self._clock.uuid7(),
                    library_id=library.id,
                    log_id=self._log.store.log_id,
                    dimension=library.dimension,
                    metric=library.metric,
                    position=position,
                    generation=library.generation,
                )
            )
        except OSError as error:
            view.dirty = True
            log.error("view.save_failed", library=view.id, error=str(error))
            return
        view.saved_position = position
        log.debug("view.saved", library=view.id, position=position)

    async def _evict(self) -> bool:
        """Unload the view that was used longest ago while there are more than memory allows."""
        going = overweight(self._views.values(), self._settings.memory_bytes)
        if not going:
            return False
        view = going[0]
        used_at = view.used_at
        if self._writes and view.dirty and not view.outdated:
            await self._save(view, self._on_lane)
        if view.used_at == used_at and self._loaded(view):
            del self._views[view.id]
            log.info("view.evicted", library=view.id, memory_bytes=view.index.memory_bytes)
        return True

    async def announce(self, type: str, view: View, took_ms: int, reason: str) -> None:
        """Tell the log's readers. A store that cannot take it now only costs the event.

        Of a library that was deleted meanwhile there is nothing to tell.
        """
        if not self._writes:
            return
        data = {
            "chunks": view.index.live,
            "segments": len(view.index.parts.segments),
            "took_ms": took_ms,
            "reason": reason,
        }
        try:
            await self._log.store.write(Announce(type, view.library.number, data))
        except LibraryNotFound:
            return
        except HeadwaterError as error:
            log.warning("view.unannounced", library=view.id, type=type, error=str(error))

    async def _sweep(self) -> None:
        """Take away the files of libraries that were deleted while this process was not there."""
        ids = await self._on_lane(partial(libraries_in, self._folder))
        self._discarded += await orphans(self._log.store, ids, kind="vectors")

    async def _on_lane(self, job: Callable[[], Any]) -> Any:
        return await self._lane.submit(job)


def _do(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    return [job() for job in jobs]


def _give_back() -> None:
    """Return what was freed to the system.

    The C library keeps the holes that heads and graphs leave behind: 550 MB after a million rows
    had been built (malloc_trim(3)).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
