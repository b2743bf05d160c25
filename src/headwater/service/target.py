"""What a search looks for, and what it may find: the work before the views are asked.

`search.py` asks for it once a query is checked: a text becomes a vector, examples become a
direction, a filter becomes a selection of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from headwater.changes.log import Log
from headwater.embed import Embedders
from headwater.errors import EmbedderFailed, EmbedderUnavailable, InvalidQuery
from headwater.model import Library, Position, Rows, Vectors
from headwater.search.base import Allowed, MetadataEngine
from headwater.search.rowsets import NO_ROWS
from headwater.service.drafts import check_vector
from headwater.service.explain import Explanation
from headwater.service.query import Query, Wish
from headwater.store.base import Reader


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
                if query.mode is not None:
                    raise
                target.degraded = error.detail
            if explanation is not None:
                explanation.lap("embed")
        if wish.filter is not None:
            target.allowed, target.position = await self._metadata.select(library, wish.filter)
            if explanation is not None:
                explanation.filtered(target.allowed.count)
        return target

    async def _example(self, library: Library, query: Query) -> tuple[Vectors, Rows]:
        """The direction from what is unlike to what is like, and the rows of the examples."""

        def read(reader: Reader) -> dict[str, list[tuple[int, Vectors | None]]]:
            found = reader.documents_by_id(library.number, {*query.like, *query.unlike})
            documents = list(found.values())
            chunks = reader.chunks(documents, vectors=True)
            return {
                document.id: [(chunk.row, chunk.vector) for chunk in own]
                for document, own in zip(documents, chunks, strict=True)
            }

        found = await self._log.store.read(read)
        if missing := [id for id in (*query.like, *query.unlike) if id not in found]:
            raise InvalidQuery(
                f"there is no document {missing[0][:80]!r} to take as an example",
                parameter="like" if missing[0] in query.like else "unlike",
            )
        direction = np.zeros(library.dimension, np.float64)
        for ids, sign in ((query.like, 1.0), (query.unlike, -1.0)):
            vectors = [vector for id in ids for _, vector in found[id] if vector is not None]
            if vectors:
                direction += sign * unit_length(np.stack(vectors)).mean(axis=0)
        rows = sorted(row for chunks in found.values() for row, _ in chunks)
        return direction.astype(np.float32), np.array(rows, np.int64)


def unit_length(vectors: Vectors) -> Vectors:
    """Rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Vectors = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return result
