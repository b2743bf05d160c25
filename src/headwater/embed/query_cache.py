"""Vectors of recent queries: people, pages and live screens ask the same things again.

`hosted.py` looks here before it asks an embedder. One cache serves all embedders of a process, in
bounded memory, the least recently used dropped first. It must never mix two models: the identity
is part of the key.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ENTRY_BYTES = 400
"""A dictionary's entry, a key and an array's head, beside text and numbers."""


class QueryCache:
    """Text to vector, per model. Loop only."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._vectors: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()
        self._size_bytes = 0
        self._hits = 0
        self._misses = 0

    def get(self, identity: str, text: str) -> NDArray[np.float32] | None:
        """The vector, float32 (dimension,), not to be changed."""
        vector = self._vectors.get((identity, text))
        if vector is None:
            self._misses += 1
        else:
            self._hits += 1
            self._vectors.move_to_end((identity, text))
        return vector

    def put(self, identity: str, text: str, vector: NDArray[np.float32]) -> None:
        """Remember a copy."""
        size = _size_bytes(text, vector)
        if size > self._capacity_bytes or (identity, text) in self._vectors:
            return
        self._vectors[identity, text] = vector.copy()
        self._size_bytes += size
        while self._size_bytes > self._capacity_bytes:
            (_, old_text), old = self._vectors.popitem(last=False)
            self._size_bytes -= _size_bytes(old_text, old)

    def statistics(self) -> dict[str, Any]:
        return {
            "entries": len(self._vectors),
            "bytes": self._size_bytes,
            "hits": self._hits,
            "misses": self._misses,
        }


def _size_bytes(text: str, vector: NDArray[np.float32]) -> int:
    return _ENTRY_BYTES + 4 * len(text) + vector.nbytes
