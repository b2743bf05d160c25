"""Vector views made anew from the store, beside those that answer meanwhile.

Somebody asks for it by a change in the log, so that every process hears it. A view that has met
such a change is outdated: it answers until the new one is whole, graphs and all, but is never saved
again, so that a process that dies in the middle meets the change once more when it starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.abc
import structlog

from headwater.clock import Clock
from headwater.errors import HeadwaterError, LibraryNotFound, ShuttingDown
from headwater.search.loader import Loader, Stale
from headwater.search.upkeep import Upkeep
from headwater.search.view import View

log = structlog.get_logger(__name__)


class Renewals:
    """One at a time: each takes the memory of a second view. Loop only.

    `join` puts a filled view in the place of the one that answers, without a gap.
    """

    def __init__(
        self,
        views: dict[str, View],
        loader: Loader,
        upkeep: Upkeep,
        clock: Clock,
        join: Callable[[View], Awaitable[None]],
    ) -> None:
        self._views = views
        self._loader = loader
        self._upkeep = upkeep
        self._clock = clock
        self._join = join
        self._turns = anyio.Semaphore(1)
        self._under_way: dict[str, anyio.Event] = {}
        self._failed: dict[str, Exception] = {}
        self._group: anyio.abc.TaskGroup | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        async with anyio.create_task_group() as group:
            self._group = group
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._group = None

    def begin(self, view: View) -> None:
        """The view is outdated: make it anew, unless that has begun."""
        view.outdated = True
        if self._group is not None and view.id not in self._under_way:
            self._under_way[view.id] = anyio.Event()
            self._failed.pop(view.id, None)
            self._group.start_soon(self._renew, view.id)

    async def settled(self, library_id: str) -> None:
        """Return when the library's view is not being made anew. Raises what went wrong."""
        if self._group is None:
            raise ShuttingDown("the search views are not running; try again in a moment")
        while (event := self._under_way.get(library_id)) is not None:
            await event.wait()
        if (error := self._failed.pop(library_id, None)) is not None:
            raise error

    async def _renew(self, library_id: str) -> None:
        began = self._clock.monotonic()
        try:
            async with self._turns:
                while (old := self._views.get(library_id)) and old.ready and old.outdated:
                    new = View(old.library, self._loader.empty(old.library), began)
                    try:
                        await self._loader.fill(new)
                        await self._upkeep.build_all(new.index)
                        await self._join(new)
                    except Stale:
                        continue  # the old one goes, too, as soon as it hears of it
                    took_ms = round((self._clock.monotonic() - began) * 1000)
                    log.info("view.renewed", library=library_id, rows=new.index.live, ms=took_ms)
        except Exception as error:
            # The task's root: who waits hears of it. The old view goes on, and stays outdated.
            self._failed[library_id] = error
            if isinstance(error, LibraryNotFound):
                pass
            elif isinstance(error, HeadwaterError):
                log.warning("view.not_renewed", library=library_id, error=str(error))
            else:
                log.exception("view.not_renewed", library=library_id)
        finally:
            self._under_way.pop(library_id).set()
            self._upkeep.wake()
