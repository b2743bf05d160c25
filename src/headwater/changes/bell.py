"""A position that rises, and those who wait for it.

Waking up and reading are separate acts: the bell only says that there may be more to read. It
must never be the source of what is read.
"""

from __future__ import annotations

import anyio

from headwater.model import Position


class Bell:
    """Holds the highest position heard of. Loop only."""

    def __init__(self, position: Position = 0) -> None:
        self.position = position
        self._first = anyio.Event()
        self._rung = anyio.Event()

    def ring(self, position: Position) -> None:
        """Raise the position and wake everybody who waits; a lower position changes nothing."""
        if position > self.position:
            self.position = position
            self.wake()

    def wake(self) -> None:
        """Wake everybody without news, so that they look at their own conditions again."""
        first, self._first = self._first, anyio.Event()
        rung, self._rung = self._rung, anyio.Event()
        first.set()
        rung.set()

    async def wait_past(self, position: Position, *, first: bool = False) -> Position:
        """Return as soon as the position is above `position`; those who are `first` before others.

        Whoever takes long until it waits again is the last to be woken, else.
        """
        while self.position <= position:
            await (self._first if first else self._rung).wait()
        return self.position

    async def wait_change(self) -> None:
        """Return at the next `ring` that raises the position, or `wake`."""
        await self._rung.wait()
