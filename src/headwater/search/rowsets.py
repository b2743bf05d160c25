"""Chunk row numbers as sorted arrays: spans spelled out, where rows lie in a part, all but some.

Rows rise in every part of an index, so finding one is a binary search and no part keeps a map.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from headwater.model import Rows, Span
from headwater.search.base import Mask

NO_ROWS: Rows = np.empty(0, np.int64)


def spelled_out(spans: Iterable[Span]) -> Rows:
    """Every row of the spans, sorted."""
    pairs = [(span.first, span.count) for span in spans if span.count]
    if not pairs:
        return NO_ROWS
    if len(pairs) == 1:
        first, count = pairs[0]
        return np.arange(first, first + count, dtype=np.int64)
    firsts, counts = np.array(pairs, np.int64).T
    ends = np.cumsum(counts)
    rows: Rows = np.arange(ends[-1]) + np.repeat(firsts - (ends - counts), counts)
    rows.sort()
    return rows


def slots_of(rows: Rows, wanted: Rows) -> NDArray[np.int64]:
    """The places in sorted `rows` of those of sorted `wanted` that are there."""
    if not len(rows) or not len(wanted) or wanted[-1] < rows[0] or wanted[0] > rows[-1]:
        return NO_ROWS
    places = np.searchsorted(rows, wanted)
    places = np.minimum(places, len(rows) - 1)
    found: Rows = places[rows[places] == wanted].astype(np.int64, copy=False)
    return found


class AllBut:
    """All rows, or those of a selection, but these rising ones. A `Mask`."""

    __slots__ = ("__weakref__", "_among", "_rows")

    def __init__(self, rows: Rows, among: Mask | None = None) -> None:
        self._rows = rows
        self._among = among

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these rising rows are meant."""
        flags = np.ones(len(rows), np.bool_) if self._among is None else self._among.mask(rows)
        out = slots_of(rows, self._rows)
        if len(out):
            flags = flags.copy()
            flags[out] = False
        return flags
