"""A token bucket: how often one socket may ask."""

from __future__ import annotations

from headwater.clock import Clock


class Bucket:
    """Fills with `per_second` tokens a second, up to `burst`. Full at first."""

    def __init__(self, per_second: float, burst: int, clock: Clock) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)
        self._at_s = clock.monotonic()

    def take(self) -> float:
        """0 when a token was taken; else the seconds until there is one again."""
        now_s = self._clock.monotonic()
        filled = self._tokens + (now_s - self._at_s) * self._per_second
        self._tokens = min(self._burst, filled)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_second
