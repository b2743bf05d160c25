"""Bringing a view up: from its snapshot and the log after it, or from the store as it is.

Called by `LocalViews` in a task of its own. Every doubt about the files ends in a scan of the
store, which is the truth. Searches of the library wait meanwhile; writes do not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import CursorExpired, LibraryNotFound
from headwater.model import Library, Rows, Vectors
from headwater.search import snapshot
from headwater.search.index import VectorIndex
from headwater.search.page import Page, read_page
from headwater.search.snapshot import Missing, Unusable
from headwater.search.view import View
from headwater.settings import SearchSettings
from headwater.store.base import Reader, Snapshot
from headwater.threads import Pool

_SCAN_ROWS = 4_096
_GENTLE_ROWS = 512
"""Half a millisecond of the GIL at a time."""

_VectorPage = Callable[..., tuple[Rows, Vectors]]
"""Of a reader: rows `after` one, rising, at most `limit`, and their vectors."""

log = structlog.get_logger(__name__)


class Stale(Exception):
    """The view's library is of another generation by now: it must be read and begun again."""


class Loader:
    """Fills views. Loop only; the work is done in `pool` and the store's readers."""

    def __init__(self, folder: Path, settings: SearchSettings, log: Log, clock: Clock) -> None:
        self._folder = folder
        self._settings = settings
        self._log = log
        self._clock = clock
        self._pool = Pool("index-load", 2)

    def folder_of(self, library_id: str) -> Path:
        return self._folder / library_id

    def empty(self, library: Library) -> VectorIndex:
        """An index for that library with nothing in it."""
        return VectorIndex(
            library.dimension, library.metric, self._settings, self._disk_of(library)
        )

    def _disk_of(self, library: Library) -> Path | None:
        """Where the vectors of a quantised library lie."""
        return self._folder / "vectors" if library.quantization == "int8" else None

    async def load(
        self, view: View, join: Callable[[View], Awaitable[None]], *, reason: str | None = None
    ) -> None:
        """Fill `view` up to the head and let `join` make it ready.

        `reason` says why the snapshot must not be used; `view.reason` then is why the store had to
        be scanned although there was something before, else None. Raises `LibraryNotFound` when
        the library is gone.
        """
        while True:
            try:
                await self._load(view, join, reason)
                return
            except Stale as stale:
                reason = str(stale)

    async def _load(
        self, view: View, join: Callable[[View], Awaitable[None]], reason: str | None
    ) -> None:
        library = await self._log.store.read(partial(_library, id=view.id))
        if library is None:
            raise LibraryNotFound(f"library {view.id} is gone", id=view.id)
        view.library = library
        rebuilt = reason
        begun, view.begun = view.begun, None
        if begun is not None and begun.library.generation == library.generation:
            try:
                await self._go_on(view, begun)
                await self._replay(view)
            except CursorExpired:
                rebuilt = "the log no longer reaches back to where it was prepared"
        elif rebuilt is None:
            try:
                await self._restore(view)
                await self._replay(view)
            except Missing:
                rebuilt = ""
            except Unusable as error:
                rebuilt = str(error)
            except CursorExpired:
                rebuilt = "the log no longer reaches back to the snapshot"
        if rebuilt is not None:
            if rebuilt:
                log.warning("view.rebuilding", library=view.id, reason=rebuilt)
            await self._scan(view, rebuilt or None)
            await self._replay(view)
        await join(view)

    async def fill(self, view: View) -> None:
        """Fill `view` from the store up to the head, gently: others answer meanwhile."""
        await self._scan(view, "made anew", rows=_GENTLE_ROWS)
        await self._replay(view)

    async def _restore(self, view: View) -> None:
        library = view.library
        view.index, position = await self._pool.call(
            partial(
                snapshot.load,
                self.folder_of(view.id),
                self._settings,
                library_id=library.id,
                log_id=self._log.store.log_id,
                dimension=library.dimension,
                metric=library.metric,
                generation=library.generation,
                disk=self._disk_of(library),
            )
        )
        head = await self._log.store.read(lambda reader: reader.head())
        if position > head:
            raise Unusable(f"the snapshot is at {position}, ahead of the log at {head}")
        view.position = view.saved_position = position
        view.settled = False

    async def prepare(self, view: View) -> None:
        """Fill `view`, whose library is as it will be, with vectors that are not valid yet.

        Those of chunks that are gone are left out; what goes from here on is in the log after
        `view.position`.
        """
        library = view.library
        page = partial(_next_vectors, number=library.number, generation=library.generation)
        async with self._log.store.snapshot() as held:
            await self._append(view, held, page, _GENTLE_ROWS)
            view.position = held.position

    async def _go_on(self, view: View, begun: View) -> None:
        """Take over what was prepared, with the rows that have come since then.

        A row that is behind its last one and has no vector now never gets one: chunks that are
        embedded later move to new rows. What was removed since is removed by the replay.
        """
        view.index = begun.index
        async with self._log.store.snapshot() as held:
            await self._check(view, held)
            await self._append(view, held, partial(_vectors, number=view.library.number))
        view.position = begun.position
        self._is_new(view)

    async def _scan(self, view: View, reason: str | None, rows: int = _SCAN_ROWS) -> None:
        view.state = "rebuilding"
        view.reason = reason
        view.index = self.empty(view.library)
        async with self._log.store.snapshot() as held:
            await self._check(view, held)
            await self._append(view, held, partial(_vectors, number=view.library.number), rows)
            view.position = held.position
        self._is_new(view)

    async def _check(self, view: View, held: Snapshot) -> None:
        """Raise when the library is gone there, or its vectors are of another generation."""
        now = await held.read(partial(_library, id=view.id))
        if now is None:
            raise LibraryNotFound(f"library {view.id} is gone", id=view.id)
        if now.generation != view.library.generation:
            raise Stale(f"the vectors of library {view.id} were made anew")

    async def _append(
        self, view: View, held: Snapshot, page: _VectorPage, rows: int = _SCAN_ROWS
    ) -> None:
        """Append what comes after the index's last row, `rows` at a time."""
        index = view.index
        while True:
            found, matrix = await held.read(partial(page, after=index.last_row, limit=rows))
            if not len(found):
                return
            # In a thread: nobody else sees the index yet.
            await self._pool.call(index.append, found, matrix)

    def _is_new(self, view: View) -> None:
        view.changed_at = self._clock.monotonic()
        view.settled = False
        view.dirty = True

    async def _replay(self, view: View) -> None:
        """Apply the library's changes up to the head as it is then."""
        if view.state == "loading":
            view.state = "replaying"
        while not await self.catch_up(view):
            pass

    async def catch_up(self, view: View) -> bool:
        """Apply one page; whether that was all. Raises `CursorExpired`, `LibraryNotFound`."""
        page: Page = await self._log.store.read(
            partial(
                read_page,
                after=view.position,
                views={view.id: view.library.generation},
                only=view.id,
            )
        )
        if view.id in page.deleted:
            raise LibraryNotFound(f"library {view.id} is gone", id=view.id)
        if view.id in page.regenerated:
            raise Stale(f"the vectors of library {view.id} were made anew")
        view.outdated = view.outdated or view.id in page.outdated
        step = page.steps.get(view.id)
        if step is not None:
            view.apply(step, self._clock.monotonic())
        view.position = page.through
        return page.through >= page.head


def _library(reader: Reader, id: str) -> Library | None:
    library = reader.library(id)
    return library if library is not None and library.id == id else None


def _vectors(reader: Reader, number: int, after: int, limit: int) -> tuple[Rows, Vectors]:
    return reader.vectors_after(number, after, limit)


def _next_vectors(
    reader: Reader, number: int, generation: int, after: int, limit: int
) -> tuple[Rows, Vectors]:
    return reader.next_vectors_after(number, generation, after, limit)
