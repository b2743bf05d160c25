"""Searching: text, vector or examples in, passages out.

    query ─▶ filter ─▶ legs (vector, keyword) ─▶ one ranking ─▶ diversity, groups, pages ─▶ texts

The views give rows, the store what is shown of them. A row deleted in between is not in the store
any more and never shown; the search is then done once more, so that the answer is as long as it
can be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.abc
import numpy as np

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.embed import Embedders
from headwater.errors import HeadwaterError, InvalidQuery, NotCaughtUp
from headwater.filters import Filter, matches
from headwater.model import Cursor, Library, Passage, Position
from headwater.search.base import KeywordEngine, MetadataEngine, SearchEngine
from headwater.search.highlight import Highlights, highlight
from headwater.service import ranking
from headwater.service.explain import Explanation
from headwater.service.paging import PageToken
from headwater.service.query import Query, Weights, Wish, check, fingerprint, without_meaning
from headwater.service.ranking import Leg, Ranked
from headwater.service.render import metadata_of
from headwater.service.target import Target, Targets, unit_length
from headwater.settings import LimitSettings, SearchSettings
from headwater.store.base import Reader
from headwater.threads import Lane, Pool

PAGE = 200
"""Passages fetched at once while a search is streamed."""

_LEG_DEPTH = 50
"""Candidates each leg of a hybrid search gives at least. What stands lower in one list and not in
the other does not reach the first ten; from 100 to 50 took a third off the legs' time."""

_FUSED_AT_ONCE = 1_000
"""Rows that are fused on the loop, in half a millisecond; more go to a thread."""

_ATTEMPTS = 3
_BATCH_AT_ONCE = 4
_SELECTED_AS_TERMS = 2_000
"""Up to this many rows are handed to the keyword view by name; it finds only among them."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One result. `score` is higher-is-better; `distance` is the metric's own, of near vectors.

    `legs` has rank and score in each leg that found it, when there were several.
    """

    rank: int
    score: float
    distance: float | None
    passage: Passage
    legs: dict[str, tuple[int, float]] | None = None
    highlights: Highlights | None = None


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


