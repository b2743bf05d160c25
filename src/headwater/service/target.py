"""What a search looks for, and what it may find: the work before the views are asked.

`search.py` asks for it once a query is checked: a text becomes a vector, examples become a
direction, a filter becomes a selection of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headwater.changes.log import Log
from headwater.embed import Embedders
from headwater.errors import EmbedderFailed, EmbedderUnavailable, InvalidQuery
from headwater.model import Library, Position, Rows, Vectors
from headwater.search.base import Allowed, MetadataEngine
from headwater.search.rowsets import NO_ROWS, spelled_out
from headwater.service.drafts import check_vector
from headwater.service.explain import Explanation
from headwater.service.libraries import same_generation
from headwater.service.query import Query, Wish
from headwater.store.base import Reader

_Wide = NDArray[np.float64]


@dataclass(slots=True)
class Target:
    """`vector` float32 (dim,), None when only words are looked for. `excluded` rows rise.

    `position` is what the filter's view had applied. `degraded` says why there is no vector where
    there should be one: whoever left the mode open is better served with words than with an error.
    """

    vector: Vectors | None = None
    excluded: Rows = field(default_factory=lambda: NO_ROWS)
    allowed: Allowed | None = None
    position: Position | None = None
    degraded: str | None = None


class Targets:
    """Loop only."""

    def __init__(self, log: Log, embedders: Embedders, metadata: MetadataEngine) -> None:
        self._log = log
        self._embedders = embedders
        self._metadata = metadata

    async def find(self, library: Library, wish: Wish, explanation: Explanation | None) -> Target:
        query, target = wish.query, Target()
        if query.vector is not None:
            target.vector = check_vector(query.vector, library)
        elif query.like:
            target.vector, target.excluded = await self._example(library, query)
        elif wish.mode != "keyword":
            assert query.query is not None
            try:
                embedded = await self._embedders.bound(library).embed([query.query], "query")
                target.vector = embedded[0]
            except (EmbedderFailed, EmbedderUnavailable) as error:
                if query.mode is not None or wish.page is not None:
                    raise  # a page of a fused ranking cannot go on with words alone
                target.degraded = error.detail
            if explanation is not None:
                explanation.lap("embed")
        if wish.filter is not None:
            target.allowed, target.position = await self._metadata.select(library, wish.filter)
            if explanation is not None:
                explanation.filtered(target.allowed.count)
        return target

    async def _example(self, library: Library, query: Query) -> tuple[Vectors, Rows]:
        """A point that is like what is like and unlike what is not, and the examples' rows."""

        def read(reader: Reader) -> tuple[Vectors, Rows]:
            same_generation(reader, library)
            found = reader.documents_by_id(library.number, {*query.like, *query.unlike})
            if missing := [id for id in (*query.like, *query.unlike) if id not in found]:
                raise InvalidQuery(
                    f"there is no document {missing[0][:80]!r} to take as an example",
                    parameter="like" if missing[0] in query.like else "unlike",
                )

            def middle(name: str, ids: Sequence[str]) -> _Wide:
                """One document at a time: a hundred may have a million vectors."""
                total, count = np.zeros(library.dimension), 0
                for id in sorted({*ids}):
                    chunks = found[id].chunks
                    _, vectors = reader.vectors_of([(chunks.first, chunks.count)])
                    if len(vectors):
                        total += _summed(vectors, library)
                        count += len(vectors)
                if not count:
                    raise InvalidQuery(
                        f"the documents of `{name}` have no vectors yet; wait until they are "
                        "embedded, or search by words",
                        parameter=name,
                    )
                return total / count

            like = middle("like", query.like)
            unlike = middle("unlike", query.unlike) if query.unlike else None
            rows = spelled_out(document.chunks for document in found.values())
            target = _away(like, unlike, library)
            if library.metric != "euclidean" and not target.any():
                raise InvalidQuery(
                    "these examples point nowhere: they cancel each other out, or their "
                    "vectors are zero; name others",
                    parameter="like",
                )
            return target, rows

        return await self._log.store.read(read)


def _summed(vectors: Vectors, library: Library) -> _Wide:
    """Of places for the Euclidean metric, of directions for the others, whatever the lengths."""
    if library.metric != "euclidean":
        vectors = unit_length(vectors)
    summed: _Wide = vectors.sum(axis=0, dtype=np.float64)
    return summed


def _away(like: _Wide, unlike: _Wide | None, library: Library) -> Vectors:
    if unlike is not None:
        like = 2 * like - unlike if library.metric == "euclidean" else like - unlike
    return like.astype(np.float32)


def unit_length(vectors: Vectors) -> Vectors:
    """Rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Vectors = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return result
