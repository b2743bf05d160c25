"""Every way to compute a score gives the same one, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.model import Metric
from headwater.search import scores


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("dimension", [1, 3, 8, 200, 256])
def test_pairs_and_products_give_the_score_of_one_by_one(metric: Metric, dimension: int) -> None:
    random = np.random.default_rng(dimension)
    vectors = random.normal(size=(300, dimension)).astype(np.float32)
    vectors[:3] = 0
    vectors[3:40] = vectors[40]  # equal ones must be exactly as near
    vectors[50:60] = -vectors[40]
    queries = random.normal(size=(60, dimension)).astype(np.float32)
    queries[0], queries[1] = 0, vectors[40]
    queries, vectors = scores.prepared(metric, queries), scores.prepared(metric, vectors)

    wanted = np.stack([scores.exact(metric, query, vectors) for query in queries])
    assert (scores.exact_product(metric, queries, vectors) == wanted).all()
    at, to = (part.ravel() for part in np.indices(wanted.shape))
    assert (scores.exact_pairs(metric, queries[at], vectors[to]) == wanted[at, to]).all()


@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (1_030, 256), (200, 1_536), (3, 200_000)])
def test_many_vectors_prepared_together_are_those_prepared_one_by_one(
    count: int, dimension: int
) -> None:
    vectors = np.random.default_rng(7).normal(size=(count, dimension)).astype(np.float32)
    vectors[count // 2] = 0
    together = scores.prepared("cosine", vectors)
    assert (together == np.concatenate([scores.prepared("cosine", v[None]) for v in vectors])).all()
    lengths = np.linalg.norm(together.astype(np.float64), axis=1)
    assert np.allclose(lengths, np.arange(count) != count // 2, atol=1e-6)
