"""Search by words over the chunks of libraries, from local indexes that follow the log.

`service/legs.py` asks for rows; the texts come from the store. Of several processes on one data
folder only its keeper may use the files kept there; the others make an index of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import structlog

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.model import Library, Position, Rows
from headwater.search import scratch
from headwater.search.base import Scores
from headwater.search.follower import Follower
from headwater.search.following import FollowerStatus
from headwater.search.keyword import Allowed, Hits, KeywordIndex
from headwater.search.orphans import libraries_in, orphans
from headwater.settings import SearchSettings
from headwater.threads import Pool

log = structlog.get_logger(__name__)


class KeywordViews:
    """The keyword indexes of all libraries in use. Loop only; the work is done on one lane.

    Files are kept below `folder`, one folder per library, while `keeps` says that this process
    may.
    """

    def __init__(
        self,
        folder: Path,
        settings: SearchSettings,
        log: Log,
        clock: Clock,
        *,
        keeps: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._log = log
        self._keeps = keeps
        self._memory_bytes = settings.keyword_memory_bytes
        self._follower: Follower[KeywordIndex] = Follower(
            "keyword",
            self._make,
            settings,
            log,
            clock,
            memory_bytes=settings.keyword_memory_bytes,
            discard=self._discard,
        )

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the log until cancelled, then leave the indexes as they are for the next time."""
        async with anyio.create_task_group() as group:
            await group.start(self._follower.run)
            group.start_soon(self._sweep)
            task_status.started()

    async def search(
        self,
        library: Library,
        query: str,
        k: int,
        *,
        allowed: Allowed | None = None,
        selected: Rows | None = None,
    ) -> tuple[Rows, Scores, Position]:
        """The k best rows by BM25, equal scores by rising row, and a position they stand for.

        Any text is a query, see `wording.py`. Only rows that are `allowed`, a function that is
        called in the lane's thread with rising rows; `selected` names them all, rising. Opens the
        index when it is not open, and first waits until it has applied everything that was
        committed when the call was made. Raises `NotCaughtUp`, `LibraryNotFound`.
        """
        (rows, scores), position = await self._follower.ask(
            library, partial(_search, query=query, k=k, allowed=allowed, selected=selected)
        )
        return rows, scores, position

    async def caught_up(self, library_id: str, position: Position) -> None:
        """Return when a search started now would see `position`. At once when not loaded."""
        await self._follower.caught_up(library_id, position)

    def open(self, library: Library) -> None:
        """Begin to open the index without waiting."""
        self._follower.open(library)

    def opened(self, library_id: str) -> bool:
        """Whether the library's index is open or being opened."""
        return self._follower.opened(library_id)

    async def warm(self, libraries: Sequence[Library]) -> None:
        """Open the indexes there are files of, as far as the memory budget goes."""
        for library in libraries:
            used = sum(status.memory_bytes for status in self.status())
            if used <= self._memory_bytes and self._keeps() and self.kept(library.id):
                await self._follower.warm(library)

    def kept(self, library_id: str) -> bool:
        """Whether there are files of an index of this library."""
        return (self._folder / library_id).is_dir()

    async def renewed(self, library: Library, position: Position) -> FollowerStatus:
        """Return when the index was made anew after an `index.rebuilding` change at `position`."""
        return await self._follower.renewed(library, position)

    def status(self) -> list[FollowerStatus]:
        return self._follower.status()

    async def rows(self, library: Library) -> Rows:
        """The chunk rows of the index, rising: for checking against the store."""
        rows, _ = await self._follower.ask(library, KeywordIndex.all_rows)
        return rows

    def _make(self, library: Library) -> KeywordIndex:
        folder = self._folder / library.id if self._keeps() else None
        return KeywordIndex(library, self._log.store.log_id, folder)

    def _discard(self, library_id: str) -> None:
        if self._keeps():
            shutil.rmtree(self._folder / library_id, ignore_errors=True)

    async def _sweep(self) -> None:
        """Take away what killed processes left, and, as the keeper, the files of libraries that
        were deleted while this process was not there."""
        pool = Pool("keyword-files", 1)
        await pool.call(scratch.sweep)
        if not self._keeps():
            return
        ids = await pool.call(libraries_in, self._folder)
        for id in await orphans(self._log.store, ids, kind="keyword"):
            await pool.call(self._discard, id)
            log.info("view.removed", kind="keyword", library=id)


def _search(
    index: KeywordIndex, query: str, k: int, allowed: Allowed | None, selected: Rows | None
) -> Hits:
    return index.search(query, k, allowed=allowed, selected=selected)
