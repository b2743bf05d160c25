"""The bundled embedder: offline, no key, fast enough to hide behind the store.

`registry.py` makes one per server. It owns two lanes, so that a search never waits for a stream of
documents, and both share one model. It must never reach for a network: the model is package data,
described in `static_model/MODEL_CARD.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import anyio
import anyio.abc
import numpy as np
from safetensors import SafetensorError

from headwater.embed.bag import Bag
from headwater.embed.base import Embedder, Kind
from headwater.errors import EmbedderFailed, Refused
from headwater.model import Vectors
from headwater.threads import Lane, Pool

FOLDER = Path(__file__).parent / "static_model"

AT_ONCE_CHARS = 400
"""Up to this many characters are embedded on the loop: some 30 to 80 µs, which is what crossing to
a lane and back costs the loop itself, and no wait for the lane's turn at the interpreter."""


class StaticEmbedder(Embedder):
    """A static model distilled from all-MiniLM-L6-v2. Loop only.

    Of each text the first 32,768 characters are read. `kind` makes no difference to a vector.
    """

    name = "static"
    dimension = 256

    def __init__(self, folder: Path = FOLDER, *, at_once_chars: int = AT_ONCE_CHARS) -> None:
        """Raises `Refused` when the model file is missing."""
        self._folder = folder
        self._at_once_chars = at_once_chars
        self._running = False
        self._bag: Bag | None = None
        try:
            digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        except OSError as error:
            raise _broken(folder, error) from error
        self.identity = f"static:all-minilm-l6-v2-256-int8:{digest[:12]}"
        self._lanes: dict[Kind, Lane[Sequence[str], Vectors]] = {
            "document": Lane("embed-documents", self._embed, max_batch=64),
            "query": Lane("embed-queries", self._embed),
        }

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Load the model, serve until cancelled, finish what was asked for.

        Raises `Refused` when the model cannot be loaded.
        """
        if self._bag is None:
            self._bag = await Pool("embed-load", 1).call(_load, self._folder, self.dimension)
        async with anyio.create_task_group() as group:
            for lane in self._lanes.values():
                await group.start(lane.run)
            self._running = True
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._running = False

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """Cancelling drops the result. The caller must not change `texts` while it waits.

        Raises `ShuttingDown` when not running, `Overloaded` when too many wait.
        """
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        if self._running and self._bag and sum(map(len, texts)) <= self._at_once_chars:
            return self._bag.embed(texts)
        return await self._lanes[kind].submit(texts)

    def _embed(self, requests: Sequence[Sequence[str]]) -> list[Vectors]:
        if self._bag is None:
            raise EmbedderFailed("the static model is not loaded; try again in a moment")
        if len(requests) == 1:
            return [self._bag.embed(requests[0])]
        vectors = self._bag.embed(list(chain.from_iterable(requests)))
        ends = np.cumsum([len(texts) for texts in requests]).tolist()
        # Copies: a view of one row would keep the whole batch in memory.
        return [
            vectors[end - len(texts) : end].copy()
            for texts, end in zip(requests, ends, strict=True)
        ]


def _load(folder: Path, dimension: int) -> Bag:
    try:
        bag = Bag.load(folder)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _broken(folder, error) from error
    if bag.dimension != dimension:
        raise _broken(folder, f"{bag.dimension} dimensions instead of {dimension}")
    return bag


def _broken(folder: Path, reason: object) -> Refused:
    return Refused(f"the bundled model in {folder} cannot be read ({reason}); install again")
