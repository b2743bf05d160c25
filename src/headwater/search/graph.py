"""FAISS graphs: made empty, or copied, with room for what will be added.

A graph keeps its vectors and links in arrays that grow by doubling. Growing a copy would hold the
old array, the copy and the doubled one at once, three times the vectors of a library. So the room
is made first. Called by `segment.py`, in the thread that builds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import faiss as _faiss
import numpy as np

from headwater.model import Metric, Rows, Vectors

faiss: Any = _faiss
"""Untyped: its stubs know neither numpy arguments nor the newer classes."""

LINKS = 16
"""Links per vertex (M)."""

_LINKS_OF_A_ROW = 2 * LINKS + 3
"""2 M on the lowest level, and M on each level above, of which a row has 1/(M-1) on average."""

_RANGE_SLACK = 0.1
_SAMPLE = 4_096
"""Vectors of each source that the steps of int8 codes are made from."""


def empty(
    dimension: int, metric: Metric, sources: Sequence[tuple[Rows, Vectors]], *, quantized: bool
) -> Any:
    """A graph without rows, with room for those of `sources`."""
    kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    graph = _made(dimension, kind, quantized=quantized)
    if quantized:
        # A byte per number, in steps between the smallest and largest of each dimension and a
        # little beyond, for what is added later.
        quantizer = faiss.downcast_index(graph.storage).sq
        quantizer.rangestat = faiss.ScalarQuantizer.RS_minmax
        quantizer.rangestat_arg = _RANGE_SLACK
        sample = [vectors[:: max(1, len(vectors) // _SAMPLE)] for _, vectors in sources]
        sample = [part for part in sample if len(part)]
        graph.train(np.concatenate(sample) if sample else np.zeros((1, dimension), np.float32))
    _make_room(graph, sum(len(rows) for rows, _ in sources))
    return graph


def copied(graph: Any, more: int) -> Any:
    """The same graph, apart, with room for `more` rows. Grows as the first one would have."""
    source = faiss.downcast_index(graph.storage)
    quantized = isinstance(source, faiss.IndexScalarQuantizer)
    copy = _made(graph.d, graph.metric_type, quantized=quantized)
    storage = faiss.downcast_index(copy.storage)
    if quantized:
        storage.sq = source.sq
        storage.is_trained = copy.is_trained = True
    _make_room(copy, graph.ntotal + more)
    _fill(storage.codes, source.codes, 1)
    storage.ntotal = copy.ntotal = graph.ntotal
    links, own = graph.hnsw, copy.hnsw
    _fill(own.neighbors, links.neighbors, 4)
    for name in ("levels", "offsets"):
        faiss.copy_array_to_vector(faiss.vector_to_array(getattr(links, name)), getattr(own, name))
    own.entry_point, own.max_level, own.rng = links.entry_point, links.max_level, links.rng
    return copy


def _made(dimension: int, kind: int, *, quantized: bool) -> Any:
    if quantized:
        return faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_8bit, LINKS, kind)
    return faiss.IndexHNSWFlat(dimension, LINKS, kind)


def _make_room(graph: Any, rows: int) -> None:
    """A vector that shrinks keeps its memory (ISO C++, vector.capacity)."""
    codes = faiss.downcast_index(graph.storage)
    for array, size in (
        (codes.codes, rows * codes.code_size),
        (graph.hnsw.neighbors, rows * _LINKS_OF_A_ROW),
    ):
        before = array.size()
        array.resize(max(before, size))
        array.resize(before)


def _fill(target: Any, source: Any, item_bytes: int) -> None:
    count = source.size()
    target.resize(count)
    if count:
        ctypes.memmove(int(target.data()), int(source.data()), count * item_bytes)


def stored_vectors(graph: Any) -> Vectors:
    """The float32 vectors inside a graph, without a copy; valid while the graph lives."""
    storage = faiss.downcast_index(graph.storage)
    if not graph.ntotal:
        return np.empty((0, graph.d), np.float32)
    flat: Vectors = faiss.rev_swig_ptr(storage.get_xb(), graph.ntotal * graph.d)
    return flat.reshape(graph.ntotal, graph.d)
