"""Exact search by matrix product, in blocks, so that memory does not grow with rows × queries.

Used for heads, for small libraries, and wherever a graph would be slower or would miss rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headwater.model import Metric, Vectors
from headwater.search import scores

Slots = NDArray[np.int64]

_ROWS = 1 << 16
_CELLS = 1 << 21
"""Scores held at once (8 MB)."""
_SAMPLED = 64
"""Scores of a sample for each result wanted: one in so many then lies above the sample's bar."""


def scan(
    metric: Metric,
    queries: Vectors,
    ks: Sequence[int],
    vectors: Vectors,
    squared: NDArray[np.float32],
    alive: NDArray[np.bool_] | None,
    longest: float,
) -> list[Slots]:
    """Per query the slots that hold its k best, and the few that rounding leaves undecided.

    `alive` None means that every slot counts. Unordered.
    """
    slack = scores.slack(metric, queries, longest)
    step = max(1, _CELLS // max(1, min(len(vectors), _ROWS)))
    found: list[Slots] = []
    for at in range(0, len(queries), step):
        found += _scan(
            metric,
            queries[at : at + step],
            ks[at : at + step],
            vectors,
            squared,
            alive,
            slack[at : at + step],
        )
    return found


def _scan(
    metric: Metric,
    queries: Vectors,
    ks: Sequence[int],
    vectors: Vectors,
    squared: NDArray[np.float32],
    alive: NDArray[np.bool_] | None,
    slack: NDArray[np.float64],
) -> list[Slots]:
    kept: list[list[tuple[Slots, NDArray[np.float32]]]] = [[] for _ in ks]
    for at in range(0, len(vectors), _ROWS):
        rough = scores.rough(metric, queries, vectors[at : at + _ROWS], squared[at : at + _ROWS])
        if alive is not None:
            rough[:, ~alive[at : at + _ROWS]] = -np.inf
        for entry, row, k, margin in zip(kept, rough, ks, slack, strict=True):
            slots = _candidates(row, k, float(margin))
            entry.append((slots + at, row[slots]))
    return [
        _joined(entry, k, float(margin)) for entry, k, margin in zip(kept, ks, slack, strict=True)
    ]


def _joined(entry: list[tuple[Slots, NDArray[np.float32]]], k: int, margin: float) -> Slots:
    if len(entry) == 1:
        return entry[0][0]
    if not entry:
        return np.empty(0, np.int64)
    slots = np.concatenate([slots for slots, _ in entry])
    return slots[_candidates(np.concatenate([row for _, row in entry]), k, margin)]


def _candidates(row: NDArray[np.float32], k: int, margin: float) -> Slots:
    """Those not more than `margin` below the k-th best.

    The k-th best of a sample is not better than that of all: what is below need not be put in
    order, which is nearly everything.
    """
    if k >= len(row):
        return np.flatnonzero(row > -np.inf)
    sample = row[:: max(1, len(row) // (_SAMPLED * k))]
    if len(sample) < len(row):
        least = _kth(sample, k) - margin
        if least > -np.inf:
            slots = np.flatnonzero(row >= least)
            few = row[slots]
            return slots[few >= _kth(few, k) - margin]
    bar = _kth(row, k) - margin
    slots = np.flatnonzero(row >= bar)
    return slots if bar > -np.inf else slots[row[slots] > -np.inf]


def _kth(row: NDArray[np.float32], k: int) -> np.float32:
    best: np.float32 = np.partition(row, len(row) - k)[len(row) - k]
    return best
