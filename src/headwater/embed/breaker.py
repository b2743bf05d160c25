"""A circuit breaker: a provider that fails again and again is left alone for a while.

`remote.py` asks it before each call and tells it how the call went. It must never keep a provider
away that answers: any answer, also a refusal, closes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Closed: calls go through. Open: none does. Half open: one does, and decides. Loop only."""

    def __init__(self, failures: int, open_s: float, monotonic: Callable[[], float]) -> None:
        self.opened = 0
        self._limit = failures
        self._open_s = open_s
        self._monotonic = monotonic
        self._failures = 0
        self._until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        if self._until is None:
            return "closed"
        return "open" if self._monotonic() < self._until and not self._probing else "half_open"

    @property
    def refuses_s(self) -> float | None:
        """How long calls are refused from now on, in seconds, or None: one may be made."""
        if self._until is None:
            return None
        if self._probing:
            return 1.0
        left = self._until - self._monotonic()
        return left if left > 0 else None

    def admit(self) -> bool:
        """Whether a call may be made now. It must end in `succeeded`, `failed` or `released`."""
        if self.refuses_s is not None:
            return False
        self._probing = self._until is not None
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._until = None
        self._probing = False

    def released(self) -> None:
        """The call was given up before anything was known of it."""
        self._probing = False

    def failed(self) -> None:
        self._failures += 1
        if self._probing or self._failures >= self._limit:
            if self._until is None or self._probing:
                self.opened += 1
                self._until = self._monotonic() + self._open_s
            self._probing = False
