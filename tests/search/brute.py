"""What a search must give, the slow and obvious way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headwater.model import Metric, Vectors


def unit(matrix: Vectors) -> NDArray[np.float32]:
    wide = matrix.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def ranked(
    metric: Metric, held: dict[int, Vectors], query: Vectors, k: int
) -> tuple[list[int], list[float]]:
    """Rows and float32 scores of the k best of `held` (row → original vector)."""
    if not held:
        return [], []
    rows = np.array(sorted(held), np.int64)
    matrix = np.stack([held[int(row)] for row in rows])
    query = query[None, :]
    if metric == "cosine":
        matrix, query = unit(matrix), unit(query)
    wide, probe = matrix.astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        scores = 1 / (1 + np.sqrt(((wide - probe) ** 2).sum(axis=1)))
    else:
        scores = (wide * probe).sum(axis=1)
        if metric == "cosine":
            scores = np.clip(scores, -1, 1)
    rounded = scores.astype(np.float32)
    order = sorted(range(len(rows)), key=lambda at: (-rounded[at], rows[at]))[:k]
    return [int(rows[at]) for at in order], [float(rounded[at]) for at in order]
