"""Live queries: searches that stay open and tell what enters, changes and leaves.

`LiveSearches.watch` opens one. What is told is exact: at every cursor that is told, the snapshot
and the deltas together are what an exact search finds at that cursor. A library with live queries
has a matcher that follows the log; what a reader is told is worked out when it asks.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import anyio
import anyio.abc
import msgspec

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.embed import Embedders
from headwater.errors import (
    CursorExpired,
    InvalidQuery,
    LibraryRegenerated,
    ModeNotLive,
    NotCaughtUp,
    ShuttingDown,
    TooManyWatches,
)
from headwater.filters import parse
from headwater.live.alarms import Alarms
from headwater.live.counts import Counts
from headwater.live.matcher import Matcher
from headwater.live.standing import Wanted
from headwater.model import Committed, Cursor, Library, Passage, Position
from headwater.search import scores
from headwater.search.base import MetadataEngine, SearchEngine
from headwater.service.comeback import Texts
from headwater.service.deltas import LIVE_EVENTS, Deltas, LiveEvent, LiveEventName
from headwater.service.drafts import check_vector
from headwater.service.libraries import same_generation
from headwater.service.query import INCLUDES
from headwater.service.servings import Servings
from headwater.service.watch import Watch
from headwater.settings import LimitSettings, LiveSettings
from headwater.store.base import Reader
from headwater.threads import Lane, Pool

__all__ = [
    "LIVE_EVENTS",
    "Deltas",
    "LiveEvent",
    "LiveEventName",
    "LiveQuery",
    "LiveSearches",
    "Watch",
]

LONGEST_COALESCE_MS = 60_000


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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked query whose text has become a vector."""

    wanted: Wanted
    include: frozenset[str]
    coalesce_s: float


