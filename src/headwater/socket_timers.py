"""What a connection still waits for, by name: at most one of each, none after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """Loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, name: str) -> bool:
        """Whether it was set, and not cancelled since."""
        return name in self._timers

    def set(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        """Call it after so many seconds, in place of what was set under that name."""
        self.cancel(name)
        self._timers[name] = self._loop.call_later(seconds, call)

    def cancel(self, *names: str) -> None:
        for name in names:
            timer = self._timers.pop(name, None)
            if timer is not None:
                timer.cancel()

    def clear(self) -> None:
        self.cancel(*list(self._timers))
