"""The embedder of libraries whose clients send vectors.

`registry.py` gives one to each such library, with the library's dimension. It must never make a
vector up: a text without one is the caller's mistake, and the answer says what to send.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.abc
import numpy as np

from headwater.embed.base import Embedder, Kind
from headwater.errors import InvalidDocument, InvalidQuery
from headwater.model import Vectors


class NoneEmbedder(Embedder):
    """Refuses every text. `dimension` is 0 where no library is meant."""

    name = "none"
    identity = "none"

    def __init__(self, dimension: int = 0) -> None:
        self.dimension = dimension

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        await anyio.sleep_forever()

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """No texts, no vectors. Raises `InvalidDocument` or `InvalidQuery`, after `kind`."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        wanted = f"a vector of {self.dimension} numbers" if self.dimension else "a vector"
        if kind == "query":
            raise InvalidQuery(
                f"this library has no embedder (`none`): search with `vector`, {wanted}, "
                "instead of `query`"
            )
        raise InvalidDocument(
            "this library has no embedder (`none`): send `chunks` that each carry `vector`, "
            f"{wanted}"
        )
