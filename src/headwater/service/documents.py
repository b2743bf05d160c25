"""One document at a time, and small batches: the way of a write from the edge to the store.

    input → `Preparer` → embedder → one `PutDocuments` → wait for the views

It must not answer before the write is durable and, unless asked otherwise, searchable here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.embed import Embedders
from headwater.errors import (
    DimensionMismatch,
    DocumentNotFound,
    HeadwaterError,
    LibraryNotFound,
    LibraryRegenerated,
)
from headwater.filters import Filter
from headwater.model import Library, Position, Written
from headwater.search.base import SearchEngine
from headwater.service.drafts import (
    DocumentInput,
    Prepared,
    Preparer,
    Refusal,
    check_title,
    encode_metadata,
    matrix,
    prepare_all,
    texts_to_embed,
    without_vector,
)
from headwater.service.embedding import DocumentEmbedding, Failure, OnFailure
from headwater.service.listing import DocumentPage, FoundDocument, page_of
from headwater.service.refusing import embedded_or_refused
from headwater.settings import LimitSettings
from headwater.store.base import (
    UNSET,
    DeleteDocument,
    Missing,
    PatchDocument,
    PutDocuments,
    Reader,
    Unset,
)
from headwater.threads import Pool

WriteDocuments = Callable[[PutDocuments], Awaitable[list[Written | HeadwaterError]]]

SMALL_INPUT_BYTES = 4_096
"""Below this, preparing a document on the loop is cheaper than crossing to a thread."""


class Documents:
    """Reads and writes of single documents. Loop only."""

    def __init__(
        self,
        log: Log,
        engine: SearchEngine,
        embedders: Embedders,
        embedding: DocumentEmbedding,
        clock: Clock,
        limits: LimitSettings,
        pool: Pool,
    ) -> None:
        self._log = log
        self._engine = engine
        self._embedders = embedders
        self._embedding = embedding
        self._clock = clock
        self._limits = limits
        self._pool = pool
        self._regenerated: dict[str, Library] = {}

    def preparer(self, library: Library) -> Preparer:
        """Raises `EmbedderMismatch` when the library's model is not the one running here."""
        return Preparer(
            library,
            self._embedders.bound(library),
            max_chunks=self._limits.chunks_per_document,
            new_id=self._clock.uuid7,
        )

    async def put(
        self,
        library: Library,
        given: DocumentInput,
        *,
        size_bytes: int,
        must_be_new: bool = False,
        if_version: int | None = None,
        searchable: bool = True,
        on_failure: OnFailure = "pending",
    ) -> Written:
        """Insert or replace one document; `size_bytes` is what it took on the wire.

        Raises the errors of `Preparer.prepare`, `DocumentExists`, `VersionMismatch`,
        `LibraryNotFound`. Without vectors in time the document is pending, as the result says, or
        `EmbedderFailed`, `EmbedderUnavailable` or `Overloaded` is raised.
        """
        preparer = self.preparer(library)
        if size_bytes <= SMALL_INPUT_BYTES:
            prepared = preparer.prepare(given, must_be_new=must_be_new, if_version=if_version)
        else:
            prepared = await self._pool.call(
                lambda: preparer.prepare(given, must_be_new=must_be_new, if_version=if_version)
            )
        if on_failure == "refuse":
            (embedded,) = await self.embedded(library, [prepared])
            if isinstance(embedded, Refusal):
                raise embedded.error
            prepared = embedded
        (written,) = await self.commit(await self.command(library, [prepared]))
        if isinstance(written, Refusal):
            raise written.error
        if searchable:
            await self._engine.caught_up(library.id, written.position)
        return written

    async def put_batch(
        self,
        library: Library,
        bodies: Sequence[bytes],
        *,
        searchable: bool = True,
        on_failure: OnFailure = "pending",
    ) -> list[Written | Refusal]:
        """Insert or replace several, in order; one that is refused does not harm the others."""
        preparer = self.preparer(library)
        prepared = await self._pool.call(prepare_all, preparer, bodies)
        if on_failure == "refuse":
            prepared = await self.embedded(library, prepared)
        ready = [item for item in prepared if isinstance(item, Prepared)]
        done = await self.commit(await self.command(library, ready)) if ready else []
        results = in_order(prepared, done)
        if searchable:
            positions = [result.position for result in done if isinstance(result, Written)]
            await self._engine.caught_up(library.id, max(positions, default=0))
        return results

    async def embedded(
        self, library: Library, prepared: Sequence[Prepared | Refusal]
    ) -> list[Prepared | Refusal]:
        """Embed what came without vectors now; what gets none is refused with the reason.

        Raises `EmbedderMismatch`, `ShuttingDown`.
        """
        return await embedded_or_refused(self._embedding, library, prepared)

    async def command(
        self, library: Library, prepared: Sequence[Prepared], batch_id: str | None = None
    ) -> PutDocuments:
        """Embed what came without vectors: the write that is left to do.

        What gets no vectors now is marked as missing them, to be stored as pending. The library's
        view is opened first, so that it grows with the documents and the first search finds it
        there. Raises `EmbedderMismatch`.
        """
        self._engine.open(library)
        texts = texts_to_embed(prepared)
        missing: Missing | None = None
        embedded = np.empty((0, library.dimension), dtype=np.float32)
        if texts:
            outcome = await self._embedding.vectors(library, texts)
            if isinstance(outcome, Failure):
                missing = self._missing(outcome, prepared)
                embedded = np.zeros((len(texts), library.dimension), dtype=np.float32)
            else:
                embedded = outcome
        vectors = matrix(prepared, embedded, library.dimension)
        drafts = [item.draft for item in prepared]
        return PutDocuments(library.number, drafts, vectors, batch_id, missing, library.generation)

    def _missing(self, failure: Failure, prepared: Sequence[Prepared]) -> Missing:
        return Missing(
            without_vector(prepared),
            attempts=int(failure.tried),
            # At once: it is yet to be found whether a text is to blame, or a key, or a model.
            due_us=self._clock.now_us(),
            code=failure.error.code,
            detail=failure.error.detail,
            retryable=failure.error.retryable,
        )

    async def commit(
        self, command: PutDocuments, write: WriteDocuments | None = None
    ) -> list[Written | Refusal]:
        """Write in one transaction, durable when this returns; a result per draft, in order.

        `write` does it, where that is more than the command alone.
        """
        try:
            outcomes: list[Written | HeadwaterError] = await (write or self._log.store.write)(
                command
            )
        except LibraryRegenerated:
            return await self._anew(command, write)
        if any(isinstance(outcome, Written) and outcome.pending for outcome in outcomes):
            self._embedding.wake()
        return [
            Refusal(draft.id, outcome) if isinstance(outcome, HeadwaterError) else outcome
            for draft, outcome in zip(command.drafts, outcomes, strict=True)
        ]

    def current(self, library: Library) -> Library:
        """The library, as it is since its vectors were made anew, if this part has met that."""
        return self._regenerated.get(library.id, library)

    async def _anew(
        self, command: PutDocuments, write: WriteDocuments | None
    ) -> list[Written | Refusal]:
        """Write what was embedded before the library's vectors were made anew.

        Every chunk with a text is embedded again, as the job does it.
        """
        found = await self._log.store.read(
            lambda reader: reader.libraries(after=command.number - 1, limit=1)
        )
        if not found or found[0].number != command.number:
            raise LibraryNotFound("the library was deleted")
        library = self._regenerated[found[0].id] = found[0]
        items: list[Prepared | Refusal] = []
        at = 0
        for draft in command.drafts:
            own = command.vectors[at : at + len(draft.chunks)]
            at += len(draft.chunks)
            vectors = tuple(
                None if chunk.text is not None else vector
                for chunk, vector in zip(draft.chunks, own, strict=True)
            )
            if any(vector is not None and len(vector) != library.dimension for vector in vectors):
                error = DimensionMismatch(
                    f"library {library.name!r} has dimension {library.dimension} by now",
                    expected=library.dimension,
                    given=own.shape[1],
                )
                items.append(Refusal(draft.id, error))
            else:
                items.append(Prepared(draft, vectors))
        ready = [item for item in items if isinstance(item, Prepared)]
        done: list[Written | Refusal] = []
        if ready:
            done = await self.commit(await self.command(library, ready, command.batch_id), write)
        return in_order(items, done)

    async def embed_pending(self, library: Library) -> int:
        """Try the library's pending documents now; how many there are."""
        return await self._embedding.redrive(library)

    async def patch(
        self,
        library: Library,
        id: str,
        *,
        title: str | Unset | None = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
        if_version: int | None = None,
        searchable: bool = True,
    ) -> Written:
        """Change title and metadata (a JSON merge patch); chunks and vectors stay.

        Raises `DocumentNotFound`, `VersionMismatch`.
        """
        if not isinstance(title, Unset):
            check_title(title)
        if not isinstance(metadata, Unset):
            encode_metadata(metadata)  # refuses what cannot be stored
        written: Written = await self._log.store.write(
            PatchDocument(library.number, id, title, metadata, if_version)
        )
        if searchable:
            await self._engine.caught_up(library.id, written.position)
        return written

    async def delete(
        self,
        library: Library,
        id: str,
        *,
        if_version: int | None = None,
        searchable: bool = True,
    ) -> Position:
        """Raises `DocumentNotFound`, `VersionMismatch`."""
        position: Position = await self._log.store.write(
            DeleteDocument(library.number, id, if_version)
        )
        if searchable:
            await self._engine.caught_up(library.id, position)
        return position

    async def get(self, library: Library, id: str, *, vectors: bool = False) -> FoundDocument:
        """Raises `DocumentNotFound`."""

        def query(reader: Reader) -> FoundDocument | None:
            document = reader.document(library.number, id)
            if document is None:
                return None
            return FoundDocument(document, reader.chunks([document], vectors=vectors)[0])

        found = await self._log.store.read(query)
        if found is None:
            raise DocumentNotFound(
                f"library {library.name!r} has no document {id[:80]!r}", document_id=id[:256]
            )
        return found

    async def page(
        self,
        library: Library,
        after_row: int,
        limit: int,
        *,
        chunks: bool,
        vectors: bool,
        pending: bool = False,
        filter: Filter | None = None,
    ) -> DocumentPage:
        """As `page_of`."""
        query = partial(
            page_of,
            library=library,
            after_row=after_row,
            limit=limit,
            chunks=chunks,
            vectors=vectors,
            pending=pending,
            filter=filter,
        )
        return await self._log.store.read(query)


def in_order(
    prepared: Sequence[Prepared | Refusal], done: Sequence[Written | Refusal]
) -> list[Written | Refusal]:
    """Results in the places of their documents; `done` has those of the ones that were prepared."""
    results = iter(done)
    return [item if isinstance(item, Refusal) else next(results) for item in prepared]
