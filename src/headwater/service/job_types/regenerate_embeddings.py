"""`regenerate_embeddings`: the vectors of a library made anew, by another model or the same.

They are made beside the valid ones while reads and writes go on with those, a page and the place
reached in one transaction. When all are there an index of them is made, and one small transaction
makes them valid (`store/regeneration_commands.py`); what was written in the last moment, and what
the model does not take, is pending from then on. Afterwards they are moved to their place in
pieces.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import msgspec
import numpy as np

from headwater import failpoints
from headwater.embed import Embedder, Embedders
from headwater.errors import EmbedderFailed, HeadwaterError, InvalidJob, RegenerationRefused
from headwater.jobs.base import JobContext, Params, Result
from headwater.model import Library
from headwater.search.base import SearchEngine
from headwater.service.job_types.params import kept, read
from headwater.service.libraries import Libraries
from headwater.settings import LimitSettings
from headwater.store.base import Reader
from headwater.store.regeneration_commands import (
    BeginRegeneration,
    PutNextVectors,
    Regeneration,
    SettleVectors,
    SwitchGeneration,
)

_ROWS = 256
_LATE = 512
"""Chunks written while the last page was embedded that may be left to be pending."""
_MOVED = 500
_REFUSED_IN_A_ROW = 8
"""So many texts refused one after another are not to blame themselves, most likely."""

Text = tuple[int, str]


class RegenerateParams(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """By default the library's own embedder, and the dimension that the embedder has."""

    embedder: str | None = None
    dimension: int | None = None


class State(msgspec.Struct, omit_defaults=True):
    """Chunks up to `row` have their vectors of `generation`, `done` of them so far."""

    generation: int = 0
    row: int = 0
    done: int = 0
    switched: bool = False


class RegenerateEmbeddings:
    """Loop only."""

    type = "regenerate_embeddings"
    heavy = True
    needs_library = True

    def __init__(
        self,
        libraries: Libraries,
        embedders: Embedders,
        engine: SearchEngine | None,
        limits: LimitSettings,
    ) -> None:
        """Without an `engine` no index is made ahead: this process has none."""
        self.libraries = libraries
        self.embedders = embedders
        self.engine = engine
        self.limits = limits

    async def check(self, params: Params, library: Library | None) -> Params:
        given = read(params, RegenerateParams)
        if library is not None:
            name = given.embedder or library.embedder
            if name == "none":
                raise InvalidJob(
                    "say the `embedder` that is to make the vectors: this library has none",
                    path="params.embedder",
                )
            try:
                await self.target(library, given)
            except HeadwaterError as error:
                if error.retryable:
                    raise
                raise InvalidJob(error.detail, path="params.embedder") from error
        return kept(given)

    async def target(self, library: Library, params: RegenerateParams) -> tuple[str, str, int]:
        """The embedder, its identity and dimension."""
        name = params.embedder or library.embedder
        identity, dimension = await self.embedders.describe(name, params.dimension)
        if dimension > self.limits.dimension:
            raise InvalidJob(
                f"the embedder {name!r} makes vectors of {dimension} dimensions, over the limit "
                f"of {self.limits.dimension}; ask for fewer with `dimension`",
                path="params.dimension",
            )
        return name, identity, dimension

    async def run(self, context: JobContext) -> Result:
        library = await self.libraries.fresh(context.job.library_id or "")
        return await _Regenerate(self, context, library).run()