class LiveSearches:
    """All live queries of this process. Loop only."""

    def __init__(
        self,
        log: Log,
        engine: SearchEngine,
        metadata: MetadataEngine,
        embedders: Embedders,
        clock: Clock,
        settings: LiveSettings,
        limits: LimitSettings,
        *,
        patience: timedelta,
    ) -> None:
        self._log = log
        self._engine = engine
        self._metadata = metadata
        self._embedders = embedders
        self._clock = clock
        self._settings = settings
        self._limits = limits
        self._patience = patience
        self._matchers: dict[str, Matcher] = {}
        self._scopes: dict[Matcher, anyio.CancelScope] = {}
        self._watches: dict[str, int] = {}
        self._counts = Counts()
        self._opened = 0
        self._alarms = Alarms(clock)
        self._lane: Lane[Callable[[], Any], Any] = Lane("live", _do, max_batch=1)
        self._texts: Texts = Lane("live-texts", self._fetch, max_batch=64, max_waiting=100_000)
        self._pool = Pool("live-answers", 1)
        self._servings = Servings(
            group_bytes=limits.answer_bytes, sending_bytes=settings.sending_bytes
        )
        self._read_to_match: Callable[..., Any] | None = None
        self._read_texts: Callable[..., Any] | None = None
        self._group: anyio.abc.TaskGroup | None = None
        log.on_news(self._wake)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the threads and the matchers until cancelled."""
        self._read_to_match = self._log.store.open_reader()
        self._read_texts = self._log.store.open_reader()
        async with anyio.create_task_group() as outer:
            await outer.start(self._lane.run)
            await outer.start(self._texts.run)
            await outer.start(self._alarms.run)
            async with anyio.create_task_group() as group:
                self._group = group
                task_status.started()
                try:
                    await anyio.sleep_forever()
                finally:
                    self._group = None

    # ── Watching ────────────────────────────────────────────────────────────────────────────────

    async def prepare(self, library: Library, query: LiveQuery) -> Prepared:
        """Check it and make a vector of its text.

        Raises `InvalidQuery`, `ModeNotLive`, `InvalidFilter`, `InvalidVector`,
        `DimensionMismatch`, and what the library's embedder raises.
        """
        check(query, self._limits)
        filter = None if query.filter is None else parse(query.filter)
        if query.vector is not None:
            vector = check_vector(query.vector, library)
        else:
            assert query.query is not None
            vector = (await self._embedders.bound(library).embed([query.query], "query"))[0]
        (vector,) = scores.prepared(library.metric, vector[None, :])
        threshold = query.score_threshold
        k = 10 if query.k is None and threshold is None else query.k
        floor = float("-inf") if threshold is None else threshold
        wanted = Wanted(vector.tobytes(), filter, k, floor, query.group_by is not None)
        return Prepared(wanted, frozenset(query.include), query.coalesce_ms / 1000)

    @asynccontextmanager
    async def watch(
        self, library: Library, query: LiveQuery | Prepared, *, after: str | None = None
    ) -> AsyncIterator[Watch]:
        """A watch that is open inside the block.

        `after` is a cursor that an earlier watch of the same query was told. One that the log no
        longer reaches back to gives a `reset` and a snapshot. Raises what `prepare` raises,
        `InvalidCursor`, `NotCaughtUp` when this server has not heard of the cursor yet, and
        `TooManyWatches` when the library or the server has as many as the settings allow.
        """
        if isinstance(query, LiveQuery):
            query = await self.prepare(library, query)
        cursor, reset = await self.resolve(after)
        self._count(library)
        try:
            matcher = self._matcher(library)
            standing = matcher.join(query.wanted)
            watch = Watch(
                matcher,
                standing,
                self._log,
                self._clock,
                self._alarms,
                self._texts,
                self._pool,
                self._servings,
                include=query.include,
                coalesce_s=query.coalesce_s,
                after=cursor,
                reset=reset,
                resume_changes=self._settings.resume_changes,
            )
            try:
                yield watch
            finally:
                watch.close()
                matcher.leave(standing)
                self._let_go(matcher)
        finally:
            self._uncount(library)

    async def resolve(self, after: str | None) -> tuple[Cursor | None, dict[str, Any] | None]:
        """The cursor to resume after, or why there is none.

        Waits until this process has heard of it. Raises `InvalidCursor`, `NotCaughtUp`.
        """
        if after is None:
            return None, None
        try:
            cursor = await self._log.within(await self._log.parse(after))
        except CursorExpired as error:
            return None, {"code": error.code, "detail": error.detail, **error.fields}
        with anyio.move_on_after(self._patience.total_seconds()) as scope:
            await self._log.bell.wait_past(cursor.position - 1)
        if scope.cancelled_caught:
            raise NotCaughtUp(
                f"this server has not heard of {after} yet; try again, or check where it is from",
                head=str(self._log.cursor(self._log.head)),
            )
        return cursor, None

    def _count(self, library: Library) -> None:
        self.check_room(library)
        self._watches[library.id] = self._watches.get(library.id, 0) + 1
        self._opened += 1

    def check_room(self, library: Library) -> None:
        """Raise `TooManyWatches` when one more may not be opened."""
        own, settings = self._watches.get(library.id, 0), self._settings
        for there, most, where in (
            (own, settings.max_watches_per_library, f"on library {library.name!r}"),
            (sum(self._watches.values()), settings.max_watches, "on this server"),
        ):
            if there >= most:
                raise TooManyWatches(
                    f"{most} live queries are open {where}, which is the limit; close one, or "
                    "try again later",
                    limit=most,
                )

    def _uncount(self, library: Library) -> None:
        self._watches[library.id] -= 1
        if not self._watches[library.id]:
            del self._watches[library.id]

    # ── Matchers ────────────────────────────────────────────────────────────────────────────────

    def _matcher(self, library: Library) -> Matcher:
        if self._group is None:
            raise ShuttingDown("live queries are not running; connect again in a moment")
        matcher = self._matchers.get(library.id)
        if matcher is None or matcher.library.generation != library.generation:
            assert self._read_to_match is not None
            matcher = self._matchers[library.id] = Matcher(
                library,
                self._log,
                self._engine,
                self._metadata,
                self._lane,
                self._read_to_match,
                self._settings,
                self._clock,
                self._counts,
                most=self._limits.k,
            )
            self._scopes[matcher] = anyio.CancelScope()
            self._group.start_soon(self._host, matcher)
        return matcher

    async def _host(self, matcher: Matcher) -> None:
        try:
            with self._scopes[matcher]:
                await matcher.run()
        finally:
            del self._scopes[matcher]
            if self._matchers.get(matcher.library.id) is matcher:
                del self._matchers[matcher.library.id]

    def _let_go(self, matcher: Matcher) -> None:
        """End a matcher that nobody needs any more."""
        if matcher.idle:
            if self._matchers.get(matcher.library.id) is matcher:
                del self._matchers[matcher.library.id]
            if matcher in self._scopes:
                self._scopes[matcher].cancel()

    def _wake(self, _: Committed | None) -> None:
        for matcher in self._matchers.values():
            matcher.wake()

    def _fetch(
        self, wanted: Sequence[tuple[Sequence[int], Library | None]]
    ) -> Sequence[tuple[dict[int, Passage], Position] | LibraryRegenerated]:
        """The texts lane's work: one read for all that wait, two when some want vectors."""
        assert self._read_texts is not None
        plain = sorted({row for rows, library in wanted if library is None for row in rows})
        whole = sorted({row for rows, library in wanted if library is not None for row in rows})

        def query(reader: Reader) -> list[tuple[dict[int, Passage], Position] | LibraryRegenerated]:
            without = reader.passages(plain)
            with_vectors = reader.passages(whole, vectors=True) if whole else {}
            head = reader.head()
            answers: list[tuple[dict[int, Passage], Position] | LibraryRegenerated] = []
            for rows, library in wanted:
                found = without if library is None else with_vectors
                try:
                    if library is not None:
                        same_generation(reader, library)
                    answers.append(({row: found[row] for row in rows if row in found}, head))
                except LibraryRegenerated as error:
                    answers.append(error)
            return answers

        found: list[tuple[dict[int, Passage], Position] | LibraryRegenerated]
        found = self._read_texts(query)
        return found

    # ── Figures ─────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> dict[str, Any]:
        """The figures of `/v1/live/statistics`. Counted in this process since it started."""
        counts = self._counts
        return {
            "watches": sum(self._watches.values()),
            "watches_opened": self._opened,
            "standing_queries": sum(len(matcher) for matcher in self._matchers.values()),
            "kept_hits": sum(matcher.kept for matcher in self._matchers.values()),
            "libraries": len(self._matchers),
            "matched_commits": counts.commits,
            "matched_changes": counts.changes,
            "matched_chunks": counts.rows,
            "entered_pairs": counts.pairs,
            "lookups": counts.lookups,
            "refills": counts.refills,
            "failures": counts.failures,
            "lag_ms": round(counts.lag_ms, 3),
            "sending_bytes": self._servings.held_bytes,
            "pending_positions": sum(
                max(0, self._log.head - matcher.position) for matcher in self._matchers.values()
            ),
            "head": str(self._log.cursor(self._log.head)),
        }


