"""Lines to documents: grouped, prepared, embedded, and handed on to be committed.

    lines ─▶ groups ─▶ prepare + embed ─▶ `write`

Each arrow is a task with room for one group, so that one group is embedded while the one before is
committed. Used by the ingest stream and by imports, which differ in where lines come from and in
what they do with results. Memory is bounded by the groups in flight.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from headwater.errors import HeadwaterError, LineTooLong
from headwater.model import Library
from headwater.service.documents import Documents
from headwater.service.drafts import Prepared, Refusal, prepare_all
from headwater.service.embedding import OnFailure
from headwater.service.lines import Line
from headwater.settings import IngestSettings
from headwater.store.base import PutDocuments
from headwater.threads import Pool

Group = list[Line]
PreparedGroup = tuple[Group, list[Prepared | Refusal], PutDocuments | None]
"""Lines, what was made of each, and the write for those that were prepared, if any."""
Write = Callable[[Group, list[Prepared | Refusal], PutDocuments | None], Awaitable[None]]


class Intake:
    """One source of lines on its way into one library. Loop only.

    `write` is called with each group, in order, one at a time. When a whole group fails before
    that, with `refuse` each of its lines says so and the lines after it get their own chance;
    without, `run` raises. `name` gives the id of a document without one, by its line's number.
    `on_failure` says what becomes of documents that get no vectors now.
    """

    def __init__(
        self,
        documents: Documents,
        library: Library,
        settings: IngestSettings,
        pool: Pool,
        write: Write,
        *,
        line_bytes: int,
        batch_id: str,
        refuse: bool,
        name: Callable[[int], str] | None = None,
        on_failure: OnFailure = "pending",
    ) -> None:
        self._documents = documents
        self._library = library
        self._settings = settings
        self._pool = pool
        self._write = write
        self._line_bytes = line_bytes
        self._batch_id = batch_id
        self._refuse = refuse
        self._name = name
        self._on_failure = on_failure

    async def run(self, batches: AsyncIterator[list[Line]]) -> None:
        """Take everything in. Exceptions come in groups, as of a task group."""
        send_lines, lines = anyio.create_memory_object_stream[Group](1)
        send_ready, ready = anyio.create_memory_object_stream[PreparedGroup](1)
        # Receiving ends are closed last: whoever still sends is cancelled, and meets no error.
        with lines, ready:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, batches, send_lines)
                tasks.start_soon(self._prepare, lines, send_ready)
                tasks.start_soon(self._commit, ready)

    async def _read(
        self, batches: AsyncIterator[list[Line]], groups: MemoryObjectSendStream[Group]
    ) -> None:
        """Cut the lines into groups: full ones at once, others when the sender pauses."""
        grouping = _Grouping(self._settings, groups)
        async with groups, anyio.create_task_group() as tasks:
            tasks.start_soon(grouping.flush_pauses)
            async for lines in batches:
                await grouping.add(lines)
            await grouping.flush()
            tasks.cancel_scope.cancel()

    async def _prepare(
        self,
        groups: MemoryObjectReceiveStream[Group],
        ready: MemoryObjectSendStream[PreparedGroup],
    ) -> None:
        too_long = LineTooLong(
            f"the line is longer than {self._line_bytes} bytes; split the document, "
            "or raise `limits.line_bytes`"
        )
        async with ready:
            async for group in groups:
                # A stream may live through a change of its library's model.
                library = self._documents.current(self._library)
                preparer = self._documents.preparer(library)
                bodies = [too_long if line.body is None else line.body for line in group]
                names = None if self._name is None else _Names(group, self._name)
                prepared = await self._pool.call(prepare_all, preparer, bodies, names)
                command = None
                try:
                    if self._on_failure == "refuse":
                        prepared = await self._documents.embedded(library, prepared)
                    drafted = [item for item in prepared if isinstance(item, Prepared)]
                    if drafted:
                        command = await self._documents.command(library, drafted, self._batch_id)
                except HeadwaterError as error:
                    if not self._refuse:
                        raise
                    prepared = refused(prepared, error)
                await ready.send((group, prepared, command))

    async def _commit(self, ready: MemoryObjectReceiveStream[PreparedGroup]) -> None:
        async for group, prepared, command in ready:
            await self._write(group, prepared, command)


def refused(prepared: list[Prepared | Refusal], error: HeadwaterError) -> list[Prepared | Refusal]:
    """A whole group failed (the store, the embedder, a deleted library): each of its lines says
    so."""
    return [
        item if isinstance(item, Refusal) else Refusal(item.draft.id, error) for item in prepared
    ]


class _Names:
    """The ids of a group's documents that have none, by their place in it."""

    def __init__(self, group: Group, name: Callable[[int], str]) -> None:
        self._group = group
        self._name = name

    def __call__(self, place: int) -> str:
        return self._name(self._group[place].number)


class _Grouping:
    """Collects lines into groups by count, bytes and pauses of the sender."""

    def __init__(self, settings: IngestSettings, groups: MemoryObjectSendStream[Group]) -> None:
        self._settings = settings
        self._groups = groups
        self._lines: Group = []
        self._size_bytes = 0
        self._added = anyio.Event()
        self._lock = anyio.Lock()

    async def add(self, lines: list[Line]) -> None:
        most_lines, most_bytes = self._settings.group_lines, self._settings.group_bytes
        for line in lines:
            self._lines.append(line)
            if isinstance(line.body, bytes):
                self._size_bytes += len(line.body)
            if len(self._lines) >= most_lines or self._size_bytes >= most_bytes:
                await self.flush()
        if self._lines:
            self._added.set()

    async def flush(self) -> None:
        async with self._lock:  # groups leave in the order they were filled
            lines, self._lines = self._lines, []
            self._size_bytes = 0
            if lines:
                await self._groups.send(lines)

    async def flush_pauses(self) -> None:
        """Send a started group when nothing was added for the linger time."""
        linger_s = self._settings.linger_ms / 1000
        while True:
            await self._added.wait()
            self._added = anyio.Event()
            with anyio.move_on_after(linger_s):
                await self._added.wait()
                continue
            await self.flush()
