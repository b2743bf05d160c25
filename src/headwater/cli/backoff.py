"""How long to wait before trying again: doubling, with jitter, up to a cap.

Used by everything that reconnects. Holds no clock of its own beyond the `sleep` it is given.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays in seconds. `first` may be changed while it runs, as a feed's `retry:` does."""

    first: float = 0.25
    cap: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    failures: int = 0
    _random: random.Random = field(default_factory=random.Random)

    def delay(self) -> float:
        """Half to all of `first` × 2^failures, at most `cap`, in seconds."""
        longest = min(self.cap, self.first * 2.0 ** min(self.failures, 30))
        return longest * (0.5 + self._random.random() / 2)

    def next(self, at_least: float = 0.0) -> float:
        """The delay before the next attempt; each call gives a longer one until `reset`."""
        seconds = max(self.delay(), at_least)
        self.failures += 1
        return seconds

    def wait(self, at_least: float = 0.0) -> None:
        """Sleep for `next`."""
        self.sleep(self.next(at_least))

    def reset(self) -> None:
        """It worked: begin again with the shortest delay."""
        self.failures = 0
