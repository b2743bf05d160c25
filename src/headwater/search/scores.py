"""What a score is, in each metric, and how exactly it is computed.

Every score that leaves `search/` comes from `exact`, so it does not depend on whether the row lay
in a head, a segment or a graph's candidate list. `rough` and `slack` find candidates fast without
losing a row that `exact` would rank among the best. Nothing here may know about libraries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headwater.model import Metric, Rows, Vectors
from headwater.search.base import Scores

_UNIT = 2.0**-24
"""Unit roundoff of float32."""
_BLOCK_NUMBERS = 1 << 17
"""Prepared at a time. What they take in between stays in the cache: 23,000 vectors of 256 numbers
take 6 to 8 ms, and 16 to 115 in one go, which maps fresh memory each time."""


def prepared(metric: Metric, matrix: Vectors) -> Vectors:
    """The vectors as they are kept and compared: unit length for cosine, else as they came.

    A zero vector stays zero, so its cosine with anything is 0. Each row's result depends on that
    row alone. Read-only inputs are fine; the result may share them.
    """
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    if metric != "cosine" or not matrix.size:
        return matrix
    unit = np.empty_like(matrix)
    rows = max(1, _BLOCK_NUMBERS // matrix.shape[1])
    for at in range(0, len(matrix), rows):
        wide = matrix[at : at + rows].astype(np.float64)
        norms = np.sqrt(np.square(wide).sum(axis=1))
        norms[norms == 0.0] = 1.0
        wide /= norms[:, None]
        unit[at : at + rows] = wide
    return unit


def squares(matrix: Vectors) -> NDArray[np.float32]:
    """Squared lengths, float32 (n,)."""
    lengths: NDArray[np.float32] = np.einsum("ij,ij->i", matrix, matrix)
    return lengths


def rough(
    metric: Metric, queries: Vectors, vectors: Vectors, squared: NDArray[np.float32]
) -> NDArray[np.float32]:
    """One matrix product: (queries, vectors), higher is better, good to within `slack`.

    Inner products; for Euclidean 2·q·v - |v|², which orders a query's rows as -d² does.
    """
    scores: NDArray[np.float32] = queries @ vectors.T
    if metric == "euclidean":
        scores *= 2
        scores -= squared
    return scores


def slack(metric: Metric, queries: Vectors, longest: float) -> NDArray[np.float64]:
    """How far apart two rough scores may lie while the exact ones say the opposite, per query.

    Twice the error bound of a float32 inner product (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), plus the rounding of the exact score itself: rows whose rounded
    scores are equal are ordered by row, so both must be candidates. `longest` bounds the vectors'
    lengths.
    """
    lengths = np.sqrt(np.square(queries.astype(np.float64)).sum(axis=1))
    return slack_of(metric, queries.shape[1], lengths, longest)


def slack_of(
    metric: Metric, dimension: int, lengths: NDArray[np.float64], longest: float
) -> NDArray[np.float64]:
    """`slack` for queries of these lengths."""
    terms = dimension + 8
    if metric == "euclidean":
        reach = lengths + longest
        bound = terms * reach**2 + 4 * reach * (1 + reach)
    else:
        bound = terms * lengths * longest
    margin: NDArray[np.float64] = 2.2 * _UNIT * bound + 1e-30
    return margin


def exact(metric: Metric, query: Vectors, vectors: Vectors) -> Scores:
    """Scores of prepared `vectors` (n, dim) against one prepared query (dim,), float32 (n,).

    Computed in float64 row by row, then rounded once: the same pair always gives the same score.
    """
    scores = np.empty(len(vectors), np.float32)
    wide = query.astype(np.float64)
    for at in range(0, len(vectors), _BLOCK):
        block = vectors[at : at + _BLOCK].astype(np.float64)
        scores[at : at + _BLOCK] = _compared(metric, wide, block)
    return scores


def exact_pairs(metric: Metric, queries: Vectors, vectors: Vectors) -> Scores:
    """`exact` of the n-th query (n, dim) and the n-th vector (n, dim), float32 (n,)."""
    scores = np.empty(len(vectors), np.float32)
    for at in range(0, len(vectors), _BLOCK):
        block = vectors[at : at + _BLOCK].astype(np.float64)
        wide = queries[at : at + _BLOCK].astype(np.float64)
        scores[at : at + _BLOCK] = _compared(metric, wide, block)
    return scores


_BLOCK = 4_096


def _compared(
    metric: Metric, query: NDArray[np.float64], block: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scores of the rows of `block`, which is spoilt, against one query or one for each, (n,)."""
    if metric == "euclidean":
        block -= query
        np.square(block, out=block)
        near: NDArray[np.float64] = 1.0 / (1.0 + np.sqrt(block.sum(axis=1)))
        return near
    block *= query
    totals: NDArray[np.float64] = block.sum(axis=1)
    if metric == "cosine":
        np.minimum(totals, 1.0, out=totals)
        np.maximum(totals, -1.0, out=totals)
    return totals


def exact_product(metric: Metric, queries: Vectors, vectors: Vectors) -> Scores:
    """`exact` of every query (n, dim) with every vector (m, dim), float32 (n, m).

    One float64 matrix product, which sums in another order than `exact` does. Where that could
    round to another float32, the pair is computed as `exact` does: the result is the same, bit for
    bit, and costs a tenth when most pairs are wanted.
    """
    wide, others = queries.astype(np.float64), vectors.astype(np.float64)
    lengths = np.sqrt(np.square(wide).sum(axis=1))[:, None]
    reaches = np.sqrt(np.square(others).sum(axis=1))[None, :]
    totals = wide @ others.T
    # Both sums lie within n·u·|q|·|v| of the true one (Higham, section 3.1); twice that, and more.
    unit = 4 * (queries.shape[1] + 8) * 2.0**-53
    if metric == "euclidean":
        totals *= -2
        totals += lengths**2
        totals += reaches**2
        bound = unit * (lengths + reaches) ** 2
        low = 1.0 / (1.0 + np.sqrt(np.maximum(totals + bound, 0.0))) * (1 - 2.0**-50)
        high = 1.0 / (1.0 + np.sqrt(np.maximum(totals - bound, 0.0))) * (1 + 2.0**-50)
    else:
        bound = unit * lengths * reaches
        low, high = totals - bound, totals + bound
        if metric == "cosine":
            np.clip(low, -1.0, 1.0, out=low)
            np.clip(high, -1.0, 1.0, out=high)
    scores: Scores = low.astype(np.float32)
    at, to = np.divmod(np.flatnonzero(scores != high.astype(np.float32)), max(1, len(vectors)))
    for begin in range(0, len(at), _BLOCK):
        one, other = at[begin : begin + _BLOCK], to[begin : begin + _BLOCK]
        scores[one, other] = exact_pairs(metric, queries[one], vectors[other])
    return scores


def best(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """The k best, best first; equal scores by rising row."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
