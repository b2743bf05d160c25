"""What the live queries of this process have done, for people to see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Since the process started. `lag_ms` is from the last matched commit to its deltas."""

    commits: int = 0
    changes: int = 0
    rows: int = 0
    pairs: int = 0
    lookups: int = 0
    refills: int = 0
    failures: int = 0
    lag_ms: float = 0.0
