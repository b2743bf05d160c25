"""An embedder plug-in: the worked example of docs/embedders.md, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import anyio
import anyio.abc
import numpy as np

from headwater.embed import Embedder, Kind
from headwater.model import Vectors


class Letters(Embedder):
    """Counts pairs of letters: silly, quick, and it finds misspelt words."""

    def __init__(self, model: str) -> None:
        self.name = "letters"
        self.dimension = int(model or 512)
        self.identity = f"letters:1:{self.dimension}"

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()  # load the model before this
        await anyio.sleep_forever()

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            word = f" {text.strip()} "
            for first, second in pairwise(word):
                if word != "  ":
                    row[(ord(first) * 31 + ord(second)) % self.dimension] += 1
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return vectors
