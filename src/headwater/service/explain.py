"""How a search was done, for whoever asks with `explain`.

Filled in along the way by `search.py`; what is not asked for costs nothing.
"""

from __future__ import annotations

from typing import Any

from headwater.clock import Clock
from headwater.search.base import Neighbours
from headwater.service.query import Wish


class Explanation:
    """Times are milliseconds since the part before; of legs, which run side by side, each its own.

    What is done several times over, as when a group needs more chunks, is told with all its time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_s = clock.monotonic()
        self._parts: dict[str, Any] = {}

    def lap(self, name: str, since_s: float | None = None, **told: Any) -> None:
        now_s = self._clock.monotonic()
        took_ms = (now_s - (self._last_s if since_s is None else since_s)) * 1000
        took_ms += self._parts.get(name, {}).get("took_ms", 0.0)
        self._last_s = now_s
        self._parts[name] = {**told, "took_ms": round(took_ms, 3)}

    def now_s(self) -> float:
        """For a part that does not begin where the one before ended."""
        return self._clock.monotonic()

    def filtered(self, passing: int) -> None:
        self.lap("filter", passing=passing)

    def near(self, near: Neighbours, since_s: float) -> None:
        self.lap(
            "vector",
            since_s,
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

    def words(self, candidates: int, since_s: float, *, by_name: bool) -> None:
        self.lap("keyword", since_s, candidates=candidates, filter_as_terms=by_name)

    def told(self, wish: Wish) -> dict[str, Any]:
        return {"mode": wish.mode, **self._parts}
