"""Who may enter: chunks scored against many queries, and those that beat a query's boundary.

A float32 matrix product finds the few pairs that may; `scores.exact_pairs` decides, filters are
asked only for those. Used for live queries and for alerts, in their threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.live.block import Block
from headwater.live.judge import GONE, PASSES, Judge
from headwater.model import Metric, Rows, Vectors
from headwater.search import scores
from headwater.search.base import Scores
from headwater.search.rowsets import NO_ROWS

_CELLS = 1 << 20
"""Rough scores held at once (4 MB)."""
_DENSE = 32
"""When one pair in so many may enter, all are computed as one product: see `exact_product`."""
_PAIRS = 8_192

Slots = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunks:
    """What may enter: the step's added rows, then those kept rows a filter may now let pass."""

    rows: Rows
    vectors: Vectors
    squared: NDArray[np.float32]
    longest: float
    document: NDArray[np.int64]
    added: int


@dataclass(slots=True)
class Entering:
    """Pairs that beat a boundary: slot, number of the chunk, exact score.

    `unsure` are slots for which a chunk could not be judged, as it is gone already.
    """

    slots: Slots = field(default_factory=lambda: NO_ROWS)
    columns: Slots = field(default_factory=lambda: NO_ROWS)
    scores: Scores = field(default_factory=lambda: np.empty(0, np.float32))
    unsure: set[int] = field(default_factory=set)


def candidates(block: Block[Any], chunks: Chunks, judge: Judge, metric: Metric) -> Entering:
    """The pairs that enter, by rising slot."""
    count = len(chunks.rows)
    found = Entering()
    if not count:
        return found
    bars = _bars(block, chunks.longest, metric)
    step = max(16, _CELLS // count)
    parts = [
        _enter(block, begin, min(begin + step, block.size), bars, chunks, judge, metric, found)
        for begin in range(0, block.size, step)
    ]
    parts = [part for part in parts if len(part[0])]
    if parts:
        slots, columns, exact = zip(*parts, strict=True)
        found.slots, found.columns = np.concatenate(slots), np.concatenate(columns)
        found.scores = np.concatenate(exact)
    return found


def _bars(block: Block[Any], longest: float, metric: Metric) -> NDArray[np.float32]:
    """The rough score below which nothing can enter, per slot."""
    size = block.size
    lengths = block.lengths[:size]
    slack = scores.slack_of(metric, block.queries.shape[1], lengths, longest)
    least = np.maximum(block.low_scores[:size], block.floors[:size]).astype(np.float64)
    if metric == "euclidean":
        with np.errstate(divide="ignore", over="ignore"):
            distance = np.where(least > 0, 1.0 / np.where(least > 0, least, 1.0) - 1.0, np.inf)
            least = lengths**2 - np.maximum(distance, 0.0) ** 2
    bars: NDArray[np.float32] = np.nextafter(
        (least - slack).astype(np.float32), np.float32(-np.inf)
    )
    bars[~block.open[:size]] = np.inf
    return bars


def _enter(
    block: Block[Any],
    begin: int,
    end: int,
    bars: NDArray[np.float32],
    chunks: Chunks,
    judge: Judge,
    metric: Metric,
    entering: Entering,
) -> tuple[Slots, Slots, Scores]:
    queries = block.queries[begin:end]
    rough = scores.rough(metric, queries, chunks.vectors, chunks.squared)
    may = rough >= bars[begin:end, None]
    filters = block.filters[begin:end]
    may[:, chunks.added :] &= (filters >= 0)[:, None]
    flat = np.flatnonzero(may)  # of one axis: of two it is ten times slower
    if not len(flat):
        return NO_ROWS, NO_ROWS, np.empty(0, np.float32)
    own, columns = np.divmod(flat, len(chunks.rows))
    judged = np.flatnonzero(filters[own] >= 0)
    if len(judged):
        verdicts = judge.verdicts(filters[own[judged]], columns[judged])
        unsure = np.unique(own[judged[verdicts == GONE]]) + begin
        entering.unsure.update(unsure.tolist())
        passes = np.ones(len(own), np.bool_)
        passes[judged] = verdicts == PASSES
        own, columns = own[passes], columns[passes]
    found = _exactly(queries, own, columns, chunks.vectors, may.size, metric)
    slots = own + begin
    low = block.low_scores[slots]
    enters = (found >= block.floors[slots]) & (
        (found > low) | ((found == low) & (chunks.rows[columns] <= block.low_rows[slots]))
    )
    if not enters.all():
        slots, columns, found = slots[enters], columns[enters], found[enters]
    if not block.grouped and len(slots) > block.width * (end - begin):
        best = _only_best(slots, found, block)
        slots, columns, found = slots[best], columns[best], found[best]
    return slots, columns, found


def _exactly(
    queries: Vectors,
    own: Slots,
    columns: Slots,
    vectors: Vectors,
    cells: int,
    metric: Metric,
) -> Scores:
    """The exact score of each pair of a query and a vector."""
    if len(own) * _DENSE > cells:
        used, place = np.unique(own, return_inverse=True)
        product = scores.exact_product(metric, queries[used], vectors)
        dense: Scores = product[place, columns]
        return dense
    found = np.empty(len(own), np.float32)
    for at in range(0, len(own), _PAIRS):
        part = slice(at, at + _PAIRS)
        found[part] = scores.exact_pairs(metric, queries[own[part]], vectors[columns[part]])
    return found


def _only_best(slots: Slots, found: Scores, block: Block[Any]) -> NDArray[np.bool_]:
    """Of many pairs those that are among a query's best `width` + 1, or equal to the last of them.

    The one more does not stay: by it the set is known not to hold everything.
    """
    first, starts, counts = np.unique(slots, return_index=True, return_counts=True)
    keep = np.ones(len(slots), np.bool_)
    most = block.width + 1
    for slot, start, count in zip(first.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if count > most and block.k[slot] <= block.width:
            own = found[start : start + count]
            bar = np.partition(own, count - most)[count - most]
            keep[start : start + count] = own >= bar
    return keep


def best_of_documents(found: Entering, chunks: Chunks) -> None:
    """Leave of each document the chunk that ranks first."""
    if not len(found.slots):
        return
    documents = chunks.document[found.columns]
    order = np.lexsort((chunks.rows[found.columns], -found.scores, documents, found.slots))
    slots, documents = found.slots[order], documents[order]
    first = np.ones(len(slots), np.bool_)
    first[1:] = (slots[1:] != slots[:-1]) | (documents[1:] != documents[:-1])
    order = order[first]
    found.slots, found.columns = found.slots[order], found.columns[order]
    found.scores = found.scores[order]
