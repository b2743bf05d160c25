"""Where what was looked up is brought up to date, apart from what stands.

Also the numbers of filters in use, which blocks name instead of the filters themselves.
"""

from __future__ import annotations

from collections.abc import Callable

from headwater.filters import Filter
from headwater.live.block import Block, Kept
from headwater.live.standing import Standing, Wanted


class Filters:
    """Filters in use, by number. Changed between two steps only."""

    def __init__(self) -> None:
        self.all: list[Filter] = []
        self._numbers: dict[Filter, int] = {}
        self._uses: list[int] = []
        self._free: list[int] = []

    def take(self, filter: Filter | None) -> int:
        if filter is None:
            return -1
        number = self._numbers.get(filter)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.all[number] = filter
            else:
                number = len(self.all)
                self.all.append(filter)
                self._uses.append(0)
            self._numbers[filter] = number
        self._uses[number] += 1
        return number

    def give_back(self, number: int) -> None:
        if number < 0:
            return
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._numbers[self.all[number]]
            self._free.append(number)


class Bench:
    """Blocks of their own for what was found. Changed between two steps only."""

    def __init__(
        self, dimension: int, filters: Filters, width: Callable[[Wanted, int], int]
    ) -> None:
        self.blocks: list[Block[Standing]] = []
        self._dimension = dimension
        self._filters = filters
        self._width = width
        self._places: dict[Standing, tuple[Block[Standing], int]] = {}

    def put(self, standing: Standing, kept: Kept) -> None:
        self._drop(standing)
        wanted = standing.wanted
        width = self._width(wanted, len(kept.rows))
        for block in self.blocks:
            if (block.width, block.grouped) == (width, wanted.grouped):
                break
        else:
            block = Block[Standing](width, self._dimension, grouped=wanted.grouped)
            self.blocks.append(block)
        slot = block.put(standing, wanted, kept, self._filters.take(wanted.filter))
        self._places[standing] = (block, slot)

    def kept(self, standing: Standing) -> Kept:
        block, slot = self._places[standing]
        return block.kept(slot)

    def clear(self) -> None:
        for standing in list(self._places):
            self._drop(standing)

    def _drop(self, standing: Standing) -> None:
        place = self._places.pop(standing, None)
        if place is not None:
            block, slot = place
            self._filters.give_back(int(block.filters[slot]))
            block.drop(slot)
