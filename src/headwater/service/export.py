"""Documents on their way out: one consistent snapshot, then, if asked, every change after it.

Pages are read and encoded in a reading thread and wait in a spool, so that a slow client holds
back neither the snapshot nor memory. Nothing is sent twice in one run, and a run resumed from a
checkpoint ends in the state of its own snapshot:

    first run, cut after row r of snapshot S1        rows ≤ r as of S1
    resumed at snapshot S2                           rows ≤ r changed after S1, deletions after S1,
                                                     then rows > r, all as of S2
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import anyio
import msgspec

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import InvalidCursor, StoreFailed
from headwater.feeds import Hub, Selection, Wish, parse_types
from headwater.model import Library, Position
from headwater.service.ingest import error_json
from headwater.service.render import document_json
from headwater.service.spool import Spool
from headwater.settings import IngestSettings, StoreSettings
from headwater.store.base import Reader, Snapshot
from headwater.threads import Pool

PAGE_DOCUMENTS = 1_000
PAGE_BYTES = 2 << 20
SLICE_DOCUMENTS, SLICE_BYTES = 200, 256 << 10
"""A page is read in slices of at most so many documents, fewer when those before were large, and
ends at so many bytes: what is held does not depend on how large documents are."""

_TOKEN = re.compile(r"([^~]*)~([0-9]{1,19})")
_encode = msgspec.json.Encoder().encode
Answer = Callable[[bytes], Awaitable[None]]


class Resume(NamedTuple):
    """Where an export goes on: rows up to `row` were sent as of `position`."""

    position: Position
    row: int


class Page(NamedTuple):
    lines: bytes
    documents: int
    last_row: int


class Export:
    """Streams libraries out. Loop only."""

    def __init__(
        self,
        log: Log,
        hub: Hub,
        clock: Clock,
        ingest: IngestSettings,
        store: StoreSettings,
        pool: Pool,
    ) -> None:
        self.log = log
        self.hub = hub
        self.clock = clock
        self._ingest = ingest
        self.max_snapshot = store.max_snapshot
        self._pool = pool

    def token(self, resume: Resume) -> str:
        """A checkpoint's opaque `after`."""
        text = f"{self.log.cursor(resume.position)}~{resume.row}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    async def resume(self, token: str) -> Resume:
        """Raises `InvalidCursor`; `CursorExpired` when the log was trimmed since."""
        try:
            text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        except (binascii.Error, ValueError):
            text = ""
        match = _TOKEN.fullmatch(text)
        if match is None or (row := int(match[2])) >= 1 << 63:
            raise InvalidCursor(
                "`after` is not from a checkpoint of an export; leave it out to begin anew"
            )
        cursor = await self.log.within(await self.log.parse(match[1]))
        return Resume(cursor.position, row)

    async def run(
        self,
        library: Library,
        answer: Answer,
        *,
        include: Collection[str],
        resume: Resume | None,
    ) -> Position | None:
        """Send the export to its summary; the position to follow on from.

        None when it could not be read to its end, which the client has then been told.
        """
        spool = Spool(self._ingest.spill_memory_bytes, self._ingest.spill_file_bytes, self._pool)
        snapshot = _Run(self, library, spool, include)
        try:
            async with anyio.create_task_group() as tasks:

                async def pump() -> None:
                    while (piece := await spool.get()) is not None:
                        await answer(piece)

                tasks.start_soon(pump)
                position = await snapshot.read(resume)
                spool.end()
        finally:
            spool.close()
        return position

    async def follow(self, library: Library, position: Position, answer: Answer) -> None:
        """Send every change of the library's documents after `position`, each once, in order.

        Ends with a goodbye when the feeds are stopped or at maximum age. To be called outside
        any scope that is cancelled with the feeds: that would cut the goodbye off. Raises
        `CursorExpired`, `ShuttingDown`, `Overloaded`.
        """
        wish = Wish(
            Selection(frozenset({library.id}), told=parse_types("document.*,library.deleted")),
            documents=True,
        )
        settings = self.hub.settings
        cursor = self.log.cursor(position)
        ends_s = self.clock.monotonic() + settings.max_age.total_seconds()
        reason = "stopping"
        with self.hub.streams.open():
            while self.clock.monotonic() < ends_s:
                page = await self.hub.page(wish, cursor, settings.page_changes, settings.heartbeat)
                if page.events:
                    lines = [
                        b'{"type":"change","event":%b}\n' % event.json for event in page.events
                    ]
                    await answer(b"".join(lines))
                else:
                    await answer(_line({"type": "heartbeat", "cursor": str(page.cursor)}))
                cursor = page.cursor
            reason = "max_age"
        with anyio.move_on_after(1, shield=True):
            await answer(_line({"type": "goodbye", "cursor": str(cursor), "reason": reason}))


