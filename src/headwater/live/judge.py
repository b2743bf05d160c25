"""Which chunks of a step pass the filters of standing queries.

Asked only for pairs whose score would let them in, and answered once per filter and chunk. A
document's metadata is the one its change tells, so that the answer holds at the change's position;
a chunk's own lies over it and is read from the store, where the chunk may be gone already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater.filters import Filter, matches
from headwater.live.step import Told
from headwater.model import Position, Rows
from headwater.store.base import Reader

Read = Callable[[Callable[[Reader], Any]], Any]
"""Runs a query in a read transaction of its own; for the matching thread."""

PASSES, FAILS, GONE = 1, 0, 2

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Judge:
    """`rows` int64 (n,) are chunks, `documents` their documents as last told.

    A `lenient` one judges chunks that are gone by their document alone.
    """

    def __init__(
        self,
        filters: Sequence[Filter],
        rows: Rows,
        documents: Sequence[Told],
        read: Read,
        *,
        lenient: bool = False,
    ) -> None:
        self._filters = filters
        self._rows = rows
        self._documents = documents
        self._read = read
        self._lenient = lenient
        self._own: dict[int, bytes | None] = {}
        self._asked: set[int] = set()
        self._verdicts: dict[int, int] = {}
        self.head: Position = 0
        """Where the store was when a chunk was found to be gone; 0 when none was."""

    def verdicts(self, filters: NDArray[np.int64], chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """`PASSES`, `FAILS` or `GONE` for each pair of a filter's and a chunk's number."""
        count = len(self._rows)
        keys, places = np.unique(filters * count + chunks, return_inverse=True)
        self._look_up(np.unique(keys % count).tolist())
        known = self._verdicts
        found = []
        for key in keys.tolist():
            verdict = known.get(key)
            if verdict is None:
                verdict = known[key] = self._judge(key // count, key % count)
            found.append(verdict)
        result: NDArray[np.int64] = np.array(found, np.int64)[places]
        return result

    def _look_up(self, chunks: list[int]) -> None:
        rows = [int(self._rows[chunk]) for chunk in chunks if chunk not in self._asked]
        if not rows:
            return
        self._asked.update(chunks)

        def query(reader: Reader) -> tuple[dict[int, tuple[int, bytes | None]], Position]:
            return reader.chunk_owners(rows), reader.head()

        owners, head = self._read(query)
        self._own.update((row, own) for row, (_, own) in owners.items())
        if len(owners) < len(rows):
            self.head = max(self.head, head)

    def _judge(self, filter: int, chunk: int) -> int:
        row = int(self._rows[chunk])
        if row not in self._own and not self._lenient:
            return GONE
        metadata = self._documents[chunk].facts.metadata
        own = self._own.get(row)
        if own is not None:
            metadata = {**metadata, **_decode(own)}
        return PASSES if matches(self._filters[filter], metadata) else FAILS
