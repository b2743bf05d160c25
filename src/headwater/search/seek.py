"""The search itself: every part of an index by its plan, the results merged by exact score.

Called by `index.py` on a search lane, with parts that may lose rows meanwhile and never change
otherwise. It takes no lock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headwater.model import Metric, Rows, Vectors
from headwater.search import scores
from headwater.search.base import Scores
from headwater.search.head import HeadRows
from headwater.search.parts import Found, Parts
from headwater.search.planner import Step, plan_segment
from headwater.search.rowsets import NO_ROWS
from headwater.search.scan import Slots, scan
from headwater.search.segment import Segment
from headwater.search.sieve import Sieve

_GATHERED = 4
"""Comparing a subset by gathering it pays while it is this many times smaller than the part."""

_SURPLUS = 2
_SURPLUS_AT_LEAST = 30
"""Candidates for each result of a quantised graph, which are then compared exactly: recall 0.980
at 10 of 10, 0.986 at 30, the same as without codes."""

_SPARE = 8
"""Candidates beyond k that show whether rounding has left the k-th place undecided."""


class Seek:
    """One search: `queries` float32 (n, dim) prepared for the metric, `ks[i]` results for each."""

    def __init__(
        self,
        metric: Metric,
        queries: Vectors,
        ks: Sequence[int],
        *,
        ef: int,
        exact: bool,
        sieve: Sieve | None,
    ) -> None:
        self._metric = metric
        self._queries = queries
        self._ks = ks
        self._ef = ef
        self._exact = exact
        self._sieve = sieve
        self._rows: list[list[Rows]] = [[] for _ in ks]
        self._scores: list[list[Scores]] = [[] for _ in ks]
        self._steps: list[list[Step]] = [[] for _ in ks]

    def run(self, parts: Parts) -> list[Found]:
        for head in parts.heads:
            look = head.look()
            if len(look.rows):
                self._head(look)
        for segment in parts.segments:
            self._segment(segment)
        return [self._found(query, k) for query, k in enumerate(self._ks)]

    def _found(self, query: int, k: int) -> Found:
        steps = tuple(self._steps[query])
        exact = all(step.way != "graph" for step in steps)
        if not self._rows[query]:
            return Found(NO_ROWS, np.empty(0, np.float32), exact, steps)
        rows, found = np.concatenate(self._rows[query]), np.concatenate(self._scores[query])
        return Found(*scores.best(rows, found, k), exact, steps)

    def _take(self, query: int, rows: Rows, vectors: Vectors, slots: Slots, step: Step) -> None:
        self._steps[query].append(step)
        if len(slots):
            self._rows[query].append(rows[slots])
            self._scores[query].append(
                scores.exact(self._metric, self._queries[query], vectors[slots])
            )

    def _head(self, look: HeadRows) -> None:
        alive = look.alive if look.dead else None
        passing = len(look.rows)
        if self._sieve is not None:
            mask = self._sieve.mask(look.rows)
            alive = mask if alive is None else mask & alive
            passing = int(alive.sum())
        step = Step("head", len(look.rows), passing, "scan" if passing else "none")
        everyone = range(len(self._ks))
        self._scan(everyone, look.rows, look.vectors, look.squared, alive, look.longest, step)

    def _segment(self, segment: Segment) -> None:
        bits, passing = None, segment.live
        if self._sieve is not None:
            bits = self._sieve.bits(segment)
            passing = int(_BITS_SET[bits].sum())
        slots: Slots | None = None
        steps: dict[int, Step] = {}
        walks: defaultdict[int, list[int]] = defaultdict(list)
        for query, k in enumerate(self._ks):
            step = steps[query] = plan_segment(segment.count, segment.live, passing, k, self._ef)
            if step.way == "graph" and not self._exact:
                walks[step.ef].append(query)
        done = self._walk(segment, walks, bits, passing, steps)
        left = []
        for query, step in steps.items():
            if query in done:
                continue
            if step.way == "none":
                self._steps[query].append(step)
            elif step.way == "subset" and not self._exact and not segment.quantized:
                if slots is None:
                    slots = _slots(bits, segment.count)
                if not self._compare(query, segment, slots, step):
                    left.append(query)
            else:
                left.append(query)
        if left:
            alive = segment.alive() if bits is None else _flags(bits, segment.count)
            step = Step("segment", segment.count, passing, "scan")
            self._scan(
                left,
                segment.rows,
                segment.vectors,
                segment.squared,
                alive if passing < segment.count else None,
                segment.longest,
                step,
            )

    def _walk(
        self,
        segment: Segment,
        walks: dict[int, list[int]],
        bits: NDArray[np.uint8] | None,
        passing: int,
        steps: dict[int, Step],
    ) -> set[int]:
        """The queries that the graph answered.

        Left out are those for which it gave fewer than there are: a walk can get stuck among rows
        that do not count.
        """
        done = set()
        for ef, members in walks.items():
            most = max(self._ks[query] for query in members)
            some = self._queries if len(members) == len(self._ks) else self._queries[members]
            if segment.quantized:
                most = max(_SURPLUS * most, _SURPLUS_AT_LEAST)
            for query, slots in zip(members, segment.walk(some, most, ef, bits), strict=True):
                k = self._ks[query]
                if len(slots) >= min(k, passing):
                    # All of what codes find is compared exactly: their order is only nearly right.
                    slots = slots if segment.quantized else slots[:k]
                    self._take(query, segment.rows, segment.vectors, slots, steps[query])
                    done.add(query)
        return done

    def _compare(self, query: int, segment: Segment, slots: Slots, step: Step) -> bool:
        """Compare a subset; False when rounding leaves open which are the best."""
        k = self._ks[query]
        found, rough = segment.compare(self._queries[query], k + _SPARE, slots)
        if len(found) < len(slots) and abs(float(rough[k - 1]) - float(rough[-1])) <= 2 * float(
            scores.slack(self._metric, self._queries[query][None, :], segment.longest)[0]
        ):
            return False
        self._take(query, segment.rows, segment.vectors, found, step)
        return True

    def _scan(
        self,
        members: Sequence[int],
        rows: Rows,
        vectors: Vectors,
        squared: NDArray[np.float32],
        alive: NDArray[np.bool_] | None,
        longest: float,
        step: Step,
    ) -> None:
        if step.way == "none":
            for query in members:
                self._steps[query].append(step)
            return
        if alive is not None and step.passing * _GATHERED <= len(rows):
            slots = np.flatnonzero(alive)
            rows, vectors, squared, alive = rows[slots], vectors[slots], squared[slots], None
            step = replace(step, way="subset")
        wanted = list(members)
        for query, slots in zip(
            wanted,
            scan(
                self._metric,
                self._queries[wanted],
                [self._ks[query] for query in wanted],
                vectors,
                squared,
                alive,
                longest,
            ),
            strict=True,
        ):
            self._take(query, rows, vectors, slots, step)


_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
"""How many bits a byte has set."""


def _flags(bits: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)


def _slots(bits: NDArray[np.uint8] | None, count: int) -> Slots:
    if bits is None:
        return np.arange(count, dtype=np.int64)
    return np.flatnonzero(_flags(bits, count))
