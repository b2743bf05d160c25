"""What live queries have on the way to their readers: bounded, whatever they show, however slowly
it is read.

A group of events is put together whole, as it belongs to one cursor. So few are put together at
once, one may be so large, and those that are being read may be so large together. A watch whose
group finds no room drops it, and takes again when there is some: it tells what is true then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import anyio

from headwater.service.deltas import LiveEvent
from headwater.service.hits import Room

AT_ONCE = 50
"""Passages read at once for one group."""
SMALL_BYTES = 64 << 10
"""Groups up to this are not counted: a socket's buffer takes them."""
_SMALL_PLACES = 16
_LARGE_PLACES = 2


class Servings:
    """Of all live queries of a process. Loop only."""

    def __init__(self, *, group_bytes: int, sending_bytes: int) -> None:
        self._group_bytes = group_bytes
        self._limit_bytes = sending_bytes
        self._small = anyio.CapacityLimiter(_SMALL_PLACES)
        self._large = anyio.CapacityLimiter(_LARGE_PLACES)
        self._waiting: OrderedDict[Serving, int] = OrderedDict()
        self.held_bytes = 0
        """Of groups that are being read, and kept free for those that were called."""

    def place(self, rows: int) -> anyio.CapacityLimiter:
        """To be held while a group that tells of so many rows is put together."""
        return self._small if rows <= AT_ONCE else self._large

    def room(self) -> Room:
        """For the passages of one group; raises `AnswerTooLarge` when they are too much."""
        return Room(self._group_bytes)

    def serving(self, call: Callable[[], None]) -> Serving:
        """For one watch; `call` has it take again."""
        return Serving(self, call)

    def take(self, serving: Serving, size_bytes: int) -> bool:
        """Whether there is room; else it is called when there may be."""
        if serving not in self._waiting and self._has_room(size_bytes):
            self.held_bytes += size_bytes
            return True
        self._waiting.setdefault(serving, size_bytes)
        return False

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        while self._waiting:
            serving, wanted_bytes = next(iter(self._waiting.items()))
            if not self._has_room(wanted_bytes):
                return
            del self._waiting[serving]
            self.held_bytes += wanted_bytes
            serving.called(wanted_bytes)

    def forget(self, serving: Serving) -> None:
        self._waiting.pop(serving, None)

    def _has_room(self, size_bytes: int) -> bool:
        """One that is larger than everything goes when nothing else does."""
        return not self.held_bytes or self.held_bytes + size_bytes <= self._limit_bytes


class Serving:
    """One watch's part in it."""

    def __init__(self, servings: Servings, call: Callable[[], None]) -> None:
        self._servings = servings
        self._call = call
        self._held_bytes = 0
        self._free_bytes = 0

    def fits(self, events: Iterable[LiveEvent]) -> bool:
        """Whether these may be told now; they have room until `read`. Else the watch is called."""
        size = size_bytes(events)
        if size <= SMALL_BYTES:
            return True
        free, self._free_bytes = self._free_bytes, 0
        self._servings.held_bytes -= free
        if not self._servings.take(self, size):
            return False
        self._held_bytes += size
        return True

    def read(self) -> None:
        """The reader has what was told last, or is gone."""
        held, self._held_bytes = self._held_bytes, 0
        if held:
            self._servings.give_back(held)

    def settle(self) -> None:
        """It has taken, or nothing was to be taken: what was kept free for it is for others."""
        free, self._free_bytes = self._free_bytes, 0
        if free:
            self._servings.give_back(free)

    def close(self) -> None:
        self._servings.forget(self)
        self.settle()
        self.read()

    def called(self, free_bytes: int) -> None:
        """So much is kept free for it until it has taken."""
        self._free_bytes = free_bytes
        self._call()


def size_bytes(events: Iterable[LiveEvent]) -> int:
    return sum(len(memoryview(event.data)) for event in events)
