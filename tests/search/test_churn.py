"""An index that was changed through and through, against one built afresh from what is left."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from search.brute import unit

from headwater.search.index import VectorIndex
from headwater.settings import SearchSettings

DIMENSION = 24
SETTINGS = SearchSettings(seal_rows=1_000, exact_rows=0, ef_search=48, ef_construction=64)


def settle(index: VectorIndex) -> None:
    while (plan := index.plan(quiet=True)) is not None:
        index.swap(plan, index.build(plan, threading.Event()))


def recall(index: VectorIndex, queries: NDArray[np.float32]) -> float:
    found = 0
    for query in queries:
        (near,) = index.search(query[None, :], [10])
        (exact,) = index.search(query[None, :], [10], exact=True)
        assert not near.exact
        found += int((near.scores >= exact.scores[-1] - 1e-6).sum())
    return found / (10 * len(queries))


@pytest.mark.parametrize("quantized", [False, True])
def test_recall_after_churn_is_that_of_a_fresh_build(quantized: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    centres = unit(random.normal(size=(60, DIMENSION)).astype(np.float32))

    def some(count: int) -> NDArray[np.float32]:
        near = centres[random.integers(0, len(centres), count)]
        return unit(near + random.normal(scale=0.35, size=near.shape).astype(np.float32))

    disk = tmp_path if quantized else None
    index = VectorIndex(DIMENSION, "cosine", SETTINGS, disk)
    held: dict[int, NDArray[np.float32]] = {}
    next_row = 1
    for turn in range(16):
        added = some(500)
        rows = np.arange(next_row, next_row + 500)
        next_row += 500
        index.append(rows, added)
        held |= dict(zip(rows.tolist(), added, strict=True))
        if turn >= 8:  # from here on half of all is replaced, or goes
            gone = random.choice(sorted(held), size=500, replace=False)
            index.remove(np.sort(gone))
            for row in gone.tolist():
                del held[row]
        if turn % 3 == 0:
            settle(index)
    settle(index)
    fresh = VectorIndex(DIMENSION, "cosine", SETTINGS, disk)
    order = sorted(held)
    fresh.append(np.array(order), np.stack([held[row] for row in order]))
    settle(fresh)
    assert index.rows().tolist() == fresh.rows().tolist() == order
    queries = some(300)
    assert recall(index, queries) >= recall(fresh, queries) - 0.01
