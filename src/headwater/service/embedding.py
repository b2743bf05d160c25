"""Vectors for documents: now, when the embedder gives them in time, else later.

Writes ask `vectors` and store what gets none as pending. The keeper of the data folder tries the
pending documents again, each library by itself, so that a slow or failing embedder holds up no
other. What waits, how often it was tried and why it failed is in the store: nothing is lost with
the process, and an embedding that was made and not yet written is simply made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import anyio
import anyio.abc
import structlog

from headwater import failpoints
from headwater.changes.log import Log
from headwater.clock import Clock, chance
from headwater.embed import Embedders
from headwater.errors import (
    EmbedderFailed,
    EmbedderUnavailable,
    HeadwaterError,
    LibraryNotFound,
    Overloaded,
    ShuttingDown,
    Unavailable,
)
from headwater.model import Chunk, Committed, Document, Library, Position, Vectors
from headwater.service.drafts import filled
from headwater.settings import EmbedSettings
from headwater.store import DataFolder
from headwater.store.base import DeferEmbedding, Embedding, EmbedDocuments, Reader, RedriveEmbedding

BATCH_DOCUMENTS = 256
BATCH_CHUNKS = 512
"""Tried together, at most, unless a single document has more chunks."""
LOOK_S = 1.0
"""How often the store is asked what is pending: other processes write there too."""
PAUSE_S = 0.02
"""Between two looks, however many writes call for one."""
WRITES_REST_S = 30.0
"""The longest that writes leave an embedder alone that has failed, before one tries it again."""
PATIENCE_S = 600.0
"""What nobody waits for may take this long."""
OFTEN = 5
"""After so many failures it is first asked whether the embedder answers at all."""
BLAMED = 8
"""After so many, a document that fails by itself while the embedder answers is put aside."""
REFUSED_IN_A_ROW = 4
"""So many documents refused one after another are not to blame themselves, most likely."""

OnFailure = Literal["pending", "refuse"]
"""What becomes of a document that gets no vectors now."""

OWN_WORK = frozenset({"static", "fastembed", "sentence-transformers"})
"""These wait for nothing but this machine's CPU: there, slowness is for the writers to feel."""

Waiting = tuple[Document, list[Chunk]]

