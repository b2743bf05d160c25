"""What many standing queries have found, as matrices: one row per query, its best rows in order.

Queries that keep equally many rows share a block, so that a commit costs one matrix product and
not one per query. Touched by the matching thread during a step and by the matcher between two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater.live.standing import Wanted
from headwater.model import Rows, Vectors
from headwater.search.base import Scores

NO_ROW = np.iinfo(np.int64).max
"""Stands where a query keeps nothing."""

SMALLEST = 8


@dataclass(frozen=True, slots=True)
class Kept:
    """What one query keeps: rows and scores, best first, and how far down they are complete.

    Every row there is that ranks at (`low_score`, `low_row`) or before is among them; with
    `low_score` -inf that is every row.
    """

    rows: Rows
    scores: Scores
    low_score: np.float32
    low_row: int


EVERYTHING = (np.float32(-np.inf), NO_ROW)


Owner = TypeVar("Owner")


class Block(Generic[Owner]):
    """Queries that keep up to `width` rows each. Slots below `size` may be free (owner None).

    `rows` int64 and `scores` float32 are (size, width), best first, `NO_ROW` and -inf where there
    is nothing. `k` is how many are shown, `width` + 1 for all.
    """

    def __init__(self, width: int, dimension: int, *, grouped: bool) -> None:
        self.width = width
        self.grouped = grouped
        self.size = 0
        self.owners: list[Owner | None] = []
        self._free: list[int] = []
        self.queries: Vectors = np.empty((0, dimension), np.float32)
        self.lengths: NDArray[np.float64] = np.empty(0)
        self.rows: Rows = np.empty((0, width), np.int64)
        self.scores: Scores = np.empty((0, width), np.float32)
        self.low_scores: Scores = np.empty(0, np.float32)
        self.low_rows: Rows = np.empty(0, np.int64)
        self.floors: Scores = np.empty(0, np.float32)
        self.k: NDArray[np.int64] = np.empty(0, np.int64)
        self.filters: NDArray[np.int64] = np.empty(0, np.int64)
        self.open: NDArray[np.bool_] = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return self.size - len(self._free)

    @property
    def cells(self) -> int:
        return len(self) * self.width

    def put(self, owner: Owner, wanted: Wanted, kept: Kept, filter: int) -> int:
        """Take a query in; `filter` is the number of its filter, -1 when it has none."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = self.size
            self.size += 1
            self.owners.append(None)
            if self.size > len(self.k):
                self._grow(max(SMALLEST, 2 * len(self.k)))
        self.owners[slot] = owner
        self.queries[slot] = wanted.query
        self.lengths[slot] = np.sqrt(np.square(self.queries[slot].astype(np.float64)).sum())
        self.floors[slot] = wanted.floor32
        self.k[slot] = self.width + 1 if wanted.k is None else wanted.k
        self.filters[slot] = filter
        self.open[slot] = True
        self.keep(slot, kept)
        return slot

    def keep(self, slot: int, kept: Kept) -> None:
        """Replace what a query keeps."""
        count = len(kept.rows)
        self.rows[slot, :count] = kept.rows
        self.rows[slot, count:] = NO_ROW
        self.scores[slot, :count] = kept.scores
        self.scores[slot, count:] = -np.inf
        self.low_scores[slot], self.low_rows[slot] = kept.low_score, kept.low_row

    def kept(self, slot: int) -> Kept:
        count = int((self.rows[slot] != NO_ROW).sum())
        return Kept(
            self.rows[slot, :count].copy(),
            self.scores[slot, :count].copy(),
            self.low_scores[slot],
            int(self.low_rows[slot]),
        )

    def drop(self, slot: int) -> None:
        self.owners[slot] = None
        self.open[slot] = False
        self.rows[slot] = NO_ROW
        self.scores[slot] = -np.inf
        self._free.append(slot)

    def _grow(self, size: int) -> None:
        for name in (
            "queries",
            "lengths",
            "rows",
            "scores",
            "low_scores",
            "low_rows",
            "floors",
            "k",
            "filters",
            "open",
        ):
            old = getattr(self, name)
            new = np.zeros((size, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
