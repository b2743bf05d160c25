"""Embedders of the package fastembed: transformers on ONNX Runtime, no torch.

An extra (`headwater[fastembed]`). A model that is not in fastembed's cache is downloaded by
fastembed when the first library uses it. What a model wants before a query or a document is put
there here: of all its models fastembed does so for one (Jina's third).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from headwater.embed.base import Kind
from headwater.embed.local import BLOCK_TEXTS, LocalEmbedder, LocalModel
from headwater.model import Vectors


class Prefixes(NamedTuple):
    query: str
    document: str = ""


_SENTENCE = Prefixes("Represent this sentence for searching relevant passages: ")
_QUESTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query"

_PREFIXES = (
    ("baai/bge-*-en", _SENTENCE),
    ("baai/bge-*-en-v1.5", _SENTENCE),
    ("baai/bge-*-zh-v1.5", Prefixes("为这个句子生成表示以用于检索相关文章：")),
    ("google/embeddinggemma-*", Prefixes("task: search result | query: ", "title: none | text: ")),
    ("intfloat/*e5-*", Prefixes("query: ", "passage: ")),
    ("mixedbread-ai/mxbai-embed-large-v1", _SENTENCE),
    ("nomic-ai/nomic-embed-text-v1*", Prefixes("search_query: ", "search_document: ")),
    ("qwen/qwen3-embedding-*", Prefixes(f"{_QUESTION}\nQuery:")),
    ("snowflake/snowflake-arctic-embed-*", _SENTENCE),
)
"""As the models' cards say, for names in small letters; fastembed takes them in any."""


def prefixes(model: str) -> Prefixes | None:
    """What `model` was trained with before each text; None when it is nothing, or not known."""
    name = model.lower()
    return next((found for pattern, found in _PREFIXES if fnmatchcase(name, pattern)), None)


class FastEmbed(LocalEmbedder):
    package = "fastembed"

    def load(self) -> LocalModel:
        package = importlib.import_module("fastembed")
        return _Model(package.TextEmbedding(model_name=self.model), prefixes(self.model))


class _Model(LocalModel):
    def __init__(self, model: Any, prefixes: Prefixes | None) -> None:
        self._model = model
        self._prefixes = prefixes
        if prefixes is not None and prefixes.document:
            self.fingerprint = "prefixed"  # other vectors than without

    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        if self._prefixes is not None:
            prefix = self._prefixes.query if kind == "query" else self._prefixes.document
            asked = [prefix + text for text in texts]
            return np.stack(list(self._model.embed(asked, batch_size=BLOCK_TEXTS)))
        if kind == "query":
            return np.stack(list(self._model.query_embed(list(texts))))
        return np.stack(list(self._model.passage_embed(list(texts), batch_size=BLOCK_TEXTS)))
