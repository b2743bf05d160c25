"""The legs of a search, by meaning and by words, and the one order they make.

`search.py` asks once it knows what is looked for. The legs run side by side; each is asked for more
until there is enough, or no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import numpy as np

from headwater.model import Library, Position
from headwater.search.base import KeywordEngine, Mask, SearchEngine
from headwater.search.rowsets import NO_ROWS, AllBut
from headwater.service import ranking
from headwater.service.explain import Explanation
from headwater.service.paging import PageToken
from headwater.service.query import Weights, Wish
from headwater.service.ranking import Leg, Ranked
from headwater.service.target import Target
from headwater.threads import Pool

_LEG_DEPTH = 50
"""Candidates each leg of a hybrid search gives at least. What stands lower in one list and not in
the other does not reach the first ten; from 100 to 50 took a third off the legs' time."""

_FUSED_AT_ONCE = 1_000
"""Rows that are fused on the loop, in half a millisecond; more go to a thread."""

_LEFT_OUT_AFTERWARDS = 100
"""Up to this many rows that must not be found are taken out of what was found, so much deeper; more
are told to the index, or they might be all that it finds."""

_SELECTED_AS_TERMS = 2_000
"""Up to this many rows are handed to the keyword view by name; it finds only among them."""


@dataclass(slots=True)
class Found:
    """What a ranking stands on. `exhausted` says that no leg has more to give."""

    ranked: Ranked
    position: Position
    exact: bool = True
    exhausted: bool = True


class Legs:
    """Loop only. `most` is how many rows a search may show, pages before it included."""

    def __init__(
        self, engine: SearchEngine, keyword: KeywordEngine, pool: Pool, *, most: int
    ) -> None:
        self._engine = engine
        self._keyword = keyword
        self._pool = pool
        self._most = most

    async def find(
        self, library: Library, wish: Wish, target: Target, explanation: Explanation | None
    ) -> Found:
        """More than k rows in order, if there are so many: one more says that a page follows."""
        page = wish.page
        few = target.excluded if len(target.excluded) <= _LEFT_OUT_AFTERWARDS else NO_ROWS
        most = self._most + len(few)
        depth = wish.k + 1 + len(few)
        if page is not None:
            depth += page.shown
        if wish.mode == "hybrid":
            depth = leg_depth(wish)
        while True:
            depth = min(depth, most)
            found = await self._legs(library, wish, target, depth, explanation)
            ranked = ranking.without(found.ranked, few)
            if page is not None:
                ranked = await self._behind(library, wish, page, ranked)
            found.ranked = ranked
            enough = len(ranked) > wish.k or wish.mode == "hybrid"
            if enough or found.exhausted or depth == most:
                return found
            depth *= 2

    async def _behind(
        self, library: Library, wish: Wish, page: PageToken, ranked: Ranked
    ) -> Ranked:
        """What comes after the last hit of the page before, wherever that is by now.

        Its score by vector stays what it was. By words scores move with every write, and another
        process may have others, so the hit itself is looked for; where it is gone, its old score
        says where it was.
        """
        if wish.mode == "vector":
            return ranking.after(ranked, page.score, page.row)
        places = np.flatnonzero(ranked.rows == page.row)
        if len(places):
            return ranked.pick(slice(int(places[0]) + 1, None))
        score = page.score
        if wish.mode == "keyword":
            assert wish.query.query is not None
            _, scores, _ = await self._keyword.search(
                library, wish.query.query, 1, selected=np.array([page.row], np.int64)
            )
            score = float(scores[0]) if len(scores) else score
        return ranking.after(ranked, score, page.row)

    async def _legs(
        self,
        library: Library,
        wish: Wish,
        target: Target,
        depth: int,
        explanation: Explanation | None,
    ) -> Found:
        if wish.mode == "vector":
            return await self._near(library, wish, target, depth, explanation)
        if wish.mode == "keyword" or target.vector is None:
            return await self._words(library, wish, target, depth, explanation)
        found: dict[str, Found] = {}

        async def near() -> None:
            found["vector"] = await self._near(library, wish, target, depth, explanation)

        try:
            async with anyio.create_task_group() as tasks:
                if target.vector.any():
                    tasks.start_soon(near)
                # Else the embedder knows nothing of the text: all vectors are alike to it, and
                # their ranks would only hide what the words find.
                found["keyword"] = await self._words(library, wish, target, depth, explanation)
        except ExceptionGroup as group:
            # One leg's error has ended the other: it is the search's own.
            raise group.exceptions[0] from group
        weights = wish.query.weights or Weights()
        legs = {name: Leg(leg.ranked.rows, leg.ranked.scores) for name, leg in found.items()}
        shares = {"vector": weights.vector, "keyword": weights.keyword}
        if sum(len(leg.rows) for leg in legs.values()) <= _FUSED_AT_ONCE:
            fused = ranking.fused(legs, shares)
        else:
            fused = await self._pool.call(ranking.fused, legs, shares)
        return Found(
            fused,
            min(leg.position for leg in found.values()),
            all(leg.exact for leg in found.values()),
            all(leg.exhausted for leg in found.values()),
        )

    async def _near(
        self,
        library: Library,
        wish: Wish,
        target: Target,
        depth: int,
        explanation: Explanation | None,
    ) -> Found:
        assert target.vector is not None
        began_s = 0.0 if explanation is None else explanation.now_s()
        allowed: Mask | None = target.allowed
        if len(target.excluded) > _LEFT_OUT_AFTERWARDS:
            allowed = AllBut(target.excluded, allowed)
        (near,) = await self._engine.search(
            library,
            target.vector[None, :],
            [depth],
            exact=wish.query.exact,
            allowed=allowed,
            ef=wish.query.ef,
        )
        if explanation is not None:
            explanation.near(near, began_s)
        leg = _above(Leg(near.rows, near.scores.astype(np.float64)), wish.query.score_threshold)
        return Found(
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
    ) -> Found:
        assert wish.query.query is not None
        began_s = 0.0 if explanation is None else explanation.now_s()
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
            explanation.words(len(rows), began_s, by_name=few)
        threshold = wish.query.score_threshold if wish.mode == "keyword" else None
        leg = _above(Leg(rows, scores.astype(np.float64)), threshold)
        return Found(
            ranking.single(leg),
            _earlier(position, target.position),
            True,
            len(rows) < depth or len(leg.rows) < len(rows),
        )


def leg_depth(wish: Wish) -> int:
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
