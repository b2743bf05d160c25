"""Figures of an embedder at work: how often, how long, how many went wrong.

Kept by `hosted.py` for every embedder and by `remote.py` for its calls; shown by
`GET /v1/embedders`. They count since the process started and are never stored.
"""

from __future__ import annotations

from collections import deque
from typing import Any

_RECENT = 512


class Durations:
    """How long something took: the count, and percentiles of the last 512. Loop only."""

    def __init__(self) -> None:
        self._count = 0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float) -> None:
        self._count += 1
        self._recent.append(seconds)

    def statistics(self) -> dict[str, Any]:
        """`count` of all; milliseconds of the recent ones, null when there are none."""
        recent = sorted(self._recent)

        def at(share: float) -> float | None:
            return round(recent[int(share * (len(recent) - 1))] * 1000, 3) if recent else None

        return {"count": self._count, "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}


class Usage:
    """What the calls to a provider came to. Loop only."""

    def __init__(self, price_per_million_tokens: float | None) -> None:
        self._price = price_per_million_tokens
        self.calls = Durations()
        self.inputs = 0
        self.tokens = 0
        self.retries = 0
        self.splits = 0
        self.errors: dict[str, int] = {}
        self.in_flight = 0

    def went_wrong(self, reason: str) -> None:
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def statistics(self) -> dict[str, Any]:
        """`tokens` is what the provider counted; `cost` is null without a price."""
        cost = None if self._price is None else self.tokens * self._price / 1e6
        return {
            "calls": self.calls.statistics(),
            "inputs": self.inputs,
            "tokens": self.tokens,
            "cost": cost,
            "retries": self.retries,
            "splits": self.splits,
            "errors": dict(self.errors),
            "in_flight": self.in_flight,
        }
