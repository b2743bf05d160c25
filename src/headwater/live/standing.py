"""A standing query: what is wanted, and what is found of it now.

Watches with equal wants share one. `matcher.py` keeps it right; whoever shows it reads `rows` and
`scores`, which are replaced and never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headwater.errors import HeadwaterError
from headwater.filters import Filter
from headwater.model import Position, Rows, Vectors
from headwater.search.base import Scores
from headwater.search.rowsets import NO_ROWS

NO_SCORES: Scores = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Wanted:
    """`vector` is float32 (dim,) prepared for the metric, as bytes, so that wants compare.

    The best `k`, or all when it is None, of the chunks that score `floor` at least and pass the
    filter. `grouped`: of every document only the best chunk.
    """

    vector: bytes
    filter: Filter | None
    k: int | None
    floor: float
    grouped: bool

    @property
    def query(self) -> Vectors:
        return np.frombuffer(self.vector, np.float32)

    @property
    def floor32(self) -> np.float32:
        """The least float32 score that is not below the floor."""
        if self.floor == float("-inf"):
            return np.float32(-np.inf)
        with np.errstate(over="ignore"):
            floor = np.float32(self.floor)
        return np.nextafter(floor, np.float32(np.inf)) if float(floor) < self.floor else floor


class Standing:
    """Loop only. `rows` int64 (n,), `scores` float32 (n,): what is found, best first.

    That is true at every position the matcher is at, from `exact_from` on; while `short` it is
    not, and is being looked up.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.rows: Rows = NO_ROWS
        self.scores: Scores = NO_SCORES
        self.version = 0
        """Rises whenever something that a reader is shown may be different."""
        self.known = False
        """Whether it was ever looked up."""
        self.short = True
        self.asked = False
        self.exact_from: Position = 0
        self.error: HeadwaterError | None = None
        self.readers: set[Callable[[], None]] = set()
        self.tries = 0
        self.left = False
        """Whether all who read it have left."""

    def changed(self) -> None:
        """Say that there may be something to read."""
        self.version += 1
        self.tell()

    def tell(self) -> None:
        for reader in list(self.readers):
            reader()

    def fail(self, error: HeadwaterError) -> None:
        """Whoever reads it is told why it ends."""
        if self.error is None:
            self.error = error
            self.changed()

    def tellable(self, position: Position) -> bool:
        """Whether `rows` is what is true at `position`, where the matcher is."""
        return self.known and not self.short and position >= self.exact_from
