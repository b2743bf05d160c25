"""Embedders of the package fastembed: transformers on ONNX Runtime, no torch.

An extra (`headwater[fastembed]`). A model that is not in fastembed's cache is downloaded by
fastembed when the first library uses it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from headwater.embed.base import Kind
from headwater.embed.local import BLOCK_TEXTS, LocalEmbedder, LocalModel
from headwater.model import Vectors


class FastEmbed(LocalEmbedder):
    package = "fastembed"

    def load(self) -> LocalModel:
        package = importlib.import_module("fastembed")
        return _Model(package.TextEmbedding(model_name=self.model))


class _Model(LocalModel):
    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        # Models with a prefix per kind (E5, BGE) add it in these two.
        ask = self._model.query_embed if kind == "query" else self._model.passage_embed
        if kind == "query":
            return np.stack(list(ask(list(texts))))
        return np.stack(list(ask(list(texts), batch_size=BLOCK_TEXTS)))
