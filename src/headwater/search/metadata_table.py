"""Slots and chunk rows: which row stands in a slot, and in which slot a row is found.

Slots are handed out in order and never move until the table is made anew. A row put again gets a
new slot, so that what is known of a slot never changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headwater.model import Rows

_RECENT = 4_096


class Table:
    """`rising` says that every row stands after all lower ones."""

    def __init__(self, rows: Rows | None = None) -> None:
        given = np.zeros(0, dtype=np.int64) if rows is None else rows
        self._rows = given
        self.length = len(given)
        self.rising = bool(np.all(given[1:] > given[:-1]))
        self._high = int(given.max()) if len(given) else -1
        # Once the rows do not rise: those up to `_indexed` in order, later ones in a dictionary.
        self._order_rows = given[:0]
        self._order_slots = given[:0]
        self._recent: dict[int, int] = {}
        if not self.rising:
            self._index(np.arange(len(given)))

    def append(self, first: int, count: int) -> int:
        """Give rows `first` … `first + count - 1` slots of their own; the first of them."""
        slot = self.length
        end = slot + count
        if end > len(self._rows):
            grown = np.empty(max(end, 2 * len(self._rows), 1_024), dtype=np.int64)
            grown[:slot] = self._rows[:slot]
            self._rows = grown
        self._rows[slot:end] = np.arange(first, first + count)
        self.length = end
        if self.rising and first <= self._high:
            self.rising = False
            self._index(np.arange(slot))
        self._high = max(self._high, first + count - 1)
        if not self.rising:
            self._recent.update(zip(range(first, first + count), range(slot, end), strict=True))
            if len(self._recent) > max(_RECENT, self.length >> 4):
                self._index(np.arange(self.length))
        return slot

    def rows(self) -> Rows:
        """By slot, read-only; what is appended later does not show in it."""
        view = self._rows[: self.length]
        view.flags.writeable = False
        return view

    def find(self, rows: Rows) -> NDArray[np.int64]:
        """The newest slot of each of `rows` that has one."""
        if self.rising:
            return _looked_up(self._rows[: self.length], rows)
        recent = [self._recent.get(row, -1) for row in rows.tolist()]
        slots = np.array(recent, dtype=np.int64)
        older = _looked_up(self._order_rows, rows[slots < 0])
        return np.concatenate([slots[slots >= 0], self._order_slots[older]])

    def has(self, first: int, count: int) -> bool:
        """Whether one of these rows may have a slot."""
        if first > self._high:
            return False
        return len(self.find(np.arange(first, first + count))) > 0

    @property
    def memory_bytes(self) -> int:
        order = self._order_rows.nbytes + self._order_slots.nbytes
        return self._rows.nbytes + order + 120 * len(self._recent)

    def _index(self, slots: NDArray[np.int64]) -> None:
        rows = self._rows[slots]
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        newest = np.append(rows[1:] != rows[:-1], True) if len(rows) else rows.astype(np.bool_)
        self._order_rows, self._order_slots = rows[newest], order[newest]
        self._recent = {}


def _looked_up(own: Rows, rows: Rows) -> NDArray[np.int64]:
    """The places in rising `own` of those of `rows` that are there."""
    places = np.searchsorted(own, rows)
    inside = places < len(own)
    places = places[inside]
    found: NDArray[np.int64] = places[own[places] == rows[inside]]
    return found
