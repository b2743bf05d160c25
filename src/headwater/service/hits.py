"""What is shown of the rows that a search found: their passages, read from the store.

`search.py` asks. A row that was deleted in between is not in the store any more and never shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import anyio
import anyio.abc

from headwater.changes.log import Log
from headwater.errors import LibraryRegenerated
from headwater.filters import Filter, matches
from headwater.model import Library, Passage
from headwater.search.highlight import Highlights, highlight
from headwater.service.libraries import same_generation
from headwater.service.query import Wish
from headwater.service.ranking import Ranked
from headwater.service.render import metadata_of
from headwater.store.base import Reader
from headwater.threads import Lane, Pool

_Wanted = tuple[Sequence[int], Library | None]
"""Rows, and the library when their vectors are wanted, too."""

PAGE = 200
"""Passages looked at on the loop; also how many are fetched at once for a stream."""


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


class Hits:
    """Loop only; `run` owns the lane that fetches passages."""

    def __init__(self, log: Log, pool: Pool) -> None:
        self._log = log
        self._pool = pool
        self._passages: Lane[_Wanted, dict[int, Passage]] = Lane(
            "passages", self._fetch, max_batch=8
        )
        self._query_store: Callable[..., list[dict[int, Passage] | LibraryRegenerated]] | None = (
            None
        )

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self._query_store = self._log.store.open_reader()
        await self._passages.run(task_status=task_status)

    async def passages(
        self, library: Library, ranked: Ranked, *, vectors: bool
    ) -> dict[int, Passage]:
        """What the store has of these rows, by row.

        With `vectors` it raises `LibraryRegenerated` when those are of another generation than
        `library`, by whose vectors the rows were found.
        """
        return await self._passages.submit((ranked.rows.tolist(), library if vectors else None))

    async def of(self, library: Library, wish: Wish, ranked: Ranked, first_rank: int) -> list[Hit]:
        """Rows with what is shown of them, without highlights.

        Left out are those that are gone, or changed so that they do not meet the filter any more.
        """
        found = await self.passages(library, ranked, vectors="vector" in wish.query.include)
        if wish.filter is not None:
            if len(found) <= PAGE:
                found = _meeting(found, wish.filter)
            else:
                found = await self._pool.call(_meeting, found, wish.filter)
        hits: list[Hit] = []
        near = wish.mode == "vector"
        for row, score in zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True):
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
        return hits

    async def highlighted(self, library: Library, wish: Wish, hits: list[Hit]) -> list[Hit]:
        """With the words of the query marked, where that was asked for."""
        if not wish.query.highlight or wish.query.query is None:
            return hits
        return await self._pool.call(_highlighted, hits, wish.query.query, library.language)

    def _fetch(
        self, wanted: Sequence[_Wanted]
    ) -> Sequence[dict[int, Passage] | LibraryRegenerated]:
        """The lane's work: one read for all searches that wait."""
        assert self._query_store is not None
        rows = sorted({row for part, _ in wanted for row in part})
        vectors = any(library is not None for _, library in wanted)

        def query(reader: Reader) -> list[dict[int, Passage] | LibraryRegenerated]:
            found = reader.passages(rows, vectors=vectors)
            answers: list[dict[int, Passage] | LibraryRegenerated] = []
            for part, library in wanted:
                try:
                    if library is not None:
                        same_generation(reader, library)
                    answers.append({row: found[row] for row in part if row in found})
                except LibraryRegenerated as error:
                    answers.append(error)
            return answers

        return self._query_store(query)


def _meeting(found: dict[int, Passage], filter: Filter) -> dict[int, Passage]:
    """Those that meet the filter as they are now: metadata may have changed since it was asked."""
    return {row: passage for row, passage in found.items() if matches(filter, metadata_of(passage))}


def _highlighted(hits: Sequence[Hit], query: str, language: str) -> list[Hit]:
    return [
        replace(hit, highlights=highlight(hit.passage.text or "", query, language)) for hit in hits
    ]


def distance_of(score: float, library: Library) -> float:
    if library.metric == "cosine":
        return 1.0 - score
    if library.metric == "euclidean":
        return 1.0 / score - 1.0
    return -score
