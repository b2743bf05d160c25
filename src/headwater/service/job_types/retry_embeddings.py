"""`retry_embeddings`: every pending document of a library is tried again, and it is told how far.

The keeper of the data folder does the embedding (`service/embedding.py`); the job has them all made
due, and watches. It ends when each has been tried since.
"""

from __future__ import annotations

import anyio
import msgspec

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import EmbedderUnavailable
from headwater.jobs.base import JobContext, Params, Result
from headwater.model import Library
from headwater.service.embedding import DocumentEmbedding
from headwater.service.job_types.params import kept, read
from headwater.service.libraries import Libraries
from headwater.store.base import Reader, RedriveEmbedding

_LOOK_S = 0.5
_PATIENCE_S = 60.0
"""Without a document more that was tried: the embedder is down, the job is tried again later."""


class RetryParams(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing to say."""


class RetryEmbeddings:
    """Loop only."""

    type = "retry_embeddings"
    heavy = False
    needs_library = True

    def __init__(
        self, log: Log, libraries: Libraries, embedding: DocumentEmbedding, clock: Clock
    ) -> None:
        self._log = log
        self._libraries = libraries
        self._embedding = embedding
        self._clock = clock

    async def check(self, params: Params, library: Library | None) -> Params:
        return kept(read(params, RetryParams))

    async def run(self, context: JobContext) -> Result:
        library = await self._libraries.fresh(context.job.library_id or "")
        total = context.saved.get("total")
        if total is None:
            total = await context.write(
                RedriveEmbedding(library.number), state=lambda count: {"total": count}
            )
        self._embedding.wake()
        waiting, error = await self._watch(context, library, total)
        if error is not None:
            raise EmbedderUnavailable(
                f"{waiting} documents of library {library.name!r} wait for their embedder, which "
                f"does not answer: {error}"
            )
        left = (await self._libraries.fresh(library.id)).pending
        return {"tried": total, "embedded": max(0, total - left), "pending": left}

    async def _watch(
        self, context: JobContext, library: Library, total: int
    ) -> tuple[int, str | None]:
        """How many wait for a try in the end, and why they were not tried."""
        number = library.number
        least, since_s = total + 1, self._clock.monotonic()

        def look(reader: Reader) -> tuple[int, str]:
            first = reader.due_documents(number, limit=1)
            pending = None if not first else first[0].pending
            # What was made due by hand is due before all time; a try ends that.
            if pending is None or pending.due_us >= 0:
                return 0, ""
            found = reader.library(library.id)
            return (found.pending if found is not None else 0), pending.detail

        while True:
            after = self._log.head
            waiting, detail = await context.read(look)
            context.progress(max(0, total - waiting), total, "embedding")
            if not waiting:
                return 0, None
            now_s = self._clock.monotonic()
            if waiting < least:
                least, since_s = waiting, now_s
            elif now_s - since_s > _PATIENCE_S:
                return waiting, detail
            with anyio.move_on_after(_LOOK_S):
                await self._log.bell.wait_past(after)
