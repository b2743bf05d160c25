"""Searching: text or vector in, passages out.

Embeds the query, asks the engine for rows, fetches what is shown from the store. Rows deleted in
between are not in the store any more and never shown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.abc
import msgspec
import numpy as np

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.embed import Embedders
from headwater.errors import InvalidQuery, NotCaughtUp
from headwater.model import Cursor, Library, Passage, Position, Vectors
from headwater.search.base import Neighbours, SearchEngine
from headwater.service.drafts import check_vector
from headwater.settings import LimitSettings, SearchSettings
from headwater.store.base import Reader
from headwater.threads import Lane

INCLUDES = frozenset({"vector", "distance"})
PAGE = 200
"""Passages fetched at once while a search is streamed."""


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """A search as a client sends it: `query` or `vector`."""

    query: str | None = None
    vector: list[float] | None = None
    k: int = 10
    score_threshold: float | None = None
    include: list[str] = []
    min_cursor: str | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """One result. `score` is higher-is-better; `distance` is the metric's own."""

    rank: int
    score: float
    distance: float
    passage: Passage


@dataclass(frozen=True, slots=True)
class Answer:
    hits: list[Hit]
    position: Position
    exact: bool


class Search:
    """Searches libraries. Loop only; `run` owns the lane that fetches passages."""

    def __init__(
        self,
        log: Log,
        engine: SearchEngine,
        embedders: Embedders,
        clock: Clock,
        settings: SearchSettings,
        limits: LimitSettings,
    ) -> None:
        self._log = log
        self._engine = engine
        self._embedders = embedders
        self._clock = clock
        self._settings = settings
        self._limits = limits
        self._passages: Lane[tuple[Sequence[int], bool], dict[int, Passage]] = Lane(
            "passages", self._fetch, max_batch=4
        )
        self._query_store: Callable[..., dict[int, Passage]] | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self._query_store = self._log.store.open_reader()
        await self._passages.run(task_status=task_status)

    async def search(self, library: Library, query: Query) -> Answer:
        """The best hits, best first. Raises `InvalidQuery` and what the engine raises."""
        return (await self.search_all(library, [query]))[0]

    async def search_all(self, library: Library, queries: Sequence[Query]) -> list[Answer]:
        """Several searches at once, answered in their order."""
        vectors = await self._vectors(library, queries)
        answers: list[Answer] = []
        for query, near in zip(queries, await self._near(library, queries, vectors), strict=True):
            # A row that is gone was deleted after the view was asked; ask again, so that the
            # answer is as long as it can be.
            for attempt in range(3):
                found = await self._passages.submit((near.rows.tolist(), "vector" in query.include))
                if len(found) == len(near.rows) or attempt == 2:
                    break
                await self._engine.caught_up(library.id, self._log.head)
                index = queries.index(query)
                (near,) = await self._near(library, [query], vectors[index : index + 1])
            answers.append(Answer(_hits(near, found, library), near.position, near.exact))
        return answers

    async def stream(
        self, library: Library, query: Query
    ) -> tuple[Neighbours, AsyncIterator[list[Hit]]]:
        """The ranked rows now, and their hits in pages, fetched as they are taken.

        A hit that is deleted before its page is fetched is left out.
        """
        vectors = await self._vectors(library, [query])
        (near,) = await self._near(library, [query], vectors)

        async def pages() -> AsyncIterator[list[Hit]]:
            start, size = 0, 10  # the first page is small: the first hit leaves at once
            rank = 1
            while start < len(near.rows):
                part = Neighbours(
                    near.rows[start : start + size],
                    near.scores[start : start + size],
                    near.position,
                    near.exact,
                )
                found = await self._passages.submit((part.rows.tolist(), "vector" in query.include))
                hits = _hits(part, found, library, rank)
                rank += len(hits)
                yield hits
                start, size = start + size, PAGE

        return near, pages()

    def cursor(self, position: Position) -> Cursor:
        return self._log.cursor(position)

    async def _vectors(self, library: Library, queries: Sequence[Query]) -> Vectors:
        """Wait for `min_cursor`, check, and embed: float32, (len(queries), dimension)."""
        for query in queries:
            self._check(query)
            if query.min_cursor is not None:
                await self.wait_for(library, query.min_cursor)
        texts = [query.query for query in queries if query.query is not None]
        if texts:
            embedded = iter(await self._embedders.bound(library).embed(texts, "query"))
        result = np.empty((len(queries), library.dimension), dtype=np.float32)
        for index, query in enumerate(queries):
            if query.vector is not None:
                result[index] = check_vector(query.vector, library)
            else:
                result[index] = next(embedded)
        return result

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

    async def _near(
        self, library: Library, queries: Sequence[Query], vectors: Vectors
    ) -> list[Neighbours]:
        results: list[Neighbours | None] = [None] * len(queries)
        for exact in {query.exact for query in queries}:
            indexes = [i for i, query in enumerate(queries) if query.exact is exact]
            found = await self._engine.search(
                library, vectors[indexes], [queries[i].k for i in indexes], exact=exact
            )
            for index, near in zip(indexes, found, strict=True):
                results[index] = _above(near, queries[index].score_threshold)
        return [near for near in results if near is not None]

    def _check(self, query: Query) -> None:
        if (query.query is None) == (query.vector is None):
            raise InvalidQuery("give exactly one of `query` and `vector`")
        if not 1 <= query.k <= self._limits.k:
            raise InvalidQuery(f"k is {query.k}; it may be 1 to {self._limits.k}", parameter="k")
        if query.query is not None and len(query.query) > self._limits.query_chars:
            raise InvalidQuery(
                f"the query has {len(query.query)} characters, "
                f"the limit is {self._limits.query_chars}",
                parameter="query",
            )
        if unknown := set(query.include) - INCLUDES:
            raise InvalidQuery(
                f"`include` knows {', '.join(sorted(INCLUDES))}, not {', '.join(sorted(unknown))}",
                parameter="include",
            )

    def _fetch(self, wanted: Sequence[tuple[Sequence[int], bool]]) -> list[dict[int, Passage]]:
        """The lane's work: one read for all searches that wait."""
        assert self._query_store is not None
        rows = sorted({row for part, _ in wanted for row in part})
        vectors = any(with_vectors for _, with_vectors in wanted)

        def query(reader: Reader) -> dict[int, Passage]:
            return reader.passages(rows, vectors=vectors)

        found = self._query_store(query)
        return [{row: found[row] for row in part if row in found} for part, _ in wanted]


def _above(near: Neighbours, threshold: float | None) -> Neighbours:
    if threshold is None:
        return near
    keep = near.scores >= threshold
    return Neighbours(near.rows[keep], near.scores[keep], near.position, near.exact)


def _hits(
    near: Neighbours, found: dict[int, Passage], library: Library, first_rank: int = 1
) -> list[Hit]:
    hits: list[Hit] = []
    for row, score in zip(near.rows.tolist(), near.scores.tolist(), strict=True):
        passage = found.get(row)
        if passage is not None:
            rank = first_rank + len(hits)
            hits.append(Hit(rank, score, _distance(score, library), passage))
    return hits


def _distance(score: float, library: Library) -> float:
    if library.metric == "cosine":
        return 1.0 - score
    if library.metric == "euclidean":
        return 1.0 / score - 1.0
    return -score
