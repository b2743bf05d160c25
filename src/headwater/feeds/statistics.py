"""What the feeds of this process have done: counters and rates for `/v1/events/statistics`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from headwater.clock import Clock


class Rate:
    """Events a second over the last `window_s` seconds, from samples taken when asked and told."""

    def __init__(self, clock: Clock, window_s: int = 10) -> None:
        self._clock = clock
        self._window_s = window_s
        self._seconds: deque[tuple[int, int]] = deque()
        self._started_s = clock.monotonic()

    def add(self, count: int) -> None:
        second = int(self._clock.monotonic())
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + count)
        else:
            self._seconds.append((second, count))
            self._forget(second)

    def per_second(self) -> float:
        now = self._clock.monotonic()
        self._forget(int(now))
        span = min(self._window_s, max(1.0, now - self._started_s))
        return round(sum(count for _, count in self._seconds) / span, 1)

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - self._window_s:
            self._seconds.popleft()


@dataclass
class FeedStatistics:
    """Counted since this process started. `errors` are streams that broke off from our side."""

    clock: Clock
    delivered: int = 0
    errors: int = 0
    delivery_rate: Rate = field(init=False)
    publish_rate: Rate = field(init=False)

    def __post_init__(self) -> None:
        self.delivery_rate = Rate(self.clock)
        self.publish_rate = Rate(self.clock)

    def told(self, count: int) -> None:
        self.delivered += count
        self.delivery_rate.add(count)
