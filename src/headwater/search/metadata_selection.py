"""The rows that a filter lets through, frozen at the moment of the question.

Made by `metadata.py`, read by searches in other threads while the index goes on changing. It
shares nothing that changes; what it works out on demand is kept, and at worst worked out twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from headwater.model import Rows

_DENSE_SPAN = 1 << 26
_DENSE_PER_ROW = 64
"""A flag per row number from the first to the last, if that is at most so many, or so many for each
selected row: gathering 100,000 flags takes 0.1 ms, looking them up in a sorted list 5 ms."""


class Selection:
    """Immutable; equal only to itself."""

    __slots__ = ("__weakref__", "_bits", "_flags", "_rising", "_rows", "_table", "count")

    def __init__(self, bits: BitMap, table: Rows, *, rising: bool) -> None:
        """`bits` are places in `table`, which holds rows and rises if `rising` says so."""
        self.count = len(bits)
        self._bits = bits
        self._table = table
        self._rising = rising
        self._rows: Rows | None = None
        self._flags: tuple[int, NDArray[np.bool_]] | None = None

    def rows(self) -> Rows:
        """int64, rising, read-only."""
        if self._rows is None:
            rows = self._table[slots_of(self._bits)]
            if not self._rising:
                rows.sort()
            rows.flags.writeable = False
            self._rows = rows
        return self._rows

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of `rows` are selected: bool, as long as `rows`."""
        if not self.count:
            return np.zeros(len(rows), dtype=np.bool_)
        if self._flags is None:
            self._flags = self._spread()
        base, flags = self._flags
        if len(flags):
            return np.take(flags, rows - base, mode="clip")
        own = self.rows()
        places = np.searchsorted(own, rows)
        places[places == len(own)] = 0
        found: NDArray[np.bool_] = own[places] == rows
        return found

    @property
    def memory_bytes(self) -> int:
        rows = 0 if self._rows is None else self._rows.nbytes
        flags = 0 if self._flags is None else self._flags[1].nbytes
        held = self._bits.get_statistics()
        bits = held["n_bytes_array_containers"] + held["n_bytes_bitset_containers"]
        return bits + held["n_bytes_run_containers"] + rows + flags

    def _spread(self) -> tuple[int, NDArray[np.bool_]]:
        """A base and a flag for each row from there on; no flags when they would be too many.

        The first and the last flag stand for all rows beyond, and are false.
        """
        rows = self._table[slots_of(self._bits)]
        low, high = int(rows.min()), int(rows.max())
        span = high - low + 3
        if span > max(_DENSE_PER_ROW * self.count, 1 << 20) or span > _DENSE_SPAN:
            return 0, np.zeros(0, dtype=np.bool_)
        flags = np.zeros(span, dtype=np.bool_)
        flags[rows - (low - 1)] = True
        return low - 1, flags


def slots_of(bits: BitMap) -> NDArray[np.uint32]:
    """The members of a bitmap, rising."""
    return np.frombuffer(bits.to_array(), dtype=np.uint32)
