"""How one part of an index is searched: by its graph, by comparing a subset, or by comparing all.

`index.py` asks for each part and query; `explain` shows the answers. The costs are relative and
were measured at 100,000 vectors of 256 dimensions on one core: a candidate of a graph walk
(efSearch) 3 µs, a vector of a subset 0.1 µs, a vector of a whole matrix 0.06 µs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["head", "segment"]
Way = Literal["graph", "subset", "scan", "none"]

_CANDIDATE_COST = 3.0
_SUBSET_COST = 0.1
_FILTERED = 1.4
"""With a filter a walk is this much wider: some of its candidates do not count."""
_ENOUGH_PASS = 0.25
"""Down to this share of passing rows that is enough: recall 0.986 at a half, 0.980 at a quarter."""
_WIDEN = 0.75
"""Below it efSearch grows by this power of what is missing: 0.98 at a tenth. Where a walk would
have to be wider still, comparing what passes is cheaper."""
_SCAN_ROWS_PER_CANDIDATE = 16
"""Without a filter, a scan of this many rows costs about what one candidate costs."""


@dataclass(frozen=True, slots=True)
class Step:
    """What was done with one part. `ef` is 0 where no graph was walked."""

    kind: Kind
    rows: int
    passing: int
    way: Way
    ef: int = 0


def plan_segment(rows: int, live: int, passing: int, k: int, ef: int) -> Step:
    """`passing` of the `live` rows satisfy the filter; without one the two are equal."""
    if not passing:
        return Step("segment", rows, passing, "none")
    ef = max(ef, 2 * k)
    if passing == live:
        graph = live > _SCAN_ROWS_PER_CANDIDATE * ef and 2 * live >= rows
        return Step("segment", rows, passing, "graph" if graph else "scan", ef if graph else 0)
    ef = round(_FILTERED * ef)
    share = passing / rows
    if share < _ENOUGH_PASS:
        ef = round(ef * (_ENOUGH_PASS / share) ** _WIDEN)
    if _SUBSET_COST * passing <= _CANDIDATE_COST * ef:
        return Step("segment", rows, passing, "subset")
    return Step("segment", rows, passing, "graph", ef)
