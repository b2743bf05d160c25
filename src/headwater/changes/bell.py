"""A position that rises, and those who wait for it.

Waking up and reading are separate acts: the bell only says that there may be more to read. It
must never be the source of what is read.
"""

from __future__ import annotations

from typing import Literal

import anyio

from headwater.model import Position

Place = Literal[0, 1, 2]
"""Where one stands among those who are woken: 0 who tells the news to others, 1 who must have it
before it is asked about, 2 everybody else."""


class Bell:
    """Holds the highest position heard of. Loop only."""

    def __init__(self, position: Position = 0) -> None:
        self.position = position
        self._rung: list[anyio.Event | None] = [None, None, None]
        """By place, made by the first who waits: to ring must be quick."""

    def ring(self, position: Position) -> None:
        """Raise the position and wake everybody who waits; a lower position changes nothing."""
        if position > self.position:
            self.position = position
            self.wake()

    def wake(self) -> None:
        """Wake everybody without news, so that they look at their own conditions again."""
        for place, rung in enumerate(self._rung):
            if rung is not None:
                self._rung[place] = None
                rung.set()

    async def wait_past(self, position: Position, *, place: Place = 2) -> Position:
        """Return as soon as the position is above `position`; those of a lower place go first.

        Of one place, whoever takes long until it waits again is the last to be woken.
        """
        while self.position <= position:
            await self._wait(place)
        return self.position

    async def wait_change(self) -> None:
        """Return at the next `ring` that raises the position, or `wake`."""
        await self._wait(2)

    async def _wait(self, place: Place) -> None:
        rung = self._rung[place]
        if rung is None:
            rung = self._rung[place] = anyio.Event()
        await rung.wait()
