"""Embedders of the package sentence-transformers, by hub name or by folder.

An extra (`headwater[sentence-transformers]`). A folder's files are fingerprinted into the
identity, so that another model put into the same folder is noticed. Code that comes with a model
is never run.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headwater.embed.base import Kind
from headwater.embed.local import BLOCK_TEXTS, LocalEmbedder, LocalModel
from headwater.model import Vectors

_ENDS_BYTES = 1 << 20


class SentenceTransformers(LocalEmbedder):
    package = "sentence-transformers"

    def load(self) -> LocalModel:
        package = importlib.import_module("sentence_transformers")
        model = package.SentenceTransformer(self.model, trust_remote_code=False)
        return _Model(model, fingerprint(Path(self.model)))


class _Model(LocalModel):
    def __init__(self, model: Any, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._encode = {
            "query": getattr(model, "encode_query", model.encode),
            "document": getattr(model, "encode_document", model.encode),
        }

    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        found: Vectors = self._encode[kind](
            list(texts),
            batch_size=BLOCK_TEXTS,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(found, np.float32)


def fingerprint(folder: Path) -> str:
    """Twelve digits of names, sizes, and both ends of each file; empty when it is no folder."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix.lower() == ".md":
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_ENDS_BYTES))
            if size > _ENDS_BYTES:
                file.seek(-_ENDS_BYTES, 2)
                digest.update(file.read(_ENDS_BYTES))
    return digest.hexdigest()[:12]