log_line = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there are no vectors now; `tried` says whether the embedder was asked at all."""

    error: HeadwaterError
    tried: bool


@dataclass(slots=True)
class _Rest:
    """After failures in a row the embedder of a library is left alone for a while."""

    error: HeadwaterError
    failures: int = 0
    writes_until: float = 0.0
    retry_at: float = 0.0
    probing: bool = False
    """A write asks now, to find out how the embedder is; others do not wait with it."""


class DocumentEmbedding:
    """Embeds documents for writes, and the pending ones in the background. Loop only."""

    def __init__(
        self,
        log: Log,
        folder: DataFolder,
        embedders: Embedders,
        clock: Clock,
        settings: EmbedSettings,
        *,
        jitter: Callable[[], float] = chance,
    ) -> None:
        self._log = log
        self._folder = folder
        self._embedders = embedders
        self._clock = clock
        self._settings = settings
        self._jitter = jitter
        self._rests: dict[str, _Rest] = {}
        self._workers: dict[int, anyio.Event] = {}
        """By the number of the library each is at work for; the event ends its waiting."""
        self._sizes: dict[int, int] = {}
        """Documents that are tried together, where these fail though the embedder answers: halved
        by each failure, doubled by each success, so that one never holds up all others."""
        self._driven: dict[int, int] = {}
        """When somebody last asked for all of a library, as the store has it: negative."""
        self._news = anyio.Event()
        log.on_news(self._notice)

    # ── For writes ──────────────────────────────────────────────────────────────────────────────

    async def vectors(self, library: Library, texts: Sequence[str]) -> Vectors | Failure:
        """One vector per text, or why there are none in the time a write waits for them.

        After a failure writes are not kept waiting again: when the embedder has been left alone
        for a while one of them asks, and the others go on without until that is decided. Raises
        `EmbedderMismatch`, `ShuttingDown`.
        """
        rest = self._rests.get(library.id)
        if rest is None:
            return await self._vectors(library, texts)
        if rest.probing or self._clock.monotonic() < rest.writes_until:
            return Failure(rest.error, tried=False)
        rest.probing = True
        try:
            return await self._vectors(library, texts)
        finally:
            rest.probing = False

    async def _vectors(self, library: Library, texts: Sequence[str]) -> Vectors | Failure:
        wait_s = None
        if library.embedder.partition(":")[0] not in OWN_WORK:
            wait_s = self._settings.write_wait.total_seconds()
        try:
            vectors = await self._ask(library, texts, wait_s)
        except (EmbedderFailed, EmbedderUnavailable, Overloaded) as error:
            if error.retryable and not is_refusal(error):
                self._rest(library, error)
            return Failure(error, tried=True)
        self._healed(library)
        return vectors

    async def redrive(self, library: Library) -> int:
        """Try all pending documents of the library now; how many there are."""
        count: int = await self._log.store.write(RedriveEmbedding(library.number))
        self._rests.pop(library.id, None)
        self.wake()
        return count

    def wake(self) -> None:
        """There is something new to try."""
        self._news.set()

    # ── In the background ───────────────────────────────────────────────────────────────────────

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Try what is pending again until cancelled, once this process keeps the folder."""
        task_status.started()
        while not self._folder.keeps:  # noqa: ASYNC110 - a lock file rings no bell
            await anyio.sleep(LOOK_S)
        fresh = True
        async with anyio.create_task_group() as tasks:
            while True:
                self._news = anyio.Event()
                try:
                    if fresh:
                        await self._begin()
                        fresh = False
                    await self._look(tasks)
                except Unavailable as error:
                    log_line.warning("embedding.waiting_for_store", detail=error.detail)
                await anyio.sleep(PAUSE_S)
                with anyio.move_on_after(LOOK_S):
                    await self._news.wait()

    async def _begin(self) -> None:
        """Try what was refused too: a key or a model may have been put right since."""
        for library in await self._log.store.read(lambda reader: reader.libraries_pending()):
            with suppress(LibraryNotFound):
                await self._log.store.write(RedriveEmbedding(library.number))

    async def _look(self, tasks: anyio.abc.TaskGroup) -> None:
        for library in await self._log.store.read(lambda reader: reader.libraries_pending()):
            news = self._workers.get(library.number)
            if news is None:
                self._workers[library.number] = anyio.Event()
                tasks.start_soon(self._work, library)
            else:
                news.set()

    async def _work(self, library: Library) -> None:
        """One library's pending documents, to the last."""
        try:
            while await self._step(library):
                pass
            self.wake()  # there may be new ones since it was found that there are none
        except LibraryNotFound:
            self._sizes.pop(library.number, None)
            self._driven.pop(library.number, None)
        except Unavailable as error:
            log_line.warning("embedding.interrupted", library=library.id, detail=error.detail)
        except Exception as error:
            # The task's root: another library's must not end with it. Tried again like a failure.
            log_line.exception("embedding.broken", library=library.id)
            self._rest(library, EmbedderUnavailable(f"embedding broke off: {error}"))
        finally:
            del self._workers[library.number]

    async def _step(self, library: Library) -> bool:
        """Try a batch, or wait for what may be tried; False when nothing is pending."""
        news = self._workers[library.number] = anyio.Event()
        first = await self._log.store.read(
            lambda reader: reader.due_documents(library.number, limit=1)
        )
        if not first or first[0].pending is None:
            self._rests.pop(library.id, None)
            self._sizes.pop(library.number, None)
            return False
        due_us = first[0].pending.due_us
        if due_us < self._driven.get(library.number, 0):
            self._driven[library.number] = due_us
            self._rests.pop(library.id, None)
        rest = self._rests.get(library.id)
        wait_s = (due_us - self._clock.now_us()) / 1_000_000
        if rest is not None:
            wait_s = max(wait_s, rest.retry_at - self._clock.monotonic())
        if wait_s > 0:
            with anyio.move_on_after(wait_s):
                await news.wait()
            return True
        await self._try(library, await self._batch(library))
        return True

    async def _batch(self, library: Library) -> list[Waiting]:
        now_us = self._clock.now_us()
        most = self._sizes.get(library.number, BATCH_DOCUMENTS)

        def query(reader: Reader) -> list[Waiting]:
            taken: list[Document] = []
            chunks = 0
            for document in reader.due_documents(library.number, limit=most):
                chunks += document.chunks.count
                due = document.pending is not None and document.pending.due_us <= now_us
                if not due or (taken and chunks > BATCH_CHUNKS):
                    break
                taken.append(document)
            return list(zip(taken, reader.chunks(taken, vectors=True), strict=True))

        return await self._log.store.read(query)

    async def _try(self, library: Library, batch: Sequence[Waiting]) -> None:
        """Embed and write; what is refused is halved until it is known which documents it is."""
        parts = [batch] if batch else []
        doubted = _attempts(batch) >= OFTEN
        if doubted and (error := await self._ails(library)) is not None:
            await self._defer(library, batch, error)
            return
        well = doubted
        in_a_row = 0
        while parts:
            part = parts.pop()
            error = await self._attempt(library, part)
            if isinstance(error, EmbedderFailed) and not well:
                # A text, or the key, the model, the embedder as a whole?
                well = await self._ails(library) is None
            if error is None:
                in_a_row = 0
            elif not (well and _is_to_blame(part, error)):
                if doubted:
                    self._sizes[library.number] = max(1, len(part) // 2)
                await self._defer(library, [*part, *chain.from_iterable(parts)], error)
                return
            elif len(part) > 1:
                half = len(part) // 2
                parts += (part[half:], part[:half])
            else:
                await self._put_aside(library, part, error)
                in_a_row += 1
                if in_a_row == REFUSED_IN_A_ROW and parts:
                    await self._defer(library, list(chain.from_iterable(parts)), error)
                    return

    async def _ails(self, library: Library) -> HeadwaterError | None:
        """What the embedder answers to a plain word, if no vector."""
        try:
            await self._ask(library, ["word"], PATIENCE_S)
        except (LibraryNotFound, ShuttingDown):
            raise
        except HeadwaterError as error:
            return error
        self._healed(library)
        return None

    async def _attempt(self, library: Library, batch: Sequence[Waiting]) -> HeadwaterError | None:
        """Embed `batch` and write its vectors; the embedder's error when it gives none."""
        texts = [
            chunk.text or "" for _, chunks in batch for chunk in chunks if chunk.vector is None
        ]
        try:
            embedded = await self._ask(library, texts, PATIENCE_S)
        except (LibraryNotFound, ShuttingDown):
            raise
        except HeadwaterError as error:
            return error
        self._healed(library)
        if size := self._sizes.get(library.number):
            self._sizes[library.number] = min(2 * size, BATCH_DOCUMENTS)
        vectors = filled(
            [chunk.vector for _, chunks in batch for chunk in chunks], embedded, library.dimension
        )
        items: list[Embedding] = []
        at = 0
        for document, chunks in batch:
            items.append(Embedding(document.id, document.chunks, vectors[at : at + len(chunks)]))
            at += len(chunks)
        failpoints.reach("embedding.before_write")
        positions: list[Position | None] = await self._log.store.write(
            EmbedDocuments(library.number, items, library.generation)
        )
        log_line.info(
            "embedding.done",
            library=library.id,
            documents=sum(position is not None for position in positions),
        )
        return None

    async def _ask(self, library: Library, texts: Sequence[str], wait_s: float | None) -> Vectors:
        """One vector per text within `wait_s`. Raises what the embedder does."""
        with anyio.move_on_after(wait_s) as scope:
            vectors = await self._embedders.bound(library).embed(texts)
        if scope.cancelled_caught:
            raise EmbedderUnavailable(
                f"the embedder {library.embedder!r} gave no answer in {wait_s:g} s"
            )
        if vectors.shape != (len(texts), library.dimension):
            raise EmbedderFailed(
                f"the embedder {library.embedder!r} gave vectors of shape {vectors.shape} for "
                f"{len(texts)} texts in {library.dimension} dimensions; see its documentation"
            )
        return vectors

    async def _defer(
        self, library: Library, batch: Sequence[Waiting], error: HeadwaterError
    ) -> None:
        """The embedder is at fault: leave it alone for a while, then go on with these."""
        self._rest(library, error)
        await self._record(library, batch, error, self._clock.now_us())
        log_line.warning(
            "embedding.failed", library=library.id, code=error.code, detail=error.detail
        )

    async def _put_aside(
        self, library: Library, batch: Sequence[Waiting], error: HeadwaterError
    ) -> None:
        """The document is at fault: others come first, for a long time."""
        await self._record(library, batch, error, self._refused_until_us())
        log_line.warning(
            "embedding.refused",
            library=library.id,
            documents=[document.id for document, _ in batch],
            detail=error.detail,
        )

    async def _record(
        self, library: Library, batch: Sequence[Waiting], error: HeadwaterError, due_us: int
    ) -> None:
        if batch:
            rows = [document.row for document, _ in batch]
            await self._log.store.write(
                DeferEmbedding(
                    library.number, rows, due_us, error.code, error.detail, error.retryable
                )
            )

    def _refused_until_us(self) -> int:
        later = self._settings.pending_refused_again.total_seconds()
        return self._clock.now_us() + round(later * 1_000_000)

    # ── How the embedders are ───────────────────────────────────────────────────────────────────

    def _rest(self, library: Library, error: HeadwaterError) -> None:
        """Exponential backoff, with half of each wait left to chance."""
        now = self._clock.monotonic()
        rest = self._rests.get(library.id)
        if rest is None:
            rest = self._rests[library.id] = _Rest(error)
        rest.error = error
        if now < min(rest.retry_at, rest.writes_until):
            return  # several that were under way fail together: once is enough
        longest = self._settings.pending_backoff_max.total_seconds()
        first = self._settings.pending_backoff.total_seconds()
        wait = min(first * 2 ** min(rest.failures, 40), longest) * (1 + self._jitter()) / 2
        rest.failures += 1
        rest.retry_at = now + wait
        # Not less than a write waits, or a stream would spend most of its time in waiting.
        writes_wait = max(wait, self._settings.write_wait.total_seconds())
        rest.writes_until = now + min(writes_wait, WRITES_REST_S)

    def _healed(self, library: Library) -> None:
        if self._rests.pop(library.id, None) is not None:
            self.wake()

    def _notice(self, committed: Committed | None) -> None:
        if committed is None or not self._rests:
            return
        for change in committed.changes:
            if change.type == "library.deleted" and change.library_id is not None:
                self._rests.pop(change.library_id, None)


def is_refusal(error: HeadwaterError) -> bool:
    """Whether it is about these texts: the embedder does not take them, or fails at one of them."""
    about_one = "text_index" in error.fields
    return isinstance(error, EmbedderFailed) and (about_one or not error.retryable)


def _is_to_blame(batch: Sequence[Waiting], error: HeadwaterError) -> bool:
    """Whether it is one of these texts that an embedder fails at which is well otherwise."""
    if isinstance(error, EmbedderFailed):
        return True
    return len(batch) == 1 and _attempts(batch) >= BLAMED


def _attempts(batch: Sequence[Waiting]) -> int:
    """How often the one of them that has failed most has."""
    return max((one.pending.attempts for one, _ in batch if one.pending is not None), default=0)
