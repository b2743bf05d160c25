"""Which rows a filtered search may find, in the forms its parts need.

Made by `vector_views.py` from a selection of the metadata view for one search; the bitmaps are kept
as long as the selection, so that a filter asked again costs nothing. A selection never changes;
what has been removed since is seen to by each part's own flags.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from headwater.model import Rows
from headwater.search.base import Mask
from headwater.search.segment import Segment

Bitmaps = WeakKeyDictionary[Segment, NDArray[np.uint8]]
"""What a selection lets pass of each segment. It must not lead back to the selection, which would
then never be let go of."""


class Sieve:
    """Threads may share `bitmaps`: at worst they work out the same twice."""

    def __init__(self, allowed: Mask, bitmaps: Bitmaps | None = None) -> None:
        self.allowed = allowed
        self._bits: Bitmaps = WeakKeyDictionary() if bitmaps is None else bitmaps

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        return self.allowed.mask(rows)

    def bits(self, segment: Segment) -> NDArray[np.uint8]:
        """The segment's bitmap with only the slots that pass, dead ones taken out. A copy."""
        bits = self._bits.get(segment)
        if bits is None:
            bits = np.packbits(self.allowed.mask(segment.rows), bitorder="little")
            self._bits[segment] = bits
        return bits & segment.bitmap