class _Run:
    """One reading of one snapshot into a spool."""

    def __init__(
        self, export: Export, library: Library, spool: Spool, include: Collection[str]
    ) -> None:
        self._export = export
        self._library = library
        self._spool = spool
        self._include = include
        self._vectors = "vectors" in include
        self._documents = 0
        self._checkpoints = 0

    async def read(self, resume: Resume | None) -> Position | None:
        """The snapshot's position, or None when it could not be read in time."""
        export = self._export
        started_s = export.clock.monotonic()
        async with export.log.store.snapshot() as snapshot:
            with anyio.move_on_after(export.max_snapshot.total_seconds()) as scope:
                if resume is not None:
                    await self._deletions(snapshot, resume)
                    await self._pages(snapshot, 0, resume.row, resume.position)
                await self._pages(snapshot, resume.row if resume else 0, None, None)
                if resume is not None and not self._checkpoints:
                    # Nothing new, but what has changed was told: go on from here next time.
                    await self._spool.put(self._checkpoint(snapshot, resume.row))
        if scope.cancelled_caught:
            error = StoreFailed(
                f"the export could not be read within {export.max_snapshot}; "
                "go on from the last checkpoint"
            )
            await self._spool.put(_line({"type": "error", "error": error_json(error)}))
            return None
        await self._spool.put(
            _line(
                {
                    "type": "summary",
                    "documents": self._documents,
                    "cursor": str(export.log.cursor(snapshot.position)),
                    "took_ms": round((export.clock.monotonic() - started_s) * 1000),
                }
            )
        )
        return snapshot.position

    async def _pages(
        self,
        snapshot: Snapshot,
        after_row: int,
        through_row: int | None,
        changed_after: Position | None,
    ) -> None:
        """Documents in order of first insertion, a checkpoint after each page.

        While catching up (`changed_after`) there are no checkpoints: only rows beyond
        `through_row` continue the order they speak of.
        """
        while True:
            start = after_row

            def query(reader: Reader, start: int = start) -> Page:
                return self._page(reader, start, through_row, changed_after)

            page = await snapshot.read(query)
            if not page.documents:
                return
            after_row = page.last_row
            self._documents += page.documents
            lines = page.lines
            if changed_after is None:
                lines += self._checkpoint(snapshot, page.last_row)
            await self._spool.put(lines)

    def _checkpoint(self, snapshot: Snapshot, row: int) -> bytes:
        self._checkpoints += 1
        after = self._export.token(Resume(snapshot.position, row))
        return _line({"type": "checkpoint", "after": after, "documents": self._documents})

    def _page(
        self,
        reader: Reader,
        after_row: int,
        through_row: int | None,
        changed_after: Position | None,
    ) -> Page:
        log_id, include = self._export.log.store.log_id, self._include
        lines: list[bytes] = []
        size_bytes, slice_documents = 0, 16
        while len(lines) < PAGE_DOCUMENTS and size_bytes < PAGE_BYTES:
            limit = min(slice_documents, PAGE_DOCUMENTS - len(lines))
            documents = reader.documents(
                self._library.number,
                after_row=after_row,
                through_row=through_row,
                changed_after=changed_after,
                limit=limit,
            )
            before_bytes = size_bytes
            for document, chunks in zip(
                documents, reader.chunks(documents, vectors=self._vectors), strict=True
            ):
                encoded = _encode(document_json(document, chunks, log_id, include))
                lines.append(b'{"type":"document",' + encoded[1:])
                size_bytes += len(encoded)
            if documents:
                after_row = documents[-1].row
                fitting = SLICE_BYTES * len(documents) // (size_bytes - before_bytes)
                slice_documents = min(max(fitting, 1), SLICE_DOCUMENTS)
            if len(documents) < limit:
                break
        count = len(lines)
        lines.append(b"")
        return Page(b"\n".join(lines), count, after_row)

    async def _deletions(self, snapshot: Snapshot, resume: Resume) -> None:
        """Tell which documents went since the run that is resumed."""
        log = self._export.log
        position = resume.position
        while position < snapshot.position:
            after = position
            page = await snapshot.read(
                lambda reader, after=after: reader.log(  # type: ignore[misc]  # default argument
                    after,
                    PAGE_DOCUMENTS,
                    library_ids={self._library.id},
                    types={"document.deleted"},
                )
            )
            lines = [
                _line(
                    {
                        "type": "deleted",
                        "id": change.subject,
                        "cursor": str(log.cursor(change.position)),
                    }
                )
                for change in page.changes
            ]
            if lines:
                await self._spool.put(b"".join(lines))
            position = page.through


def _line(record: dict[str, object]) -> bytes:
    return _encode(record) + b"\n"
