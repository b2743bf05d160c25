"""Searching: text, vector or examples in, passages out.

    query ─▶ filter ─▶ legs (vector, keyword) ─▶ one ranking ─▶ diversity, groups, pages ─▶ texts

The views give rows, the store what is shown of them. A row deleted in between is not in the store
any more and never shown; the search is then done once more, so that the answer is as long as it
can be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import anyio
import anyio.abc
import numpy as np

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.embed import Embedders
from headwater.errors import (
    HeadwaterError,
    InvalidQuery,
    LibraryRegenerated,
    NotCaughtUp,
)
from headwater.model import Cursor, Library, Passage, Position
from headwater.search.base import KeywordEngine, MetadataEngine, SearchEngine
from headwater.service import ranking
from headwater.service.explain import Explanation
from headwater.service.hits import Hit, Hits, Room, page_like
from headwater.service.legs import Found, Legs, leg_depth
from headwater.service.libraries import still
from headwater.service.paging import PageToken
from headwater.service.query import Query, Wish, check, fingerprint, without_meaning
from headwater.service.ranking import Ranked
from headwater.service.target import Target, Targets, unit_length
from headwater.settings import LimitSettings, SearchSettings
from headwater.threads import Pool

_ATTEMPTS = 3
_BATCH_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Group:
    """A document and its best chunks."""

    rank: int
    hits: list[Hit]


@dataclass(slots=True)
class Answer:
    """`groups` instead of `hits` when they were asked for; `next` when there is more.

    `degraded` says why only words were looked for where meaning should have been, too.
    """

    hits: list[Hit]
    position: Position
    exact: bool
    mode: str
    groups: list[Group] | None = None
    next: str | None = None
    degraded: str | None = None
    explanation: dict[str, Any] | None = None

    def all_hits(self) -> list[Hit]:
        """Those of its groups, too."""
        return [*self.hits, *(hit for group in self.groups or () for hit in group.hits)]


class Search:
    """Searches libraries. Loop only; `run` owns the lane that fetches passages."""

    def __init__(
        self,
        log: Log,
        engine: SearchEngine,
        keyword: KeywordEngine,
        metadata: MetadataEngine,
        embedders: Embedders,
        clock: Clock,
        settings: SearchSettings,
        limits: LimitSettings,
        pool: Pool,
    ) -> None:
        self._log = log
        self._engine = engine
        self._legs = Legs(engine, keyword, pool, most=limits.k)
        self._hits = Hits(log, pool)
        self._targets = Targets(log, embedders, metadata)
        self._clock = clock
        self._settings = settings
        self._limits = limits
        self._pool = pool

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        await self._hits.run(task_status=task_status)

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    async def search(self, library: Library, query: Query, room: Room | None = None) -> Answer:
        """The best hits, best first.

        Raises `InvalidQuery`, `AnswerTooLarge` and what the views raise.
        """
        room = room or self._room()
        try:
            return await self._search(library, query, room)
        except LibraryRegenerated:
            # The query was embedded by the model before: once more, by the one of now.
            return await self._search(await self._again(library), query, room)

    def _room(self) -> Room:
        return Room(self._limits.answer_bytes)

    async def _again(self, library: Library) -> Library:
        """The library as it is now. Raises `LibraryNotFound`."""
        return await self._log.store.read(lambda reader: still(reader, library))

    async def _search(self, library: Library, query: Query, room: Room) -> Answer:
        wish = check(query, library, self._limits)
        explanation = Explanation(self._clock) if query.explain else None
        if query.min_cursor is not None:
            await self.wait_for(library, query.min_cursor)
        for attempt in range(1, _ATTEMPTS + 1):
            target = await self._targets.find(library, wish, explanation)
            answer, whole = await self._answer(library, wish, target, explanation, room)
            if whole or attempt == _ATTEMPTS:
                break
            room.give_back(hit.passage for hit in answer.all_hits())
            await self._engine.caught_up(library.id, self._log.head)
        answer.degraded = target.degraded
        if explanation is not None:
            answer.explanation = explanation.told(wish)
        return answer

    async def search_all(
        self, library: Library, queries: Sequence[Query]
    ) -> list[Answer | HeadwaterError]:
        """Several searches at once, answered in their order, an error for each that is wrong."""
        answers: list[Answer | HeadwaterError | None] = [None] * len(queries)
        turns = anyio.Semaphore(_BATCH_AT_ONCE)
        room = self._room()

        async def one(number: int, query: Query) -> None:
            async with turns:
                try:
                    answers[number] = await self.search(library, query, room)
                except HeadwaterError as error:
                    answers[number] = error

        async with anyio.create_task_group() as tasks:
            for number, query in enumerate(queries):
                tasks.start_soon(one, number, query)
        return [answer for answer in answers if answer is not None]

    async def stream(
        self, library: Library, query: Query
    ) -> tuple[Answer, AsyncIterator[list[Hit]]]:
        """An answer without its hits, and the hits in pages, fetched as they are taken.

        A hit that is deleted before its page is fetched is left out. With vectors a page may raise
        `LibraryRegenerated`.
        """
        try:
            return await self._stream(library, query)
        except LibraryRegenerated:
            return await self._stream(await self._again(library), query)

    async def _stream(
        self, library: Library, query: Query
    ) -> tuple[Answer, AsyncIterator[list[Hit]]]:
        wish = check(query, library, self._limits)
        if query.group_by is not None:
            raise InvalidQuery(
                "a stream has hits, not groups; leave `group_by` out", parameter="group_by"
            )
        explanation = Explanation(self._clock) if query.explain else None
        if query.min_cursor is not None:
            await self.wait_for(library, query.min_cursor)
        target = await self._targets.find(library, wish, explanation)
        found = await self._chosen(library, wish, target, explanation)
        ranked = found.ranked.pick(slice(query.k))
        answer = Answer([], found.position, found.exact, wish.mode, degraded=target.degraded)
        answer.next = self._next(library, wish, target, found, ranked)
        if explanation is not None:
            answer.explanation = explanation.told(wish)

        async def pages() -> AsyncIterator[list[Hit]]:
            start, size = 0, 10  # the first page is small: the first hit leaves at once
            rank = 1 if wish.page is None else wish.page.shown + 1
            while start < len(ranked):
                part = ranked.pick(slice(start, start + size))
                hits = await self._hits.of(library, wish, part, rank)
                rank += len(hits)
                start, size = start + size, page_like(hits)
                yield await self._hits.highlighted(library, wish, hits)

        return answer, pages()

    def cursor(self, position: Position) -> Cursor:
        return self._log.cursor(position)

    async def wait_for(self, library: Library, text: str) -> None:
        """Return when a search would see what `text` stands for; bounded by the settings.

        Raises `InvalidCursor`, `CursorExpired` (another log), `NotCaughtUp`.
        """
        cursor = await self._log.parse(text)
        with anyio.move_on_after(self._settings.max_wait.total_seconds()) as scope:
            await self._log.bell.wait_past(cursor.position - 1)
        if scope.cancelled_caught:
            raise NotCaughtUp(
                f"this server has not heard of {text} yet; try again, or check where it comes from",
                head=str(self._log.cursor(self._log.head)),
            )
        await self._engine.caught_up(library.id, cursor.position)

    # ── Shaping the answer ──────────────────────────────────────────────────────────────────────

    async def _answer(
        self,
        library: Library,
        wish: Wish,
        target: Target,
        explanation: Explanation | None,
        room: Room,
    ) -> tuple[Answer, bool]:
        """The answer, and whether no hit was lost on the way to the store."""
        query = wish.query
        if query.group_by is not None:
            return await self._grouped(library, wish, target, explanation, room)
        found = await self._chosen(library, wish, target, explanation)
        shown = found.ranked.pick(slice(query.k))
        first = 1 if wish.page is None else wish.page.shown + 1
        hits = await self._hits.of(library, wish, shown, first, room)
        hits = await self._hits.highlighted(library, wish, hits)
        if explanation is not None:
            explanation.lap("fetch")
        answer = Answer(hits, found.position, found.exact, wish.mode)
        answer.next = self._next(library, wish, target, found, shown)
        return answer, len(hits) == len(shown)

    def _next(
        self, library: Library, wish: Wish, target: Target, found: Found, shown: Ranked
    ) -> str | None:
        """The token of the page after `shown`; None when there is none."""
        reach = len(shown) + (0 if wish.page is None else wish.page.shown)
        if wish.mmr is not None or len(found.ranked) <= wish.k or reach >= self._limits.k:
            return None
        if target.degraded is not None:
            wish = without_meaning(wish)  # so do its next pages
        depth = leg_depth(wish) if wish.mode == "hybrid" else 0
        score, row = float(shown.scores[-1]), int(shown.rows[-1])
        return str(PageToken(fingerprint(wish, library), score, row, reach, depth))

    async def _chosen(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> Found:
        if wish.mmr is not None:
            return await self._diverse(library, wish, target, explanation)
        return await self._legs.find(library, wish, target, explanation)

    async def _diverse(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> Found:
        assert wish.mmr is not None
        wanted = wish.mmr.candidates or max(50, 4 * wish.k)
        found = await self._legs.find(library, wish.asking(wanted), target, explanation)
        candidates = found.ranked.pick(slice(wanted))
        rows = candidates.rows.tolist()
        passages = await self._hits.passages(library, rows, texts=False, vectors=True)
        # In a thread: a thousand picks of long vectors take seconds.
        found.ranked = await self._pool.call(
            _diversified, candidates, passages, library.dimension, wish.mmr.relevance, wish.k
        )
        found.exhausted = True
        return found

    async def _grouped(
        self,
        library: Library,
        wish: Wish,
        target: Target,
        explanation: Explanation | None,
        room: Room,
    ) -> tuple[Answer, bool]:
        """k documents with their best chunks, from as many chunks as that takes."""
        query = wish.query
        wanted = min(self._limits.k, query.k * (query.group_size + 1))
        while True:
            found = await self._legs.find(library, wish.asking(wanted), target, explanation)
            ranked = found.ranked.pick(slice(wanted))
            hits = await self._hits.of(library, wish, ranked, 1, bare=True)
            if explanation is not None:
                explanation.lap("fetch")
            groups: dict[str, list[Hit]] = {}
            for hit in hits:
                groups.setdefault(hit.passage.document_id, []).append(hit)
            at_end = found.exhausted and len(found.ranked) <= wanted
            if len(groups) >= query.k or at_end or wanted == self._limits.k:
                break
            wanted = min(self._limits.k, 4 * wanted)
        chosen = [
            hit for own in list(groups.values())[: query.k] for hit in own[: query.group_size]
        ]
        shown = await self._hits.whole(library, wish, chosen, room)
        shown = await self._hits.highlighted(library, wish, shown)
        if explanation is not None:
            explanation.lap("fetch")
        answer = Answer([], found.position, found.exact, wish.mode)
        answer.groups = [
            Group(rank, list(own))
            for rank, (_, own) in enumerate(groupby(shown, lambda hit: hit.passage.document_id), 1)
        ]
        return answer, len(hits) == len(ranked) and len(shown) == len(chosen)


def _diversified(
    candidates: Ranked, passages: dict[int, Passage], dimension: int, relevance: float, k: int
) -> Ranked:
    vectors = np.zeros((len(candidates), dimension), np.float32)
    for at, row in enumerate(candidates.rows.tolist()):
        passage = passages.get(row)
        if passage is not None and passage.vector is not None:
            vectors[at] = passage.vector
    return ranking.diverse(candidates, unit_length(vectors), relevance, k)