def check(query: LiveQuery, limits: LimitSettings) -> None:
    """Raises `InvalidQuery`, `ModeNotLive`."""
    if (query.query is None) == (query.vector is None):
        raise InvalidQuery("give exactly one of `query` and `vector`")
    if query.mode not in (None, "vector"):
        if query.mode in ("keyword", "hybrid"):
            raise ModeNotLive(
                f"a search of mode {query.mode!r} cannot be kept live: every document that comes "
                "changes how rare all words are, and so all scores; use mode `vector`, or search "
                "again on events",
                parameter="mode",
            )
        raise _wrong("mode", f"mode {str(query.mode)[:40]!r} is not known; use `vector`")
    if query.k is not None and not 1 <= query.k <= limits.k:
        raise _wrong("k", f"k is {query.k}; it may be 1 to {limits.k}")
    if query.query is not None and len(query.query) > limits.query_chars:
        raise _wrong(
            "query",
            f"the query has {len(query.query)} characters, the limit is {limits.query_chars}",
        )
    if query.score_threshold is not None:
        check_threshold(query.score_threshold)
    if unknown := set(query.include) - INCLUDES:
        raise _wrong(
            "include",
            f"`include` knows {', '.join(sorted(INCLUDES))}, not {', '.join(sorted(unknown))}",
        )
    if not 0 <= query.coalesce_ms <= LONGEST_COALESCE_MS:
        raise _wrong(
            "coalesce_ms",
            f"coalesce_ms is {query.coalesce_ms}; it may be 0 to {LONGEST_COALESCE_MS}",
        )


def check_threshold(threshold: float) -> None:
    """Raises `InvalidQuery` when it is no number."""
    if not math.isfinite(threshold):
        raise _wrong("score_threshold", f"score_threshold is {threshold}; give a number")


def _wrong(parameter: str, detail: str) -> InvalidQuery:
    return InvalidQuery(detail, parameter=parameter)


def _do(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """The matching lane's work."""
    return [job() for job in jobs]
