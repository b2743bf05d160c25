"""Documents on their way out: one consistent snapshot, then, if asked, every change after it.

Pages are read and encoded in a reading thread and wait in a spool, so that a slow client holds
back neither the snapshot nor memory. Nothing is sent twice in one run, and a run resumed from a
checkpoint ends in the state of its own snapshot:

    first run, cut after row r of snapshot S1        rows ≤ r as of S1
    resumed at snapshot S2                           rows ≤ r changed after S1, deletions after S1,
                                                     then rows > r, all as of S2

With a filter only documents that meet it are sent. One that may have been sent before, and has been
changed so that it does not meet it any more, is told as `unmatched`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

import anyio
import msgspec

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import InvalidCursor, StoreFailed
from headwater.feeds import Event, Hub, Selection, Wish, parse_types
from headwater.filters import Filter, matches
from headwater.model import Library, Position
from headwater.service.ingest import error_json
from headwater.service.libraries import still
from headwater.service.matching import meets
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
    """`looked_at` documents were read, `documents` of them are in `lines`."""

    lines: bytes
    documents: int
    looked_at: int
    last_row: int


class _DocumentEvent(msgspec.Struct):
    """What following a filter looks at in an event."""

    id: str
    type: str
    data: _DocumentData


class _DocumentData(msgspec.Struct):
    document_id: str | None = None
    metadata: dict[str, Any] = {}


_decode_event = msgspec.json.Decoder(_DocumentEvent).decode


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
        filter: Filter | None = None,
    ) -> Position | None:
        """Send the export to its summary; the position to follow on from.

        None when it could not be read to its end, which the client has then been told. Raises
        `LibraryNotFound`, before anything is sent.
        """
        spool = Spool(self._ingest.spill_memory_bytes, self._ingest.spill_file_bytes, self._pool)
        snapshot = _Run(self, library, spool, include, filter)
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

    async def follow(
        self, library: Library, position: Position, answer: Answer, filter: Filter | None = None
    ) -> None:
        """Send every change of the library's documents after `position`, each once, in order.

        With a filter, those that leave the document meeting it, and `unmatched` for an update that
        does not: whoever keeps what was sent then drops the document, if they had it.

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
        sent_s = self.clock.monotonic()
        reason = "stopping"
        with self.hub.streams.open():
            while self.clock.monotonic() < ends_s:
                page = await self.hub.page(wish, cursor, settings.page_changes, settings.heartbeat)
                lines = [line for event in page.events if (line := _change(event, filter))]
                now_s = self.clock.monotonic()
                if lines:
                    await answer(b"".join(lines))
                    sent_s = now_s
                elif not page.events or now_s >= sent_s + settings.heartbeat.total_seconds():
                    await answer(_line({"type": "heartbeat", "cursor": str(page.cursor)}))
                    sent_s = now_s
                cursor = page.cursor
            reason = "max_age"
        with anyio.move_on_after(1, shield=True):
            await answer(_line({"type": "goodbye", "cursor": str(cursor), "reason": reason}))


class _Run:
    """One reading of one snapshot into a spool."""

    def __init__(
        self,
        export: Export,
        library: Library,
        spool: Spool,
        include: Collection[str],
        filter: Filter | None,
    ) -> None:
        self._export = export
        self._library = library
        self._spool = spool
        self._include = include
        self._filter = filter
        self._vectors = "vectors" in include
        self._documents = 0
        self._checkpoints = 0

    async def read(self, resume: Resume | None) -> Position | None:
        """The snapshot's position, or None when it could not be read in time."""
        export = self._export
        started_s = export.clock.monotonic()
        async with export.log.store.snapshot() as snapshot:
            # Deleted just before, it would look empty, and a follower never hear that it went.
            await snapshot.read(lambda reader: still(reader, self._library))
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
            if not page.looked_at:
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
        count = looked_at = 0
        size_bytes, slice_documents = 0, 16
        while looked_at < PAGE_DOCUMENTS and size_bytes < PAGE_BYTES:
            limit = min(slice_documents, PAGE_DOCUMENTS - looked_at)
            documents = reader.documents(
                self._library.number,
                after_row=after_row,
                through_row=through_row,
                changed_after=changed_after,
                limit=limit,
            )
            looked_at += len(documents)
            before_bytes = size_bytes
            wanted = [document for document in documents if meets(self._filter, document.metadata)]
            if len(wanted) < len(documents):
                taken = {document.row for document in wanted}
                for document in documents:
                    if document.row in taken:
                        continue
                    size_bytes += len(document.metadata) + len(document.text or "") + 100
                    if changed_after is not None:
                        lines.append(_unmatched(document.id, f"{log_id}.{document.position}"))
            for document, chunks in zip(
                wanted, reader.chunks(wanted, vectors=self._vectors), strict=True
            ):
                encoded = _encode(document_json(document, chunks, log_id, include))
                lines.append(b'{"type":"document",' + encoded[1:])
                size_bytes += len(encoded)
            count += len(wanted)
            if documents:
                after_row = documents[-1].row
                fitting = SLICE_BYTES * len(documents) // (size_bytes - before_bytes)
                slice_documents = min(max(fitting, 1), SLICE_DOCUMENTS)
            if len(documents) < limit:
                break
        lines.append(b"")
        return Page(b"\n".join(lines), count, looked_at, after_row)

    async def _deletions(self, snapshot: Snapshot, resume: Resume) -> None:
        """Tell which documents went since the run that is resumed, whatever the filter says."""
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


def _change(event: Event, filter: Filter | None) -> bytes | None:
    """The line of one event; None when the filter has nothing to say of it."""
    if filter is not None and event.type.startswith("document."):
        facts = _decode_event(event.json)
        if not matches(filter, facts.data.metadata):
            if event.type == "document.updated" and facts.data.document_id is not None:
                return _unmatched(facts.data.document_id, facts.id) + b"\n"
            return None
    return b'{"type":"change","event":%b}\n' % event.json


def _unmatched(id: str, cursor: str) -> bytes:
    return _encode({"type": "unmatched", "id": id, "cursor": cursor})


def _line(record: dict[str, object]) -> bytes:
    return _encode(record) + b"\n"
