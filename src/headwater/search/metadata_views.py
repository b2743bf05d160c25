"""Filters over the chunks of libraries, answered from views that follow the log.

`service/target.py` asks which rows may be found. A library's view is made from the store when a
filter is first used in it, and kept in a file when the server stops. It must never say more than
the store does: see `follower.py` for how it keeps up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec
import structlog

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.filters import And, Filter
from headwater.model import Change, Library, Position, Rows, Span
from headwater.search.follower import Follower
from headwater.search.following import FollowerStatus, FollowingIndex
from headwater.search.metadata import MetadataIndex
from headwater.search.metadata_selection import Selection
from headwater.search.metadata_snapshot import load, save, unfinished
from headwater.search.orphans import libraries_in, orphans
from headwater.search.rowsets import spelled_out
from headwater.settings import SearchSettings
from headwater.store.base import Reader
from headwater.threads import Pool

_SUFFIX = ".metadata"
_PAGE_DOCUMENTS = 500
"""A page takes some 15 ms then, at six fields a document."""
_GENTLE_DOCUMENTS = 50


log_line = structlog.get_logger(__name__)


class _Metadata(msgspec.Struct):
    metadata: dict[str, Any] = {}


_decode_change = msgspec.json.Decoder(_Metadata).decode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Kept:
    """Where indexes are kept, and whether this process may write there."""

    folder: Path
    writes: Callable[[], bool]

    def path(self, library_id: str) -> Path:
        return self.folder / f"{library_id}{_SUFFIX}"

    def libraries(self) -> list[str]:
        """The ids of those whose indexes are kept. Blocks; for a thread.

        Takes away what was half written when an earlier process was killed.
        """
        for part in unfinished(self.folder):
            part.unlink(missing_ok=True)
        return libraries_in(self.folder, _SUFFIX)

    def discard(self, library_id: str) -> None:
        if self.writes():
            self.path(library_id).unlink(missing_ok=True)


class MetadataView(FollowingIndex):
    """One library's."""

    def __init__(self, library: Library, kept: Kept | None, log_id: str) -> None:
        self._library = library
        self._number = library.number
        self._index = MetadataIndex()
        self._kept = kept
        self._log_id = log_id

    def select(self, filter: Filter) -> Selection:
        return self._index.select(filter)

    def restore(self) -> Position | None:
        if self._kept is None:
            return None
        found = load(self._kept.path(self._library.id), self._log_id, self._library.id)
        if found is None:
            return None
        self._index, position = found
        return position

    def begin(self) -> None:
        self._index = MetadataIndex()

    def disown(self) -> None:
        if self._kept is not None:
            self._kept.discard(self._library.id)
            self._kept = None

    def fill(self, reader: Reader, after: int) -> int | None:
        limit = _GENTLE_DOCUMENTS if self.gentle else _PAGE_DOCUMENTS
        page = reader.described(self._number, after_row=after, limit=limit)
        own = _own(reader, [document.chunks for document in page])
        for document in page:
            span = document.chunks
            self._index.put(span.first, span.count, document.metadata, _within(own, span))
        return page[-1].row if page else None

    def apply(self, reader: Reader, changes: Sequence[Change]) -> None:
        own = _own(reader, [span for change in changes for span in (change.added, change.kept)])
        for change in changes:
            if change.removed.count:
                self._index.remove(spelled_out([change.removed]))
            if not (change.added.count or change.kept.count):
                continue
            metadata = _decode_change(change.data).metadata
            for span, take in (
                (change.added, self._index.put),
                (change.kept, self._index.replace),
            ):
                take(span.first, span.count, metadata, _within(own, span))

    def commit(self, position: Position) -> None:
        pass

    def close(self, position: Position | None, *, spoilt: bool = False) -> None:
        index, self._index = self._index, MetadataIndex()
        if self._kept is None or not self._kept.writes() or not (spoilt or position):
            return
        path = self._kept.path(self._library.id)
        try:
            if spoilt:
                path.unlink(missing_ok=True)
            elif position is not None:
                save(path, self._log_id, self._library.id, position, index)
        except OSError as error:
            log_line.warning("metadata.not_kept", library=self._library.id, error=str(error))

    @property
    def rows(self) -> int:
        return self._index.count

    @property
    def memory_bytes(self) -> int:
        return self._index.memory_bytes


class MetadataViews:
    """The views of all libraries in use. Loop only; the work is done on one lane.

    With `kept`, they are kept in files from one process to the next.
    """

    def __init__(
        self,
        settings: SearchSettings,
        log: Log,
        clock: Clock,
        *,
        memory_bytes: int,
        kept: Kept | None = None,
    ) -> None:
        def make(library: Library) -> MetadataView:
            return MetadataView(library, kept, log.store.log_id)

        self._log = log
        self._kept = kept
        self._follower: Follower[MetadataView] = Follower(
            "metadata",
            make,
            settings,
            log,
            clock,
            memory_bytes=memory_bytes,
            discard=None if kept is None else kept.discard,
        )

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the log until cancelled, then keep the indexes for the next time."""
        async with anyio.create_task_group() as group:
            await group.start(self._follower.run)
            group.start_soon(self._sweep)
            task_status.started()

    async def select(self, library: Library, filter: Filter) -> tuple[Selection, Position]:
        """The rows whose metadata meets the filter, and a position they stand for.

        Makes the view when there is none, and first waits until it has applied everything that
        was committed when the call was made. Raises `NotCaughtUp` when that takes longer than the
        settings allow; the view goes on being made. Raises `LibraryNotFound`.
        """
        return await self._follower.ask(library, partial(_select, filter=filter))

    async def rows(self, library: Library) -> Rows:
        """The chunk rows of the view, rising: for checking against the store."""
        selection, _ = await self.select(library, And(()))
        return selection.rows()

    async def caught_up(self, library_id: str, position: Position) -> None:
        """Return when a filter asked now would see `position`. At once when not loaded."""
        await self._follower.caught_up(library_id, position)

    def open(self, library: Library) -> None:
        """Begin to make the view without waiting."""
        self._follower.open(library)

    def opened(self, library_id: str) -> bool:
        """Whether the library's view is there or being made."""
        return self._follower.opened(library_id)

    def kept(self, library_id: str) -> bool:
        """Whether there is a file of an index of this library."""
        return self._kept is not None and self._kept.path(library_id).exists()

    async def renewed(self, library: Library, position: Position) -> FollowerStatus:
        """Return when the view was made anew after an `index.rebuilding` change at `position`."""
        return await self._follower.renewed(library, position)

    def status(self) -> list[FollowerStatus]:
        return self._follower.status()

    async def _sweep(self) -> None:
        """As the keeper, take away the files of libraries that were deleted while this process
        was not there, or had no index of them."""
        kept = self._kept
        if kept is None or not kept.writes():
            return
        pool = Pool("metadata-files", 1)
        ids = await pool.call(kept.libraries)
        for id in await orphans(self._log.store, ids, kind="metadata"):
            await pool.call(kept.discard, id)
            log_line.info("view.removed", kind="metadata", library=id)


def _select(view: MetadataView, filter: Filter) -> Selection:
    return view.select(filter)


def _own(reader: Reader, spans: Iterable[Span]) -> dict[int, dict[str, Any]]:
    """The metadata that chunks have of their own, by row."""
    found = reader.chunk_metadata([span for span in spans if span.count])
    return {row: _decode(metadata) for row, metadata in found.items()}


def _within(own: dict[int, dict[str, Any]], span: Span) -> dict[int, dict[str, Any]]:
    if not own:
        return own
    rows = range(span.first, span.first + span.count)
    return {row: own[row] for row in rows if row in own}
