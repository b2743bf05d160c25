"""Exact search by matrix product: nothing that is among the best is ever left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.search import scan as scans
from headwater.search import scores


@pytest.mark.parametrize("rows", [5, 900, 70_000])
@given(
    seed=st.integers(0, 10_000),
    k=st.sampled_from([1, 3, 10, 200]),
    dead=st.sampled_from([0.0, 0.4, 0.999]),
    coarse=st.booleans(),
    rising=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_scan_finds_the_best_among_equals_dead_ones_and_any_order(
    rows: int, seed: int, k: int, dead: float, coarse: bool, rising: bool
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((rows, 4)).astype(np.float32)
    queries = random.standard_normal((2, 4)).astype(np.float32)
    if coarse:  # many equal scores
        vectors, queries = np.round(vectors), np.round(queries)
    if rising:  # the best are together, at the end
        vectors = vectors[np.argsort(vectors @ queries[0], kind="stable")]
    alive = random.random(rows) >= dead if dead else None
    squared = scores.squares(vectors)
    longest = float(np.sqrt(squared.max()))
    found = scans.scan("dot", queries, [k, k], vectors, squared, alive, longest)
    for query, slots in zip(queries, found, strict=True):
        exact = scores.exact("dot", query, vectors)
        counting = np.flatnonzero(alive) if alive is not None else np.arange(rows)
        best, _ = scores.best(counting, exact[counting], k)
        assert np.isin(best, slots).all()
        assert np.isin(slots, counting).all()
        assert len(np.unique(slots)) == len(slots)
