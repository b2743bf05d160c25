"""`index_rebuild` and `index_optimize`: the search views of a library, in every process.

A change in the log asks for it, and each process does it with its own views when it hears of it.
The job is done when the process that runs it has done its own; only processes that have views take
such jobs. A rebuild is kept in mind by the change itself: a process that dies in the middle meets
it again when it starts.
"""

from __future__ import annotations

from typing import Any, Literal

import anyio
import msgspec

from headwater import failpoints
from headwater.clock import Clock
from headwater.jobs.base import JobContext, Params, Result
from headwater.model import Library, Position
from headwater.search.base import SearchEngine, ViewStatus
from headwater.search.keyword_views import KeywordViews
from headwater.search.metadata_views import MetadataViews
from headwater.search.page import OPTIMIZING, REBUILDING
from headwater.service.job_types.params import kept, read
from headwater.service.libraries import Libraries
from headwater.store.base import Announce

View = Literal["vector", "keyword", "metadata"]
_ALL: tuple[View, ...] = ("vector", "keyword", "metadata")


class RebuildParams(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing to say: all views are made anew, as they stand for one another."""


class OptimizeParams(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing to say."""


class State(msgspec.Struct, omit_defaults=True):
    """`position` is that of the change that asked for it; `began_us` when that was."""

    position: Position = 0
    began_us: int = 0
    told: bool = False
    chunks: int = 0
    segments: int = 0
    took_ms: int = 0
    views: list[str] = []


class IndexRebuild:
    """Loop only."""

    type = "index_rebuild"
    heavy = True
    needs_library = True

    def __init__(
        self,
        libraries: Libraries,
        clock: Clock,
        engine: SearchEngine,
        keyword: KeywordViews,
        metadata: MetadataViews,
    ) -> None:
        self._libraries = libraries
        self._clock = clock
        self._engine = engine
        self._keyword = keyword
        self._metadata = metadata

    async def check(self, params: Params, library: Library | None) -> Params:
        return kept(read(params, RebuildParams))

    async def run(self, context: JobContext) -> Result:
        library = await self._libraries.fresh(context.job.library_id or "")
        state = msgspec.convert(context.saved, State)
        if not state.position:
            state = await _ask(context, library, REBUILDING, self._clock)
        if not state.told:
            failpoints.reach("rebuild.asked")
            context.progress(0, len(_ALL), "making views anew")
            status, views = await self._renewed(context, library, state.position)
            took_ms = (self._clock.now_us() - state.began_us) // 1000
            state = msgspec.structs.replace(
                state,
                told=True,
                chunks=status.rows,
                segments=status.segments,
                took_ms=took_ms,
                views=views,
            )
            await _tell(context, library, "index.rebuilt", state)
        return _result(state) | {"views": state.views}

    async def _renewed(
        self, context: JobContext, library: Library, position: Position
    ) -> tuple[ViewStatus, list[str]]:
        """The state of the vector view once all are new, and which there were."""
        done: list[str] = []
        statuses: list[ViewStatus] = []

        async def vector() -> None:
            statuses.append(await self._engine.renewed(library, position))
            done.append("vector")
            context.progress(len(done))

        async def other(name: str, views: KeywordViews | MetadataViews) -> None:
            if views.opened(library.id) or views.kept(library.id):
                await views.renewed(library, position)
                done.append(name)
            context.progress(len(done))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(vector)
            tasks.start_soon(other, "keyword", self._keyword)
            tasks.start_soon(other, "metadata", self._metadata)
        context.progress(len(_ALL), len(_ALL))
        return statuses[0], [name for name in _ALL if name in done]


class IndexOptimize:
    """Loop only. Of vectors alone: the others keep themselves in order."""

    type = "index_optimize"
    heavy = True
    needs_library = True

    def __init__(self, libraries: Libraries, clock: Clock, engine: SearchEngine) -> None:
        self._libraries = libraries
        self._clock = clock
        self._engine = engine

    async def check(self, params: Params, library: Library | None) -> Params:
        return kept(read(params, OptimizeParams))

    async def run(self, context: JobContext) -> Result:
        library = await self._libraries.fresh(context.job.library_id or "")
        state = msgspec.convert(context.saved, State)
        if not state.position:
            state = await _ask(context, library, OPTIMIZING, self._clock)
        if not state.told:
            status = await self._engine.optimize(library)
            took_ms = (self._clock.now_us() - state.began_us) // 1000
            state = msgspec.structs.replace(
                state, told=True, chunks=status.rows, segments=status.segments, took_ms=took_ms
            )
            await _tell(context, library, "index.optimized", state)
        return _result(state)


async def _ask(context: JobContext, library: Library, type: str, clock: Clock) -> State:
    """Ask every process for it, once."""
    began_us = clock.now_us()

    def asked(position: Any) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(State(position=position, began_us=began_us))
        return made

    command = Announce(type, library.number, {"job_id": context.job.id})
    position: Position = await context.write(command, state=asked)
    return State(position=position, began_us=began_us)


async def _tell(context: JobContext, library: Library, type: str, state: State) -> None:
    """Say that it is done, once."""
    data = _result(state) | {"reason": "job", "job_id": context.job.id}
    await context.write(Announce(type, library.number, data), state=msgspec.to_builtins(state))


def _result(state: State) -> dict[str, Any]:
    return {"chunks": state.chunks, "segments": state.segments, "took_ms": state.took_ms}
