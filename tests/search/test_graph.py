"""A copied graph is the same graph, and neither grows at the other's cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headwater.model import Metric, Vectors
from headwater.search import graph
from headwater.search.graph import faiss

DIMENSION = 32
ROWS = 3_000
MORE = 700


@pytest.fixture
def vectors() -> Vectors:
    dice = np.random.default_rng(7)
    matrix: Vectors = dice.standard_normal((ROWS + MORE, DIMENSION)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def made(vectors: Vectors, metric: Metric, *, quantized: bool) -> Any:
    rows = np.arange(len(vectors), dtype=np.int64)
    new = graph.empty(DIMENSION, metric, [(rows, vectors)], quantized=quantized)
    new.add(vectors)
    return new


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_copy_grows_as_a_clone_does_and_leaves_the_first_alone(
    vectors: Vectors, metric: Metric, quantized: bool
) -> None:
    first = made(vectors[:ROWS], metric, quantized=quantized)
    before = first.search(vectors[:50], 10)
    clone, copy = faiss.clone_index(first), graph.copied(first, MORE)
    for other in (clone, copy):
        other.hnsw.efConstruction = 100
        other.add(vectors[ROWS:])
    for found, expected in zip(copy.search(vectors, 10), clone.search(vectors, 10), strict=True):
        assert (found == expected).all()
    for found, expected in zip(first.search(vectors[:50], 10), before, strict=True):
        assert (found == expected).all()
    del first, clone
    _, nearest = copy.search(vectors[ROWS:], 1)
    assert (nearest[:, 0] == np.arange(ROWS, ROWS + MORE)).mean() > 0.95


@pytest.mark.parametrize("quantized", [False, True])
def test_rows_that_were_announced_move_no_array(vectors: Vectors, quantized: bool) -> None:
    """Moving would hold the vectors twice more."""
    grown = graph.copied(made(vectors[:ROWS], "cosine", quantized=quantized), MORE)
    rows = np.arange(ROWS, dtype=np.int64)
    begun = graph.empty(DIMENSION, "cosine", [(rows, vectors[:ROWS])], quantized=quantized)
    for one, added in ((grown, vectors[ROWS:]), (begun, vectors[:ROWS])):
        codes = faiss.downcast_index(one.storage).codes
        lay = int(codes.data()), int(one.hnsw.neighbors.data())
        for at in range(0, len(added), 100):
            one.add(added[at : at + 100])
        assert (int(codes.data()), int(one.hnsw.neighbors.data())) == lay


def test_empty_graph_is_copied(vectors: Vectors) -> None:
    copy = graph.copied(made(vectors[:0], "cosine", quantized=False), 10)
    copy.add(vectors[:10])
    _, found = copy.search(vectors[:10], 1)
    assert found[:, 0].tolist() == list(range(10))
