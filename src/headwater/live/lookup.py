"""Looking up what standing queries find: the search engine asked for more than is shown.

The engine goes on following the log while it searches, so an answer holds the effects of all that
was committed when it was asked, and of any part of what came until it was given. Whoever takes it
replays that stretch over it: the state of a row then no longer depends on when it was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.changes.log import Log
from headwater.errors import TooManyHits
from headwater.filters import Filter
from headwater.live.block import EVERYTHING, SMALLEST, Kept
from headwater.live.standing import Standing, Wanted
from headwater.model import Library, Position, Rows
from headwater.search.base import MetadataEngine, Scores, SearchEngine
from headwater.store.base import Reader

_FIRST_DEPTH = 64
_DEEPER = 4


@dataclass(frozen=True, slots=True)
class Found:
    """What `standing` is to keep. True after the changes in (`after`, `through`] are replayed."""

    standing: Standing
    kept: Kept
    after: Position
    through: Position


class Lookup:
    """Asks for one library's queries. Loop only."""

    def __init__(
        self,
        library: Library,
        log: Log,
        engine: SearchEngine,
        metadata: MetadataEngine,
        *,
        margin: int,
        most: int,
    ) -> None:
        self._library = library
        self._log = log
        self._engine = engine
        self._metadata = metadata
        self._margin = margin
        self._most = most

    def width(self, wanted: Wanted) -> int:
        """How many rows a query keeps that shows the best k."""
        assert wanted.k is not None
        return power_of_two(wanted.k + max(self._margin, wanted.k // 2))

    async def find(
        self, standings: Sequence[Standing], filter: Filter | None
    ) -> list[Found | TooManyHits]:
        """What each of them is to keep; all have that filter.

        Raises what searches raise: `NotCaughtUp`, `LibraryNotFound`, `Unavailable`.
        """
        after = self._log.head
        allowed = None
        if filter is not None:
            allowed, _ = await self._metadata.select(self._library, filter)
        results: dict[int, Kept | TooManyHits] = {}
        depths = {
            number: _FIRST_DEPTH if one.wanted.k is None else self.width(one.wanted)
            for number, one in enumerate(standings)
        }
        while depths:
            numbers = list(depths)
            queries = np.stack([standings[number].wanted.query for number in numbers])
            answers = await self._engine.search(
                self._library,
                queries,
                [depths[number] for number in numbers],
                exact=True,
                allowed=allowed,
            )
            owners = await self._owners(
                [
                    answer.rows
                    for number, answer in zip(numbers, answers, strict=True)
                    if standings[number].wanted.grouped
                ]
            )
            for number, answer in zip(numbers, answers, strict=True):
                depth = depths.pop(number)
                wanted = standings[number].wanted
                done = self._kept(wanted, answer.rows, answer.scores, depth, owners)
                if done is not None:
                    results[number] = done
                elif depth >= self._deepest(wanted):
                    results[number] = self._too_many(wanted)
                else:
                    depths[number] = min(_DEEPER * depth, self._deepest(wanted))
        through = await self._log.store.read(lambda reader: reader.head())
        return [
            result if isinstance(result, TooManyHits) else Found(one, result, after, through)
            for one, result in ((one, results[number]) for number, one in enumerate(standings))
        ]

    async def before(self, wanted: Wanted, old_row: int, without: Rows) -> tuple[Rows, bool] | None:
        """What it finds of the rows up to `old_row` that are not in `without`, best first.

        At least as many as it shows, or all, as the flag says. None when that takes more than a
        live query may look at. Raises as `find`.
        """
        allowed = None
        if wanted.filter is not None:
            allowed, _ = await self._metadata.select(self._library, wanted.filter)
        depth = _FIRST_DEPTH if wanted.k is None else self.width(wanted)
        while True:
            (answer,) = await self._engine.search(
                self._library, wanted.query[None, :], [depth], exact=True, allowed=allowed
            )
            above = int((answer.scores >= wanted.floor32).sum())
            whole = len(answer.rows) < depth or above < len(answer.rows)
            rows = answer.rows[:above]
            rows = rows[(rows <= old_row) & ~np.isin(rows, without)]
            if wanted.grouped:
                rows = rows[_first_of_each(rows, await self._owners([rows]))]
            if whole or (wanted.k is not None and len(rows) >= wanted.k):
                return rows, whole
            if depth >= self._deepest(wanted):
                return None
            depth = min(_DEEPER * depth, self._deepest(wanted))

    def _deepest(self, wanted: Wanted) -> int:
        return 2 * self._most + self._margin if wanted.grouped else self._most + 1

    def _kept(
        self, wanted: Wanted, rows: Rows, scores: Scores, depth: int, owners: dict[int, int]
    ) -> Kept | None:
        """What to keep of an answer `depth` deep; None when it must be deeper."""
        whole = len(rows) < depth
        above = int((scores >= wanted.floor32).sum())
        if above < len(rows):
            rows, scores, whole = rows[:above], scores[:above], True
        low = EVERYTHING if whole or not len(rows) else (scores[-1], int(rows[-1]))
        if wanted.grouped:
            first = _first_of_each(rows, owners)
            rows, scores = rows[first], scores[first]
        if wanted.k is None:
            if not whole or len(rows) > self._most:
                return None
            return Kept(rows, scores, *EVERYTHING)
        width = self.width(wanted)
        if not whole and len(rows) < min(width, wanted.k + self._margin // 2):
            return None
        if len(rows) > width:
            rows, scores = rows[:width], scores[:width]
            low = (scores[-1], int(rows[-1]))
        return Kept(rows, scores, np.float32(low[0]), low[1])

    def _too_many(self, wanted: Wanted) -> TooManyHits:
        if wanted.k is None:
            return too_many(self._most)
        return TooManyHits(
            f"the best {wanted.k} documents lie within more than {self._deepest(wanted)} chunks; "
            "leave `group_by` out, or ask for fewer",
            limit=self._deepest(wanted),
        )

    async def _owners(self, parts: list[Rows]) -> dict[int, int]:
        """The document's row of each of these chunk rows that exists."""
        if not parts:
            return {}
        rows = np.unique(np.concatenate(parts)).tolist()

        def query(reader: Reader) -> dict[int, int]:
            return {row: document for row, (document, _) in reader.chunk_owners(rows).items()}

        return await self._log.store.read(query)


def _first_of_each(rows: Rows, owners: dict[int, int]) -> list[int]:
    """The places of the first row of each owner.

    A row without one has been removed meanwhile: that will be replayed.
    """
    first: dict[int, int] = {}
    for place, row in enumerate(rows.tolist()):
        owner = owners.get(row)
        if owner is not None:
            first.setdefault(owner, place)
    return list(first.values())


def too_many(most: int) -> TooManyHits:
    return TooManyHits(
        f"more than {most} hits reach `score_threshold`, the most a live query keeps; raise it, "
        "or ask for the best `k`",
        limit=most,
    )


def power_of_two(count: int) -> int:
    """The least power of two that is not below `count`."""
    return max(1, 1 << (count - 1).bit_length())


def roomy(count: int) -> int:
    """How wide a block is in which `count` rows have room to become more."""
    return power_of_two(max(SMALLEST, 2 * count))
