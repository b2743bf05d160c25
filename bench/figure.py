"""One measured number beside its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class Figure:
    """`bound` says on which side of `target` the number should be. `details` explain it."""

    name: str
    measured: float
    unit: str
    target: float
    bound: Literal["at least", "at most"]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        if self.bound == "at least":
            return self.measured >= self.target
        return self.measured <= self.target

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "measured": self.measured,
            "unit": self.unit,
            "target": self.target,
            "bound": self.bound,
            "reached": self.reached,
            "details": self.details,
        }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds at p50, p90, p99 and the worst; for `details`."""
    found = np.percentile(np.asarray(seconds) * 1000, [50, 90, 99, 100])
    return {
        name: round(float(value), 3)
        for name, value in zip(("p50_ms", "p90_ms", "p99_ms", "max_ms"), found, strict=True)
    }
