"""A sealed part of an index: an HNSW graph over rows that only ever get fewer.

Built in the background by `build`, swapped in by `index.py`, searched by any number of threads at
once. FAISS cannot take a vertex out of a graph, so a removed row loses its bit and the graph is
walked through it. Nothing but bits may change after the build.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.model import Metric, Rows, Vectors
from headwater.search import huge_pages, scores
from headwater.search.graph import LINKS, copied, empty, faiss, stored_vectors
from headwater.search.mapped import written
from headwater.search.rowsets import slots_of
from headwater.search.scan import Slots

_BUILD_BLOCK = 1_024
"""Rows added between two looks at whether to stop."""


class Abandoned(Exception):
    """The build was told to stop; nothing has changed."""


class Segment:
    """`bitmap` has bit i (little-endian) set while slot i is alive.

    A graph holds its float32 vectors itself, or int8 codes of `vectors`, which then lie in a file:
    such a segment is `quantized`, and what it finds must be compared exactly by them.
    """

    __slots__ = (
        "__weakref__",
        "bitmap",
        "file",
        "graph",
        "live",
        "longest",
        "quantized",
        "rows",
        "squared",
        "vectors",
    )

    def __init__(
        self,
        graph: Any,
        rows: Rows,
        bitmap: NDArray[np.uint8],
        metric: Metric,
        *,
        vectors: Vectors | None = None,
        file: str | None = None,
    ) -> None:
        self.graph = graph
        self.rows = rows
        self.bitmap = bitmap
        self.file = file
        self.live = int(np.unpackbits(bitmap).sum())
        _on_large_pages(graph)
        self.quantized = vectors is not None
        self.vectors = stored_vectors(graph) if vectors is None else vectors
        if metric == "cosine":
            self.squared = np.ones(len(rows), np.float32)
            self.longest = 1.001
        else:
            self.squared = scores.squares(self.vectors)
            self.longest = float(np.sqrt(self.squared.max(initial=0.0))) * 1.001

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def dead(self) -> int:
        return self.count - self.live

    @property
    def memory_bytes(self) -> int:
        return self.count * row_bytes(self.vectors.shape[1], self.quantized) + self.bitmap.nbytes

    def remove(self, wanted: Rows) -> int:
        """Take sorted rows out; returns how many were alive here. Loop only."""
        slots = slots_of(self.rows, wanted)
        bits = (slots & 7).astype(np.uint8)
        here = (self.bitmap[slots >> 3] >> bits) & 1 == 1
        slots, bits = slots[here], bits[here]
        if len(slots):
            np.bitwise_and.at(self.bitmap, slots >> 3, ~np.left_shift(np.uint8(1), bits))
            self.live -= len(slots)
        return len(slots)

    def alive(self) -> NDArray[np.bool_]:
        """One flag per slot, a copy."""
        bits = np.unpackbits(self.bitmap, count=self.count, bitorder="little")
        return bits.view(np.bool_)

    def walk(
        self, queries: Vectors, k: int, ef: int, bits: NDArray[np.uint8] | None = None
    ) -> list[Slots]:
        """Up to k near slots per query, from the graph; fewer when it finds no more.

        `bits` names the slots that count, in place of those that are alive.
        """
        if bits is not None or self.dead:
            # The selector points into the bitmap; both live in this frame until the search is done.
            bits = self.bitmap if bits is None else bits
            selector = faiss.IDSelectorBitmap(bits)
            params = faiss.SearchParametersHNSW(efSearch=ef, sel=selector)
        else:
            params = _plain_walk(ef)
        _, found = self.graph.search(queries, k, params=params)
        # Places without a find are the last ones and hold -1.
        return [slots if slots[-1] >= 0 else slots[slots >= 0] for slots in found]

    def compare(self, query: Vectors, k: int, slots: Slots) -> tuple[Slots, NDArray[np.float32]]:
        """The k best of these slots for one query (dim,), roughly scored, best first.

        Compared where they lie: gathering them first takes twice as long.
        """
        selector = faiss.IDSelectorArray(slots)
        params = faiss.SearchParameters(sel=selector)
        storage = faiss.downcast_index(self.graph.storage)
        rough, found = storage.search(query[None, :], min(k, len(slots)), params=params)
        return found[0], rough[0]


@lru_cache(256)
def _plain_walk(ef: int) -> Any:
    """Never written to, so any number of searches share it."""
    return faiss.SearchParametersHNSW(efSearch=ef)


def _on_large_pages(graph: Any) -> None:
    codes = faiss.downcast_index(graph.storage).codes
    neighbors = graph.hnsw.neighbors
    for array, size in ((codes, 1), (neighbors, 4)):
        if array.size():
            huge_pages.advise(int(array.data()), array.size() * size)


def row_bytes(dimension: int, quantized: bool) -> int:
    """Vector, links of the lowest level (2 M) and a little above it, row, length."""
    return dimension * (1 if quantized else 4) + LINKS * 8 + 32 + 12


def full_bitmap(count: int) -> NDArray[np.uint8]:
    return np.packbits(np.ones(count, np.bool_), bitorder="little")


def build(
    base: Segment | None,
    sources: Sequence[tuple[Rows, Vectors]],
    dimension: int,
    metric: Metric,
    ef_construction: int,
    stop: threading.Event,
    disk: Path | None = None,
) -> Segment:
    """A new segment of `base`'s rows, dead ones included, and then those of `sources`.

    With `disk` it is quantised, and its vectors lie in a file there.

    Copying a graph costs about a hundredth of building it, so a large base is copied and grown.
    Raises `Abandoned` soon after `stop` is set.
    """
    if base is None:
        graph = empty(dimension, metric, sources, quantized=disk is not None)
        rows, alive = [], []
    else:
        graph = copied(base.graph, sum(len(added) for added, _ in sources))
        rows, alive = [base.rows], [base.alive()]
    graph.hnsw.efConstruction = ef_construction
    for added, vectors in sources:
        for at in range(0, len(added), _BUILD_BLOCK):
            if stop.is_set():
                raise Abandoned
            graph.add(np.ascontiguousarray(vectors[at : at + _BUILD_BLOCK]))
        rows.append(added)
        alive.append(np.ones(len(added), np.bool_))
    return Segment(
        graph,
        np.concatenate(rows) if rows else np.empty(0, np.int64),
        np.packbits(np.concatenate(alive), bitorder="little") if alive else full_bitmap(0),
        metric,
        vectors=(
            None
            if disk is None
            else written(
                [*([base.vectors] if base else []), *(vectors for _, vectors in sources)],
                dimension,
                disk,
            )
        ),
    )