@dataclass(slots=True)
class _Found:
    """What a ranking stands on. `exhausted` says that no leg has more to give."""

    ranked: Ranked
    position: Position
    exact: bool = True
    exhausted: bool = True


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
        self._keyword = keyword
        self._targets = Targets(log, embedders, metadata)
        self._clock = clock
        self._settings = settings
        self._limits = limits
        self._pool = pool
        self._passages: Lane[tuple[Sequence[int], bool], dict[int, Passage]] = Lane(
            "passages", self._fetch, max_batch=4
        )
        self._query_store: Callable[..., dict[int, Passage]] | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self._query_store = self._log.store.open_reader()
        await self._passages.run(task_status=task_status)

    # ── Questions ───────────────────────────────────────────────────────────────────────────────

    async def search(self, library: Library, query: Query) -> Answer:
        """The best hits, best first. Raises `InvalidQuery` and what the views raise."""
        wish = check(query, library, self._limits)
        explanation = Explanation(self._clock) if query.explain else None
        if query.min_cursor is not None:
            await self.wait_for(library, query.min_cursor)
        for attempt in range(1, _ATTEMPTS + 1):
            target = await self._targets.find(library, wish, explanation)
            answer, whole = await self._answer(library, wish, target, explanation)
            if whole or attempt == _ATTEMPTS:
                break
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

        async def one(number: int, query: Query) -> None:
            async with turns:
                try:
                    answers[number] = await self.search(library, query)
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

        A hit that is deleted before its page is fetched is left out.
        """
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
        answer.next = self._next(wish, target, found, ranked)
        if explanation is not None:
            answer.explanation = explanation.told(wish)

        async def pages() -> AsyncIterator[list[Hit]]:
            start, size = 0, 10  # the first page is small: the first hit leaves at once
            rank = 1 if wish.page is None else wish.page.shown + 1
            while start < len(ranked):
                part = ranked.pick(slice(start, start + size))
                hits = await self._hits(library, wish, part, rank)
                rank += len(hits)
                yield hits
                start, size = start + size, PAGE

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

    # ── Ranking ─────────────────────────────────────────────────────────────────────────────────

    async def _ranking(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> _Found:
        """More than k rows in order, if there are so many: one more says that a page follows."""
        page, most = wish.page, self._limits.k
        depth = wish.k + 1 + len(target.excluded)
        if page is not None:
            depth += page.shown
        if wish.mode == "hybrid":
            depth = _leg_depth(wish)
        while True:
            depth = min(depth, most)
            found = await self._legs(library, wish, target, depth, explanation)
            ranked = ranking.without(found.ranked, target.excluded)
            if page is not None:
                ranked = ranking.after(ranked, page.score, page.row)
            found.ranked = ranked
            enough = len(ranked) > wish.k or wish.mode == "hybrid"
            if enough or found.exhausted or depth == most:
                return found
            depth *= 2

    async def _legs(
        self,
        library: Library,
        wish: Wish,
        target: Target,
        depth: int,
        explanation: Explanation | None,
    ) -> _Found:
        if wish.mode == "vector":
            return await self._near(library, wish, target, depth, explanation)
        if wish.mode == "keyword" or target.vector is None:
            return await self._words(library, wish, target, depth, explanation)
        found: dict[str, _Found] = {}

        async def near() -> None:
            found["vector"] = await self._near(library, wish, target, depth, explanation)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(near)
                found["keyword"] = await self._words(library, wish, target, depth, explanation)
        except ExceptionGroup as group:
            # One leg's error has ended the other: it is the search's own.
            raise group.exceptions[0] from group
        vector, keyword = found["vector"], found["keyword"]
        weights = wish.query.weights or Weights()
        legs = {name: Leg(leg.ranked.rows, leg.ranked.scores) for name, leg in found.items()}
        shares = {"vector": weights.vector, "keyword": weights.keyword}
        if sum(len(leg.rows) for leg in legs.values()) <= _FUSED_AT_ONCE:
            fused = ranking.fused(legs, shares)
        else:
            fused = await self._pool.call(ranking.fused, legs, shares)
        return _Found(
            fused,
            min(vector.position, keyword.position),
            vector.exact,
            vector.exhausted and keyword.exhausted,
        )

    async def _near(
        self,
        library: Library,
        wish: Wish,
        target: Target,
        depth: int,
        explanation: Explanation | None,
    ) -> _Found:
        assert target.vector is not None
        (near,) = await self._engine.search(
            library,
            target.vector[None, :],
            [depth],
            exact=wish.query.exact,
            allowed=target.allowed,
            ef=wish.query.ef,
        )
        if explanation is not None:
            explanation.near(near)
        leg = _above(Leg(near.rows, near.scores.astype(np.float64)), wish.query.score_threshold)
        return _Found(
            ranking.single(leg),
            _earlier(near.position, target.position),
            near.exact,
            len(near.rows) < depth or len(leg.rows) < len(near.rows),
        )

    async def _words(
        self,
        library: Library,
        wish: Wish,
        target: Target,
        depth: int,
        explanation: Explanation | None,
    ) -> _Found:
        assert wish.query.query is not None
        allowed = target.allowed
        few = allowed is not None and allowed.count <= _SELECTED_AS_TERMS
        rows, scores, position = await self._keyword.search(
            library,
            wish.query.query,
            depth,
            allowed=None if allowed is None else allowed.mask,
            selected=allowed.rows() if allowed is not None and few else None,
        )
        if explanation is not None:
            explanation.words(len(rows), by_name=few)
        threshold = wish.query.score_threshold if wish.mode == "keyword" else None
        leg = _above(Leg(rows, scores.astype(np.float64)), threshold)
        return _Found(
            ranking.single(leg),
            _earlier(position, target.position),
            True,
            len(rows) < depth or len(leg.rows) < len(rows),
        )

    # ── Shaping the answer ──────────────────────────────────────────────────────────────────────

    async def _answer(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> tuple[Answer, bool]:
        """The answer, and whether no hit was lost on the way to the store."""
        query = wish.query
        if query.group_by is not None:
            return await self._grouped(library, wish, target, explanation)
        found = await self._chosen(library, wish, target, explanation)
        shown = found.ranked.pick(slice(query.k))
        first = 1 if wish.page is None else wish.page.shown + 1
        hits = await self._hits(library, wish, shown, first)
        if explanation is not None:
            explanation.lap("fetch")
        answer = Answer(hits, found.position, found.exact, wish.mode)
        answer.next = self._next(wish, target, found, shown)
        return answer, len(hits) == len(shown)

    def _next(self, wish: Wish, target: Target, found: _Found, shown: Ranked) -> str | None:
        """The token of the page after `shown`; None when there is none."""
        reach = len(shown) + (0 if wish.page is None else wish.page.shown)
        if wish.mmr is not None or len(found.ranked) <= wish.k or reach >= self._limits.k:
            return None
        if target.degraded is not None:
            wish = without_meaning(wish)  # so do its next pages
        depth = _leg_depth(wish) if wish.mode == "hybrid" else 0
        return str(
            PageToken(fingerprint(wish), float(shown.scores[-1]), int(shown.rows[-1]), reach, depth)
        )

    async def _chosen(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> _Found:
        if wish.mmr is not None:
            return await self._diverse(library, wish, target, explanation)
        return await self._ranking(library, wish, target, explanation)

    async def _diverse(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> _Found:
        assert wish.mmr is not None
        wanted = wish.mmr.candidates or max(50, 4 * wish.k)
        found = await self._ranking(library, wish.asking(wanted), target, explanation)
        candidates = found.ranked.pick(slice(wanted))
        passages = await self._passages.submit((candidates.rows.tolist(), True))
        # In a thread: a thousand picks of long vectors take seconds.
        found.ranked = await self._pool.call(
            _diversified, candidates, passages, library.dimension, wish.mmr.relevance, wish.k
        )
        found.exhausted = True
        return found

    async def _grouped(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> tuple[Answer, bool]:
        """k documents with their best chunks, from as many chunks as that takes."""
        query = wish.query
        wanted = min(self._limits.k, query.k * (query.group_size + 1))
        while True:
            found = await self._ranking(library, wish.asking(wanted), target, explanation)
            ranked = found.ranked.pick(slice(wanted))
            hits = await self._hits(library, wish, ranked, 1)
            groups: dict[str, list[Hit]] = {}
            for hit in hits:
                groups.setdefault(hit.passage.document_id, []).append(hit)
            at_end = found.exhausted and len(found.ranked) <= wanted
            if len(groups) >= query.k or at_end or wanted == self._limits.k:
                break
            wanted = min(self._limits.k, 4 * wanted)
        answer = Answer([], found.position, found.exact, wish.mode)
        answer.groups = [
            Group(rank, own[: query.group_size])
            for rank, own in enumerate(list(groups.values())[: query.k], 1)
        ]
        return answer, len(hits) == len(ranked)

    async def _hits(
        self, library: Library, wish: Wish, ranked: Ranked, first_rank: int
    ) -> list[Hit]:
        """Rows with what is shown of them; left out are those that are gone, or changed so that
        they do not meet the filter any more."""
        rows = ranked.rows.tolist()
        found = await self._passages.submit((rows, "vector" in wish.query.include))
        if wish.filter is not None:
            if len(found) <= PAGE:
                found = _meeting(found, wish.filter)
            else:
                found = await self._pool.call(_meeting, found, wish.filter)
        hits: list[Hit] = []
        near = wish.mode == "vector"
        for row, score in zip(rows, ranked.scores.tolist(), strict=True):
            passage = found.get(row)
            if passage is None:
                continue
            legs = None
            distance = distance_of(score, library) if near else None
            if ranked.legs:
                legs = {name: leg[row] for name, leg in ranked.legs.items() if row in leg}
                if "vector" in legs:
                    distance = distance_of(legs["vector"][1], library)
            hits.append(Hit(first_rank + len(hits), score, distance, passage, legs))
        if wish.query.highlight and wish.query.query is not None:
            return await self._pool.call(_highlighted, hits, wish.query.query, library.language)
        return hits

    def _fetch(self, wanted: Sequence[tuple[Sequence[int], bool]]) -> list[dict[int, Passage]]:
        """The lane's work: one read for all searches that wait."""
        assert self._query_store is not None
        rows = sorted({row for part, _ in wanted for row in part})
        vectors = any(with_vectors for _, with_vectors in wanted)

        def query(reader: Reader) -> dict[int, Passage]:
            return reader.passages(rows, vectors=vectors)

        found = self._query_store(query)
        return [{row: found[row] for row in part if row in found} for part, _ in wanted]


