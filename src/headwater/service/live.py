"""Live queries: searches that stay open and tell what enters, changes and leaves.

`LiveSearches.watch` opens one. What is told is exact: at every cursor that is told, the snapshot
and the deltas together are what an exact search finds at that cursor.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import anyio.abc
import msgspec

from headwater.changes.log import Log
from headwater.errors import InvalidQuery, LibraryNotFound
from headwater.model import Library, Position, chunk_id
from headwater.service.query import INCLUDES, Query
from headwater.service.render import encode, hit_json
from headwater.service.search import Hit, Search
from headwater.service.watch import LIVE_EVENTS, Deltas, LiveEvent, LiveEventName
from headwater.settings import LimitSettings

__all__ = ["LIVE_EVENTS", "Deltas", "LiveEvent", "LiveQuery", "LiveSearches", "Watch"]


class LiveQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What is watched: the nearest `k`, or every chunk scoring `score_threshold` at least.

    With both, the best k of those. `k` is 10 when neither is given. With `group_by` there is one
    hit per document, its best chunk. `coalesce_ms` is the least time between two `take`s that
    give something.
    """

    query: str | None = None
    vector: list[float] | None = None
    mode: str | None = None
    k: int | None = None
    filter: dict[str, Any] | None = None
    score_threshold: float | None = None
    group_by: Literal["document"] | None = None
    include: list[str] = []
    coalesce_ms: int = 0


class Watch:
    """See `watch.py`."""

    def __init__(self, search: Search, log: Log, library: Library, query: LiveQuery) -> None:
        self.library = library
        self.query = query
        self._search = search
        self._log = log
        self._told: dict[str, tuple[int, int, float]] | None = None
        self._position: Position = 0
        self._tell: Callable[[], None] | None = None
        self._asked = Query(
            query=query.query,
            vector=query.vector,
            mode="vector",
            k=query.k or 10,
            filter=query.filter,
            score_threshold=query.score_threshold,
            include=query.include,
            exact=True,
        )

    @property
    def cursor(self) -> str:
        """What was told last; empty before the first `take`."""
        return str(self._log.cursor(self._position)) if self._told is not None else ""

    def on_news(self, tell: Callable[[], None]) -> None:
        """Call `tell` on the loop whenever `take` may have something; it must be quick."""
        self._tell = tell

    async def wait(self) -> None:
        """Return when `take` may have something."""
        await self._log.bell.wait_past(self._position)

    async def take(self) -> Deltas | None:
        """What has changed since the last `take`; None when nothing has.

        Raises `LibraryNotFound` when the library is gone, and what searches raise: then the watch
        is over, and a new one with `after` goes on where it was. Cancelling it takes nothing.
        """
        if await self._log.store.read(lambda reader: reader.library(self.library.id)) is None:
            raise LibraryNotFound(
                f"library {self.library.name!r} has been deleted", id=self.library.id
            )
        answer = await self._search.search(self.library, self._asked)
        now = {chunk_id(hit.passage.document_id, hit.passage.ordinal): hit for hit in answer.hits}
        cursor = str(self._log.cursor(answer.position))
        before, self._told = (
            self._told,
            {id: (hit.passage.row, hit.rank, hit.score) for id, hit in now.items()},
        )
        self._position = answer.position
        if before is None:
            results = [msgspec.Raw(encode(self._shown(hit))) for hit in answer.hits]
            return Deltas(
                "snapshot",
                cursor,
                [
                    _event("snapshot", {"results": results, "cursor": cursor}),
                    _event("ready", {"cursor": cursor}),
                ],
            )
        events: list[tuple[LiveEventName, dict[str, Any]]] = []
        for id, (_, rank, score) in before.items():
            if id not in now:
                gone = {
                    "rank": rank,
                    "chunk_id": id,
                    "document_id": id.rpartition("#")[0],
                    "score": score,
                }
                events.append(("leave", {"hit": gone, "reason": "outranked", "cursor": cursor}))
        for id, hit in now.items():
            if id not in before:
                events.append(("enter", {"hit": self._shown(hit), "cursor": cursor}))
            elif before[id][0] != hit.passage.row:
                events.append(("update", {"hit": self._shown(hit), "cursor": cursor}))
        for _, data in events[:-1]:
            data["more"] = True
        if not events:
            return None
        return Deltas("changes", cursor, [_event(name, data) for name, data in events])

    def progress(self) -> Deltas | None:
        """How far it is, when that is further than what was told last."""
        if self._told is None or self._position >= self._log.head:
            return None
        cursor = str(self._log.cursor(self._position))
        return Deltas("progress", cursor, [_event("progress", {"cursor": cursor})])

    def _shown(self, hit: Hit) -> dict[str, Any]:
        return hit_json(hit.passage, hit.rank, hit.score, self.query.include)


def _event(name: LiveEventName, data: dict[str, Any]) -> LiveEvent:
    return LiveEvent(name, msgspec.Raw(encode(data)))


class LiveSearches:
    """All live queries of this process. Loop only."""

    def __init__(self, log: Log, search: Search, limits: LimitSettings) -> None:
        self._log = log
        self._search = search
        self._limits = limits
        self._watches: set[Watch] = set()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the log until cancelled."""
        position = self._log.head
        task_status.started()
        while True:
            position = await self._log.bell.wait_past(position)
            for watch in list(self._watches):
                if watch._tell is not None:
                    watch._tell()

    @asynccontextmanager
    async def watch(
        self, library: Library, query: LiveQuery, *, after: str | None = None
    ) -> AsyncIterator[Watch]:
        """A watch that is open inside the block.

        `after` is a cursor that an earlier watch of the same query was told. Raises
        `InvalidQuery`, `InvalidFilter`, `ModeNotLive`, `InvalidCursor`, and `TooManyWatches` when
        the library or the server has as many as the settings allow.
        """
        check(query, self._limits)
        watch = Watch(self._search, self._log, library, query)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)


def check(query: LiveQuery, limits: LimitSettings) -> None:
    """Raises `InvalidQuery`."""
    if (query.query is None) == (query.vector is None):
        raise InvalidQuery("give exactly one of `query` and `vector`")
    if query.k is not None and not 1 <= query.k <= limits.k:
        raise InvalidQuery(f"k is {query.k}; it may be 1 to {limits.k}", parameter="k")
    if query.score_threshold is not None and not math.isfinite(query.score_threshold):
        raise InvalidQuery("score_threshold is a number", parameter="score_threshold")
    if unknown := set(query.include) - INCLUDES:
        raise InvalidQuery(f"`include` does not know {sorted(unknown)}", parameter="include")
