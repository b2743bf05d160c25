"""The vectors that every contender stores, the queries, and which answers are right.

Made once by the static model from the texts of the other benchmarks and handed to the contenders
as files. Imports nothing but numpy at its head: it is also read inside the peers' environments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from headwater.embed.bag import Bag

K = 10
QUERIES = 4_000
SAMPLE = 500
"""So many of the queries are used for recall."""
_DECIMALS = 7
_TIE = 1e-6

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Data:
    """`vectors` float32, (n, dim), unit length; `least` is the exact k-th score of each of the
    first `SAMPLE` queries."""

    texts: list[str]
    vectors: Matrix
    queries: Matrix
    least: Matrix

    @property
    def count(self) -> int:
        return len(self.texts)

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def recall(self, found: Sequence[Sequence[str]]) -> float:
        """recall@k of the answers to the first queries. What ties with the k-th is right."""
        right = 0
        for query, least, ids in zip(self.queries, self.least, found, strict=False):
            rows = np.asarray([number(id) for id in set(ids)], np.int64)
            right += int((self.vectors[rows] @ query >= least - _TIE).sum())
        return round(right / (K * len(found)), 4)

    @classmethod
    def load(cls, folder: Path) -> Data:
        texts = json.loads((folder / "texts.json").read_text())
        arrays = [np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "least")]
        return cls(texts, *arrays)


def identifier(number: int) -> str:
    return f"doc-{number}"


def number(identifier: str) -> int:
    return int(identifier.partition("-")[2])


def numbers(vector: Matrix) -> list[float]:
    """For JSON: as few digits as give the same float32 values back, near enough to a client's."""
    rounded: list[float] = np.round(vector.astype(np.float64), _DECIMALS).tolist()
    return rounded


def prepare(folder: Path, count: int) -> Data:
    """Embed the texts and the queries, and answer the queries exactly."""
    from bench import corpus
    from headwater.embed.bag import Bag

    model = Bag.load(_model())
    texts = list(corpus.texts(count))
    vectors = _embed(model, texts)
    queries = _embed(model, corpus.queries(QUERIES))
    scores = queries[:SAMPLE] @ vectors.T
    least = np.partition(scores, -K, axis=1)[:, -K]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps(texts))
    for name, array in (("vectors", vectors), ("queries", queries), ("least", least)):
        np.save(folder / f"{name}.npy", array)
    return Data.load(folder)


def _model() -> Path:
    import headwater.embed

    return Path(headwater.embed.__path__[0]) / "static_model"


def _embed(model: Bag, texts: list[str]) -> Matrix:
    blocks = [model.embed(texts[start : start + 512]) for start in range(0, len(texts), 512)]
    return np.round(np.concatenate(blocks).astype(np.float64), _DECIMALS).astype(np.float32)
