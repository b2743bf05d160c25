"""What is shown of the rows that a search found: their passages, read from the store.

`search.py` asks. A row that was deleted in between is not in the store any more and never shown.
Many rows are read piece by piece: other searches wait for a piece, and an answer that grows too
large ends there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import anyio
import anyio.abc

from headwater.changes.log import Log
from headwater.errors import AnswerTooLarge, HeadwaterError, LibraryRegenerated
from headwater.filters import Filter, matches
from headwater.model import Library, Passage
from headwater.search.highlight import Highlights, highlight
from headwater.service.libraries import same_generation
from headwater.service.query import Wish
from headwater.service.ranking import Ranked
from headwater.service.render import metadata_of
from headwater.store.base import Reader
from headwater.threads import Lane, Pool

PAGE = 200
"""Passages looked at on the loop; also how many are fetched at once for a stream."""

_PAGE_BYTES = 8 << 20
"""What a page of a stream may hold, as far as the page before tells."""

_PIECE = 500
"""Passages read at once: 4 ms, and 13 with vectors of 2,048 numbers."""

_NUMBER_BYTES = 22
"""About what a number of a vector takes in JSON."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Some rows. With a `library` their vectors, too, if they are of its generation."""

    rows: Sequence[int]
    texts: bool
    library: Library | None

    @property
    def columns(self) -> tuple[bool, bool]:
        return self.texts, self.library is not None


@dataclass(slots=True)
class Room:
    """How much an answer may hold, or several that are given together."""

    limit_bytes: int
    held_bytes: int = 0

    def take(self, passages: Iterable[Passage]) -> None:
        """Raises `AnswerTooLarge` when there is no room for these."""
        self.held_bytes += sum(map(_size_bytes, passages))
        if self.held_bytes > self.limit_bytes:
            raise AnswerTooLarge(
                f"the passages and vectors of an answer may have {self.limit_bytes:,} bytes; ask "
                "for fewer hits, or for a stream",
                limit_bytes=self.limit_bytes,
            )

    def give_back(self, passages: Iterable[Passage]) -> None:
        """These are not held any more."""
        self.held_bytes -= sum(map(_size_bytes, passages))


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
        self,
        library: Library,
        rows: Sequence[int],
        *,
        texts: bool = True,
        vectors: bool = False,
        room: Room | None = None,
    ) -> dict[int, Passage]:
        """What the store has of these rows, by row. They take `room`, unless this raises.

        With `vectors` it raises `LibraryRegenerated` when those are of another generation than
        `library`, by whose vectors the rows were found.
        """
        found: dict[int, Passage] = {}
        try:
            for at in range(0, len(rows), _PIECE):
                piece = rows[at : at + _PIECE]
                some = await self._passages.submit(
                    _Wanted(piece, texts, library if vectors else None)
                )
                found.update(some)
                if room is not None:
                    room.take(some.values())
        except HeadwaterError:
            if room is not None:
                room.give_back(found.values())
            raise
        return found

    async def of(
        self,
        library: Library,
        wish: Wish,
        ranked: Ranked,
        first_rank: int,
        room: Room | None = None,
        *,
        bare: bool = False,
    ) -> list[Hit]:
        """Rows with what is shown of them, without highlights; `bare`: without texts and vectors.

        Left out are those that are gone, or changed so that they do not meet the filter any more.
        """
        vectors = "vector" in wish.query.include and not bare
        rows = ranked.rows.tolist()
        found = await self.passages(library, rows, texts=not bare, vectors=vectors, room=room)
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
        return hits

    async def whole(
        self, library: Library, wish: Wish, hits: Sequence[Hit], room: Room
    ) -> list[Hit]:
        """Bare hits with all that is shown of them. Left out are those that are gone."""
        rows = [hit.passage.row for hit in hits]
        vectors = "vector" in wish.query.include
        found = await self.passages(library, rows, vectors=vectors, room=room)
        return [
            replace(hit, passage=passage)
            for hit in hits
            if (passage := found.get(hit.passage.row)) is not None
        ]

    async def highlighted(self, library: Library, wish: Wish, hits: list[Hit]) -> list[Hit]:
        """With the words of the query marked, where that was asked for."""
        if not wish.query.highlight or wish.query.query is None:
            return hits
        return await self._pool.call(_highlighted, hits, wish.query.query, library.language)

    def _fetch(
        self, wanted: Sequence[_Wanted]
    ) -> Sequence[dict[int, Passage] | LibraryRegenerated]:
        """The lane's work: one read for all searches that wait for the same columns."""
        assert self._query_store is not None
        rows: defaultdict[tuple[bool, bool], set[int]] = defaultdict(set)
        for one in wanted:
            rows[one.columns].update(one.rows)

        def query(reader: Reader) -> list[dict[int, Passage] | LibraryRegenerated]:
            found = {
                (texts, vectors): reader.passages(sorted(some), texts=texts, vectors=vectors)
                for (texts, vectors), some in rows.items()
            }
            answers: list[dict[int, Passage] | LibraryRegenerated] = []
            for one in wanted:
                try:
                    if one.library is not None:
                        same_generation(reader, one.library)
                    own = found[one.columns]
                    answers.append({row: own[row] for row in one.rows if row in own})
                except LibraryRegenerated as error:
                    answers.append(error)
            return answers

        return self._query_store(query)


def page_like(hits: Sequence[Hit]) -> int:
    """How many hits the page after these should have."""
    held_bytes = sum(_size_bytes(hit.passage) for hit in hits)
    return PAGE if not held_bytes else max(1, min(PAGE, _PAGE_BYTES * len(hits) // held_bytes))


def _size_bytes(passage: Passage) -> int:
    size = len(passage.text or "") + len(passage.metadata) + len(passage.chunk_metadata or b"")
    return size if passage.vector is None else size + _NUMBER_BYTES * len(passage.vector)


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
