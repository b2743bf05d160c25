"""Which slots hold a value: postings, from one run of slots to a bitmap.

A *slot* is a place in the index of metadata, one per chunk row. Values that few documents share
are the common case (an id, a URL), so a posting is an int while it is one run of slots, at about
a hundred bytes with its place in the dictionary, and a bitmap only from the second run on.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from headwater.filters import Flag, Key, key_of
from headwater.search.metadata_selection import slots_of

Posting: TypeAlias = int | BitMap
"""A run as `first << 20 | count`, or a bitmap, which its owner changes in place."""

Slots: TypeAlias = NDArray[np.int64]

_SHIFT = 20
_MASK = (1 << _SHIFT) - 1


def bits_of(slots: NDArray[np.integer]) -> BitMap:
    """A bitmap of slots in any order."""
    # From an array the bitmap copies at once (3 ms for 500,000); from anything else, one by one.
    packed = array("I")
    packed.frombytes(np.ascontiguousarray(slots, dtype=np.uint32).tobytes())
    return BitMap(packed)


def union(postings: Iterable[Posting]) -> BitMap:
    """All their slots. May be one of the bitmaps itself: never to be changed."""
    runs: list[int] = []
    bitmaps: list[BitMap] = []
    for posting in postings:
        if isinstance(posting, int):
            runs.append(posting)
        else:
            bitmaps.append(posting)
    if runs:
        bitmaps.append(_of_runs(runs))
    if not bitmaps:
        return BitMap()
    return bitmaps[0] if len(bitmaps) == 1 else BitMap.union(*bitmaps)


def spread(runs: list[int]) -> tuple[Slots, Slots]:
    """The slots of runs, in their order, and how many each has."""
    codes = np.array(runs, dtype=np.int64)
    firsts, counts = codes >> _SHIFT, codes & _MASK
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(firsts - (ends - counts), counts) + np.arange(total), counts


def _of_runs(runs: list[int]) -> BitMap:
    if len(runs) > 100:
        return bits_of(spread(runs)[0])
    bits = BitMap()
    for run in runs:
        first = run >> _SHIFT
        bits.add_range(first, first + (run & _MASK))
    return bits


class SavedPostings(msgspec.Struct, frozen=True):
    """`runs` is int64, one per key, -1 where the next of `bitmaps` belongs."""

    keys: list[Any]
    runs: bytes
    bitmaps: list[bytes]


class Postings:
    """Slots by value. Only grows, until `renumber` takes the dead out."""

    __slots__ = ("_bitmap_slots", "_bitmaps", "_key_bytes", "of")

    def __init__(self) -> None:
        self.of: dict[Key, Posting] = {}
        self._key_bytes = 0
        self._bitmaps = 0
        self._bitmap_slots = 0

    def add(self, key: Key, first: int, count: int) -> None:
        """Note `count` slots from `first`; noting them again changes nothing."""
        old = self.of.get(key)
        if old is None:
            self._key_bytes += len(key) + 50 if isinstance(key, str) else 28
            self._put(key, first, count)
        elif not isinstance(old, int):
            old.add_range(first, first + count)
            self._bitmap_slots += count
        else:
            start, length = old >> _SHIFT, old & _MASK
            if start == first and length == count:
                return
            if start + length == first and length + count <= _MASK:
                self.of[key] = start << _SHIFT | (length + count)
                return
            bits = BitMap()
            bits.add_range(start, start + length)
            bits.add_range(first, first + count)
            self._hold(key, bits)

    def memory_bytes(self, slots: int) -> int:
        """An estimate; `slots` is how many the index has."""
        bitmaps = min(2 * self._bitmap_slots, self._bitmaps * (slots // 8))
        return 200 + 90 * len(self.of) + self._key_bytes + 130 * self._bitmaps + bitmaps

    def saved(self) -> SavedPostings:
        runs = [posting if isinstance(posting, int) else -1 for posting in self.of.values()]
        return SavedPostings(
            [key.value if isinstance(key, Flag) else key for key in self.of],
            np.array(runs, dtype=np.int64).tobytes(),
            [posting.serialize() for posting in self.of.values() if not isinstance(posting, int)],
        )

    @classmethod
    def read(cls, saved: SavedPostings) -> Postings:
        made = cls()
        bitmaps = iter(saved.bitmaps)
        runs = np.frombuffer(saved.runs, dtype=np.int64).tolist()
        for plain, run in zip(saved.keys, runs, strict=True):
            key = key_of(plain)
            if run < 0:
                made._hold(key, BitMap.deserialize(next(bitmaps)))
            else:
                made.of[key] = run
            made._key_bytes += len(key) + 50 if isinstance(key, str) else 28
        return made

    def renumber(self, alive: BitMap, places: Slots) -> None:
        """Keep the `alive` slots only, as `places[slot]`; `places` counts the living before."""
        old, self.of = self.of, {}
        self._key_bytes = self._bitmaps = self._bitmap_slots = 0
        for key, posting in old.items():
            if isinstance(posting, int):
                first = posting >> _SHIFT
                start = int(places[first])
                count = int(places[first + (posting & _MASK)]) - start
                if not count:
                    continue
                self._put(key, start, count)
            else:
                left = places[slots_of(posting & alive)]
                if not len(left):
                    continue
                start, count = int(left[0]), len(left)
                if int(left[-1]) - start + 1 == count:
                    self._put(key, start, count)
                else:
                    self._hold(key, bits_of(left))
            self._key_bytes += len(key) + 50 if isinstance(key, str) else 28

    def _put(self, key: Key, first: int, count: int) -> None:
        if count <= _MASK:
            self.of[key] = first << _SHIFT | count
        else:
            self._hold(key, BitMap(range(first, first + count)))

    def _hold(self, key: Key, bits: BitMap) -> None:
        self.of[key] = bits
        self._bitmaps += 1
        self._bitmap_slots += len(bits)
