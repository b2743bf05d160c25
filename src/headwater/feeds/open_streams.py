"""The long-lived answers that are open in this process, so that they can be counted and ended.

Every endless stream lives inside `open()`; a stopping server calls `stop()` and each of them gets
to say goodbye.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from headwater.errors import Overloaded, ShuttingDown


class OpenStreams:
    """At most `limit` streams of one `kind`. Loop only."""

    def __init__(self, kind: str, limit: int) -> None:
        self.kind = kind
        self._limit = limit
        self._scopes: set[anyio.CancelScope] = set()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._scopes)

    def check(self) -> None:
        """Raise when one more may not be opened: `Overloaded` or `ShuttingDown`."""
        if self.stopping:
            raise ShuttingDown("the server is stopping; connect again in a moment")
        if len(self._scopes) >= self._limit:
            raise Overloaded(
                f"{self._limit} {self.kind} are open, which is this server's limit; "
                "close one or try again later"
            )

    @contextmanager
    def open(self) -> Iterator[anyio.CancelScope]:
        """A scope that `stop` cancels; look at `cancelled_caught` after it."""
        self.check()
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def stop(self) -> None:
        """End every open stream and refuse new ones."""
        self.stopping = True
        for scope in list(self._scopes):
            scope.cancel()
