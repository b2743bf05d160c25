"""The mutable end of an index: new rows in a growing buffer, searched exactly.

The loop appends and removes; searching threads read at the same time without a lock. That works
because rows below `count` never change or move within a buffer, `count` is raised last, and a
reader takes `count` before it takes the arrays. Nothing else may write to the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.model import Metric, Rows, Vectors
from headwater.search import scores
from headwater.search.rowsets import slots_of

_FIRST_CAPACITY = 64


@dataclass(frozen=True, slots=True)
class HeadRows:
    """A head as it was at one moment. `alive` goes on losing rows unless it was copied."""

    rows: Rows
    vectors: Vectors
    squared: NDArray[np.float32]
    alive: NDArray[np.bool_]
    dead: int
    longest: float

    def live(self) -> tuple[Rows, Vectors]:
        if not self.dead:
            return self.rows, self.vectors
        alive = self.alive.copy()
        return self.rows[alive], self.vectors[alive]


class Head:
    """Rows in rising order with their prepared vectors."""

    __slots__ = ("_arrays", "_metric", "count", "dead", "longest")

    def __init__(self, dimension: int, metric: Metric) -> None:
        self._metric = metric
        self._arrays = (
            np.empty(0, np.int64),
            np.empty((0, dimension), np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.bool_),
        )
        self.count = 0
        self.dead = 0
        self.longest = 0.0

    @property
    def live(self) -> int:
        return self.count - self.dead

    @property
    def memory_bytes(self) -> int:
        return sum(array.nbytes for array in self._arrays)

    def append(self, rows: Rows, vectors: Vectors) -> None:
        """Take rows above all others here, with prepared vectors. Loop only."""
        if not len(rows):
            return
        begin, end = self.count, self.count + len(rows)
        if end > len(self._arrays[0]):
            self._grow(end)
        own_rows, own_vectors, squared, alive = self._arrays
        own_rows[begin:end] = rows
        own_vectors[begin:end] = vectors
        alive[begin:end] = True
        if self._metric != "cosine":
            squared[begin:end] = scores.squares(vectors)
            self.longest = max(self.longest, float(np.sqrt(squared[begin:end].max())) * 1.001)
        else:
            squared[begin:end] = 1.0
            self.longest = 1.001
        self.count = end  # last: what a reader sees below `count` is whole

    def remove(self, wanted: Rows) -> int:
        """Take sorted rows out; returns how many were here. Loop only."""
        rows, _, _, alive = self._arrays
        slots = slots_of(rows[: self.count], wanted)
        slots = slots[alive[slots]]
        alive[slots] = False
        self.dead += len(slots)
        return len(slots)

    def look(self) -> HeadRows:
        """What is here now; for any thread."""
        count = self.count  # before the arrays: they hold at least this many
        rows, vectors, squared, alive = self._arrays
        return HeadRows(
            rows[:count], vectors[:count], squared[:count], alive[:count], self.dead, self.longest
        )

    def _grow(self, needed: int) -> None:
        capacity = max(_FIRST_CAPACITY, needed, 2 * len(self._arrays[0]))
        grown = []
        for array in self._arrays:
            larger = np.empty((capacity, *array.shape[1:]), array.dtype)
            larger[: self.count] = array[: self.count]
            grown.append(larger)
        self._arrays = (grown[0], grown[1], grown[2], grown[3])
