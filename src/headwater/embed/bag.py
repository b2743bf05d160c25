"""A static embedding model: one vector per word piece, summed up, at unit length.

`static.py` runs one in its lanes; `tools/distil_model.py` measures one. It reads the layout of
model2vec (`model.safetensors`, `tokenizer.json`) and computes what model2vec's `encode` does,
several times faster and in bounded memory; a test holds the two equal. Must never reach for a
network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from headwater.embed.pieces import Pieces
from headwater.model import Vectors

MAX_CHARS = 1 << 15
"""What is beyond this many characters of one text is not looked at."""

_FEW_TOKENS = 100
_BLOCK_TEXTS = 1024
_BLOCK_CHARS = 1 << 15
"""Texts are embedded in blocks of so many; a block has at most one token per character."""


class Bag:
    """A tokenizer and a table of token vectors. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, table: NDArray[Any]) -> None:
        """`table` is (tokens, dimension), any scale; tokens without meaning have zero rows."""
        self._pieces = Pieces(tokenizer)
        self.table = np.ascontiguousarray(table, np.float32)
        self.dimension = int(self.table.shape[1])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model in `folder`, of about 30 MB. Raises when a file is missing or broken."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(tokenizer, load_file(folder / "model.safetensors")["embeddings"])

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text: float32, (n, dimension), unit length, or zero without tokens.

        The same to the bit however the texts are grouped.
        """
        if len(texts) == 1:
            return self._one(texts[0][:MAX_CHARS])
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        start = 0
        for block in _blocks(texts):
            self._sum(self._pieces.of(block), vectors[start : start + len(block)])
            start += len(block)
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        vectors /= np.maximum(norms, np.float32(1e-12))[:, None]
        return vectors

    def _one(self, text: str) -> Vectors:
        """A search's text, on the loop: numpy lets go of the GIL for more than 500 numbers, and
        waiting for it to come back from a busy lane takes longer than all of this."""
        (ids,) = self._pieces.of((text,))
        table = self.table
        if len(ids) <= _FEW_TOKENS:
            vector = np.full(self.dimension, np.float32(0))
            for token in ids:
                vector += table[token]
        else:
            vector = table.take(ids, axis=0).sum(axis=0)
        norm = np.sqrt(np.einsum("i,i->", vector, vector))
        vector /= np.maximum(norm, np.float32(1e-12))
        return vector[None, :]

    def _sum(self, ids: list[list[int]], out: Vectors) -> None:
        # Texts of one length at a time: five times as fast as np.add.reduceat over all.
        lengths = np.fromiter(map(len, ids), np.intp, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.intp, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        order = np.argsort(lengths, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
            length = lengths[same[0]]
            if length:
                places = starts[same][:, None] + np.arange(length)
                out[same] = self.table.take(flat[places], axis=0).sum(axis=1)


def _blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    block: list[str] = []
    chars = 0
    for text in texts:
        text = text[:MAX_CHARS]
        if block and (len(block) == _BLOCK_TEXTS or chars + len(text) > _BLOCK_CHARS):
            yield block
            block, chars = [], 0
        block.append(text)
        chars += len(text)
    if block:
        yield block