class _Regenerate:
    """One attempt."""

    def __init__(self, type: RegenerateEmbeddings, context: JobContext, library: Library) -> None:
        self._type = type
        self._context = context
        self._library = library
        self._state = msgspec.convert(context.saved, State)
        self._refused_in_a_row = 0

    async def run(self) -> Result:
        context, number = self._context, self._library.number
        if not self._state.switched:
            params = read(context.params, RegenerateParams)
            name, identity, dimension = await self._type.target(self._library, params)
            made: Regeneration = await context.write(
                BeginRegeneration(number, context.job.id, name, identity, dimension)
            )
            if self._state.generation != made.generation:
                self._state = State(generation=made.generation)
            next_library = msgspec.structs.replace(
                self._library,
                embedder=made.embedder,
                embedder_identity=made.embedder_identity,
                dimension=made.dimension,
                generation=made.generation,
            )
            async with AsyncExitStack() as held:
                await self._fill(next_library, held)
        context.progress(self._state.done, self._state.done, "moving vectors to their place")
        while await context.write(SettleVectors(_MOVED)):
            failpoints.reach("regenerate.mid_settle")
        now = await self._type.libraries.fresh(self._library.id)
        return {
            "embedder": now.embedder,
            "dimension": now.dimension,
            "generation": self._state.generation,
            "chunks": self._state.done,
        }

    async def _fill(self, library: Library, held: AsyncExitStack) -> None:
        """Embed every chunk, and make the vectors valid: `library` is as it is from then on.

        Their index is `held` until they are. Raises `EmbedderMismatch` when the embedder is another
        than the job has begun with.
        """
        context = self._context
        model = self._type.embedders.bound(library)
        context.progress(self._state.done, self._library.chunks, "embedding")
        engine = self._type.engine
        while not self._state.switched:
            page = await context.read(self._page)
            if page:
                await self._embed(model, page)
                failpoints.reach("regenerate.after_page")
            elif engine is not None:
                context.progress(message="making their index")
                await held.enter_async_context(engine.prepared(library))
                engine = None  # that was it; what was written meanwhile comes first
            else:
                await self._switch()

    async def _switch(self) -> None:
        """Make the vectors valid, unless there is too much that has none yet."""
        state = self._state
        failpoints.reach("regenerate.before_switch")
        command = SwitchGeneration(self._library.number, state.generation, state.row, _LATE)
        left: int = await self._context.write(
            command,
            state=lambda left: _saved(msgspec.structs.replace(state, switched=left == 0)),
        )
        self._state = msgspec.structs.replace(state, switched=left == 0)

    def _page(self, reader: Reader) -> list[Text]:
        """The next chunks. Raises `RegenerationRefused` for one without a text."""
        found = reader.texts_after(self._library.number, self._state.row, _ROWS)
        for row, _, text in found:
            if text is None:
                owner = reader.passages([row]).get(row)
                raise RegenerationRefused(
                    "a chunk has a vector and no text, so no model can make another"
                    + (f"; it is in document {owner.document_id!r}" if owner else "")
                    + "; delete it, or send it with its text",
                    document_id=owner.document_id if owner else None,
                )
        return [(row, text or "") for row, _, text in found]

    async def _embed(self, model: Embedder, page: list[Text]) -> None:
        """Embed a page and keep it with the place reached; what is refused is kept as lacking."""
        rows: list[int] = []
        parts: list[Any] = []
        lacking: list[int] = []
        left = [page]
        while left:
            part = left.pop()
            try:
                vectors = await model.embed([text for _, text in part], "document")
            except EmbedderFailed as error:
                if error.retryable and not await _answers(model):
                    raise
                if len(part) > 1:
                    half = len(part) // 2
                    left += (part[half:], part[:half])
                    continue
                self._refused_in_a_row += 1
                if self._refused_in_a_row == _REFUSED_IN_A_ROW:
                    raise
                lacking.append(part[0][0])
                continue
            self._refused_in_a_row = 0
            rows += [row for row, _ in part]
            parts.append(vectors)
        matrix = np.concatenate(parts) if parts else np.empty((0, model.dimension), np.float32)
        state = msgspec.structs.replace(
            self._state, row=page[-1][0], done=self._state.done + len(page)
        )
        self._context.progress(state.done)
        await self._context.write(
            PutNextVectors(self._library.number, state.generation, rows, matrix, lacking),
            state=_saved(state),
        )
        self._state = state


async def _answers(model: Embedder) -> bool:
    """Whether it gives a vector for a plain word: then it is the text that it fails at."""
    try:
        await model.embed(["word"], "document")
    except HeadwaterError:
        return False
    return True


def _saved(state: State) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(state)
    return made
