"""What waits to be embedded, and how it is cut into calls.

Many requests share one call and a large request is many calls. `remote.py` has a backlog for
documents and another for queries. Requests take turns, a call's worth at a time, so that a small
one never waits for the whole of a large one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import numpy as np

from headwater.errors import HeadwaterError, Overloaded
from headwater.model import Vectors

CALL_CHARS = 400_000
"""No more characters go into one call, unless a single text is longer: about 100,000 tokens."""


class Request:
    """One caller's texts, their vectors as they come, and the first error. Loop only.

    `deadline` (monotonic seconds) moves on with every answer: a large request may take long as
    long as it gets somewhere.
    """

    def __init__(
        self,
        texts: Sequence[str],
        dimension: int,
        patience_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.texts = texts
        self.vectors = np.zeros((len(texts), dimension), np.float32)
        self.deadline = monotonic() + patience_s
        self.error: HeadwaterError | None = None
        self.abandoned = False
        self.late = False
        self.taken = 0
        self._watchers: list[Callable[[], object]] = []
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._left = len(texts)
        self._done = anyio.Event()

    @property
    def over(self) -> bool:
        """Nobody waits for an answer any more."""
        return self.abandoned or self._done.is_set()

    async def wait(self) -> bool:
        """Until all is answered, or one text has failed: true. False when the deadline passed."""
        while not self._done.is_set():
            left_s = self.deadline - self._monotonic()
            if left_s <= 0:
                self.late = True
                return False
            with anyio.move_on_after(left_s):
                await self._done.wait()
        return True

    def abandon(self) -> None:
        """Its caller has gone, with the answer or without."""
        self.abandoned = True
        for watcher in self._watchers:
            watcher()

    def on_abandon(self, watcher: Callable[[], object]) -> None:
        self._watchers.append(watcher)

    def fill(self, start: int, vectors: Vectors) -> None:
        self.vectors[start : start + len(vectors)] = vectors
        self.deadline = self._monotonic() + self._patience_s
        self._left -= len(vectors)
        if self._left == 0:
            self._done.set()

    def fail(self, error: HeadwaterError) -> None:
        if not self._done.is_set():
            self.error = error
            self._done.set()


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` texts of a request from `start` on: its part in one call."""

    request: Request
    start: int
    count: int

    @property
    def texts(self) -> Sequence[str]:
        return self.request.texts[self.start : self.start + self.count]


class Backlog:
    """Requests in turn. At most `max_waiting` texts wait, and the one request that passes it."""

    def __init__(self, name: str, max_waiting: int) -> None:
        self.waiting = 0
        self._name = name
        self._max_waiting = max_waiting
        self._requests: deque[Request] = deque()
        self._news = anyio.Event()
        self._gathering = anyio.Lock()

    def put(self, request: Request) -> None:
        """Raises `Overloaded`."""
        if self.waiting >= self._max_waiting:
            raise Overloaded(
                f"{self.waiting} texts wait for the embedder {self._name!r}; slow down and retry"
            )
        self._requests.append(request)
        self.waiting += len(request.texts)
        news, self._news = self._news, anyio.Event()
        news.set()

    def drop(self, request: Request) -> None:
        """Take what is left of `request` out, if anything is."""
        if request in self._requests:
            self._requests.remove(request)
            self.waiting -= len(request.texts) - request.taken

    async def take(self, limit: Callable[[], int], linger_s: float) -> list[Piece]:
        """The next call's worth, at most `limit()` texts; waits for a first text, and a little
        for more to share the call.

        Callers get theirs one after another, in the order they asked.
        """
        async with self._gathering:
            while True:
                while not self._requests:
                    await self._news.wait()
                with anyio.move_on_after(linger_s):
                    while self._requests and self.waiting < limit():
                        await self._news.wait()
                if pieces := self._cut(limit()):
                    return pieces

    def _cut(self, room: int) -> list[Piece]:
        pieces: list[Piece] = []
        chars = 0
        while self._requests and room:
            request = self._requests.popleft()
            start = end = request.taken
            while end < len(request.texts) and room:
                chars += len(request.texts[end])
                if chars > CALL_CHARS and (pieces or end > start):
                    room = 0
                    break
                end += 1
                room -= 1
            if end > start:
                pieces.append(Piece(request, start, end - start))
            request.taken = end
            self.waiting -= end - start
            if end < len(request.texts):
                self._requests.append(request)
        return pieces
