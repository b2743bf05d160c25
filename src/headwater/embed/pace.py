"""How fast a provider may be asked: token buckets for inputs and for tokens, and pauses.

`remote.py` takes from it before each call. Queries come first: while one waits, documents do. It
must never send faster than the rate for long, nor forbid a call that is larger than the bucket.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

_BURST_S = 3.0
"""A full bucket holds this many seconds of the rate: 5 % over the rate in the worst minute."""
_LOOK_AGAIN_S = 0.02
_LONGEST_PAUSE_S = 60.0
"""However long a provider asks for (a day, when a quota is used up), a call looks again by then:
the quota may have been raised, or the answer have been a mistake."""


class Bucket:
    """A token bucket (leaky bucket as a meter). It may be overdrawn by one take, then refills."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_s = per_minute / 60
        self._size = max(1.0, self._per_s * _BURST_S)
        self._level = self._size
        self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """How long until `amount` may be taken, in seconds."""
        self._refill(now)
        return max(0.0, (min(amount, self._size) - self._level) / self._per_s)

    def take(self, amount: float, now: float) -> None:
        self._refill(now)
        self._level -= amount

    def _refill(self, now: float) -> None:
        self._level = min(self._size, self._level + (now - self._at) * self._per_s)
        self._at = now


class Pace:
    """The buckets of one embedder. Loop only."""

    def __init__(
        self,
        inputs_per_minute: int | None,
        tokens_per_minute: int | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._monotonic = monotonic
        now = monotonic()
        self._inputs = Bucket(inputs_per_minute, now) if inputs_per_minute else None
        self._tokens = Bucket(tokens_per_minute, now) if tokens_per_minute else None
        self._paused_until = now
        self._urgent = 0
        self._turns = {True: anyio.Lock(), False: anyio.Lock()}

    def pause(self, seconds: float) -> None:
        """Let nothing through for that long, within bounds: the provider has said so."""
        until = self._monotonic() + min(seconds, _LONGEST_PAUSE_S)
        self._paused_until = max(self._paused_until, until)

    @property
    def paused_s(self) -> float:
        """How long nothing is let through from now on, in seconds."""
        return max(0.0, self._paused_until - self._monotonic())

    async def take(self, inputs: int, tokens: int, *, urgent: bool) -> None:
        """Return when a call of that size may be made; it is then counted."""
        self._urgent += urgent
        try:
            async with self._turns[urgent]:  # in the order they came: none may starve
                while True:
                    wait_s = self._wait_s(inputs, tokens, urgent=urgent)
                    if wait_s <= 0:
                        break
                    await anyio.sleep(wait_s)
                now = self._monotonic()
                if self._inputs:
                    self._inputs.take(inputs, now)
                if self._tokens:
                    self._tokens.take(tokens, now)
        finally:
            self._urgent -= urgent

    def _wait_s(self, inputs: int, tokens: int, *, urgent: bool) -> float:
        now = self._monotonic()
        wait_s = max(
            self._paused_until - now,
            self._inputs.wait_s(inputs, now) if self._inputs else 0.0,
            self._tokens.wait_s(tokens, now) if self._tokens else 0.0,
        )
        if self._urgent and not urgent:
            return max(wait_s, _LOOK_AGAIN_S)
        # A wait below what the loop's clock can tell would spin.
        return 0.0 if wait_s <= 0 else max(wait_s, 0.001)
