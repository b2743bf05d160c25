"""How a search was done, for whoever asks with `explain`.

Filled in along the way by `search.py`; what is not asked for costs nothing.
"""

from __future__ import annotations

from typing import Any

from headwater.clock import Clock
from headwater.search.base import Neighbours
from headwater.service.query import Wish


class Explanation:
    """Times are milliseconds since the part before; legs run side by side."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_s = clock.monotonic()
        self._parts: dict[str, Any] = {}

    def lap(self, name: str, **told: Any) -> None:
        now_s = self._clock.monotonic()
        took_ms = round((now_s - self._last_s) * 1000, 3)
        self._last_s = now_s
        self._parts[name] = {**told, "took_ms": took_ms}

    def filtered(self, passing: int) -> None:
        self.lap("filter", passing=passing)

    def near(self, near: Neighbours) -> None:
        self.lap(
            "vector",
            candidates=len(near.rows),
            exact=near.exact,
            parts=[
                {
                    "kind": step.kind,
                    "rows": step.rows,
                    "passing": step.passing,
                    "plan": step.way,
                    **({"ef": step.ef} if step.ef else {}),
                }
                for step in near.steps
            ],
        )

    def words(self, candidates: int, *, by_name: bool) -> None:
        self.lap("keyword", candidates=candidates, filter_as_terms=by_name)

    def told(self, wish: Wish) -> dict[str, Any]:
        return {"mode": wish.mode, **self._parts}
