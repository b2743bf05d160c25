"""Libraries, and the alerts that are kept on them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from headwater.model.log import Position, Vectors

Metric = Literal["cosine", "dot", "euclidean"]
Quantization = Literal["none", "int8"]


class Library(msgspec.Struct, frozen=True):
    """A named set of documents with one embedder, dimension and metric.

    `number` is the store's own key; `id` is the UUIDv7 that clients see.
    `embedder_identity` names the exact model; the store never lets it change. `language` is the
    one whose words keyword search stems, or `none`. `quantization` is how the vectors are kept in
    memory: as they are, or as int8 codes with the vectors in files.
    """

    number: int
    id: str
    name: str
    description: str | None
    embedder: str
    embedder_identity: str
    dimension: int
    metric: Metric
    chunk_size: int
    chunk_overlap: int
    metadata: dict[str, Any]
    version: int
    documents: int
    chunks: int
    created_us: int
    updated_us: int
    position: Position
    pending: int = 0
    """Documents that wait for their vectors."""
    language: str = "en"
    quantization: Quantization = "none"
    generation: int = 0
    """Rises when all its vectors are made anew: those of two never meet."""


class Alert(msgspec.Struct, frozen=True, gc=False):
    """A query that is kept: each document version whose best chunk scores `score_threshold` at
    least, and passes the filter, is told in the log.

    `row` is the store's key and rises in order of creation. `vector` float32 (dim,), prepared for
    the metric; `filter` and `metadata` are encoded JSON. It holds from `position` on.
    """

    row: int
    id: str
    library: int
    library_id: str
    name: str | None
    query: str | None
    vector: Vectors
    score_threshold: float
    filter: bytes | None
    metadata: bytes
    version: int
    created_us: int
    updated_us: int
    position: Position
