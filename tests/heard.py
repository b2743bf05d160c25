"""Log lines as they come, so that a test waits for what a part says, and not for a clock.

A line is written after the thing it tells of: who has heard it finds it done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import structlog
from structlog.typing import EventDict

from headwater.changes.bell import Bell
from headwater.threads import Loop

PATIENCE_S = 30


class Heard:
    """What was logged by any thread since it listens, oldest first."""

    def __init__(self) -> None:
        self.entries: list[EventDict] = []
        self._bell = Bell()
        self._loop: Loop | None = None

    def __call__(self, logger: Any, method: str, entry: EventDict) -> EventDict:
        self.entries.append({**entry, "log_level": method})
        if self._loop is not None:
            self._loop.post(self._bell.wake)
        raise structlog.DropEvent

    def lines(self, event: str, **fields: object) -> list[EventDict]:
        wanted = {"event": event, **fields}
        return [entry for entry in self.entries if wanted.items() <= entry.items()]

    async def line(self, event: str, *, count: int = 1, **fields: object) -> None:
        """Return when `count` such lines have come."""

        async def came() -> bool:
            return len(self.lines(event, **fields)) >= count

        await self.until(came)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Return when the condition holds; it is asked again whenever a line has come."""
        self._loop = Loop()
        with anyio.fail_after(PATIENCE_S):
            heard = len(self.entries)
            while not await condition():
                while len(self.entries) == heard:
                    await self._bell.wait_change()
                heard = len(self.entries)


@contextmanager
def hearing() -> Iterator[Heard]:
    """Listen, and show it all at the end."""
    heard = Heard()
    processors = structlog.get_config()["processors"]
    before = processors.copy()
    # In place, as loggers that are bound already share the list.
    processors[:] = [heard]
    try:
        yield heard
    finally:
        processors[:] = before
        print(*heard.entries, sep="\n")