def _diversified(
    candidates: Ranked, passages: dict[int, Passage], dimension: int, relevance: float, k: int
) -> Ranked:
    vectors = np.zeros((len(candidates), dimension), np.float32)
    for at, row in enumerate(candidates.rows.tolist()):
        passage = passages.get(row)
        if passage is not None and passage.vector is not None:
            vectors[at] = passage.vector
    return ranking.diverse(candidates, unit_length(vectors), relevance, k)


def _meeting(found: dict[int, Passage], filter: Filter) -> dict[int, Passage]:
    """Those that meet the filter as they are now: metadata may have changed since it was asked."""
    return {row: passage for row, passage in found.items() if matches(filter, metadata_of(passage))}


def _highlighted(hits: Sequence[Hit], query: str, language: str) -> list[Hit]:
    return [
        replace(hit, highlights=highlight(hit.passage.text or "", query, language)) for hit in hits
    ]


def _leg_depth(wish: Wish) -> int:
    """The same for all pages of a hybrid search: fused ranks depend on how deep the legs look."""
    if wish.page is not None:
        return max(_LEG_DEPTH, wish.page.depth)
    return max(_LEG_DEPTH, 2 * (wish.k + 1))


def _above(leg: Leg, threshold: float | None) -> Leg:
    if threshold is None:
        return leg
    keep = leg.scores >= threshold
    return Leg(leg.rows[keep], leg.scores[keep])


def _earlier(position: Position, other: Position | None) -> Position:
    return position if other is None else min(position, other)


def distance_of(score: float, library: Library) -> float:
    if library.metric == "cosine":
        return 1.0 - score
    if library.metric == "euclidean":
        return 1.0 / score - 1.0
    return -score
