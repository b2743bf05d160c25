"""What waits to be sent to one person in a session; bounded, however slowly they read.

Events that find no room are not queued: they are forgotten together, and the person gets the whole
state anew once they read again. Passing messages are dropped before that. Answers to the person's
own requests do not come through here. Loop only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio


class Mailbox:
    """Holds at most about `limit_bytes`. `behind` until the state has been taken, so it begins."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._frames: deque[bytes] = deque()
        self._size_bytes = 0
        self._news = anyio.Event()
        self.behind = True
        self.start_over()

    async def wait(self) -> None:
        """Return when there is something to take, or `wake` was called."""
        await self._news.wait()

    def wake(self) -> None:
        self._news.set()

    def tell(self, frame: bytes) -> None:
        """An event that must be known, by itself or by the state."""
        if self.behind:
            return
        if self._size_bytes + len(frame) > self._limit_bytes:
            self.start_over()
            return
        self._push(frame)

    def pass_on(self, frame: bytes) -> bool:
        """A passing message; False when it was dropped."""
        if self.behind or self._size_bytes + len(frame) > self._limit_bytes // 2:
            return False
        self._push(frame)
        return True

    def start_over(self) -> None:
        """Forget the events: the state will be told instead."""
        self._frames.clear()
        self._size_bytes = 0
        self.behind = True
        self.wake()

    def take(self, state: Callable[[], bytes], limit_bytes: int) -> list[bytes]:
        """The next frames to send, about `limit_bytes` of them; empty when there are none.

        `state` gives the one that brings somebody up to date.
        """
        taken: list[bytes] = []
        size = 0
        if self.behind:
            self.behind = False
            taken.append(state())
            size = len(taken[0])
        while self._frames and size < limit_bytes:
            frame = self._frames.popleft()
            self._size_bytes -= len(frame)
            size += len(frame)
            taken.append(frame)
        if not self._frames:
            self._news = anyio.Event()
        return taken

    def _push(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._size_bytes += len(frame)
        self.wake()
