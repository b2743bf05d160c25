"""What waits to be sent to one person in a session; bounded, however slowly they read.

Answers to their own requests always go first. Of events, those that find no room are not queued:
they are forgotten together, and the person gets the whole state anew once they read again. Passing
messages are dropped before that. Loop only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Outbox:
    """Holds at most about `limit_bytes` of events, and answers until their asker is not read."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._answers: deque[bytes] = deque()
        self._answers_bytes = 0
        self._events: deque[bytes] = deque()
        self._events_bytes = 0
        self._wake: Callable[[], None] = _nobody
        self.behind = True
        """Whether the state has to be told before anything else; so it begins."""
        self.dropped = 0
        """Passing messages that found no room."""

    def on_news(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is something to take; it must be quick."""
        self._wake = wake

    @property
    def full(self) -> bool:
        """Whether more answers wait than should: stop taking requests."""
        return self._answers_bytes > self._limit_bytes

    @property
    def empty(self) -> bool:
        return not self._answers and not self._events and not self.behind

    def answer(self, frame: bytes) -> None:
        self._answers.append(frame)
        self._answers_bytes += len(frame)
        self._wake()

    def tell(self, frame: bytes) -> None:
        """An event that must be known, by itself or by the state."""
        if self.behind:
            return
        if self._events_bytes + len(frame) > self._limit_bytes:
            self.start_over()
            return
        self._push(frame)

    def pass_on(self, frame: bytes) -> bool:
        """A passing message; False when it was dropped."""
        if self.behind or self._events_bytes + len(frame) > self._limit_bytes // 2:
            self.dropped += 1
            return False
        self._push(frame)
        return True

    def start_over(self) -> None:
        """Forget the events: the state will be told instead."""
        self._events.clear()
        self._events_bytes = 0
        self.behind = True
        self._wake()

    def take(self, state: Callable[[], bytes]) -> bytes | None:
        """The next frame to send; `state` gives the one that brings somebody up to date."""
        if self._answers:
            frame = self._answers.popleft()
            self._answers_bytes -= len(frame)
            return frame
        if self.behind:
            self.behind = False
            return state()
        if self._events:
            frame = self._events.popleft()
            self._events_bytes -= len(frame)
            return frame
        return None

    def _push(self, frame: bytes) -> None:
        self._events.append(frame)
        self._events_bytes += len(frame)
        self._wake()


def _nobody() -> None:
    """Until somebody wants to know."""
