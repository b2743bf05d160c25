"""Transformers that run in this process, from packages that are installed as extras.

`fastembed.py` and `sentence_transformers.py` say how a model is loaded and asked. The packages are
heavy and optional: they are imported in a thread when a library first needs them, never at start.
A query must not wait for a stream of documents: it is let in after the block at work.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import anyio
import anyio.abc
import numpy as np

from headwater.embed.base import Embedder, Kind
from headwater.errors import EmbedderFailed, EmbedderUnavailable
from headwater.model import Vectors
from headwater.threads import Lane, Pool

BLOCK_TEXTS = 32
"""Documents that are embedded before a waiting query is let in: about 70 ms of a small model."""


class LocalModel(ABC):
    """A loaded model. Used by one thread at a time."""

    fingerprint: str = ""
    """Tells models of one name apart, where something does."""

    @abstractmethod
    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """One vector per text, any float type and length."""


class LocalEmbedder(Embedder):
    """Loop only. `dimension` is known once `run` has started."""

    package: str
    """What `pip install headwater[…]` adds."""

    def __init__(self, kind: str, model: str) -> None:
        self.name = self.identity = f"{kind}:{model}"
        self.dimension = 0
        self.model = model
        self._kind = kind
        self._model: LocalModel | None = None
        self._turns = Turns()
        self._lanes: dict[Kind, Lane[Sequence[str], Vectors]] = {
            "document": Lane("model-documents", self._documents, max_batch=16),
            "query": Lane("model-queries", self._queries, max_batch=BLOCK_TEXTS),
        }

    @abstractmethod
    def load(self) -> LocalModel:
        """Import the package and load the model; in a thread, may take minutes."""

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Load, serve until cancelled, finish what was asked for.

        Raises `EmbedderFailed` when the package or the model is missing.
        """
        model, self.dimension = await Pool("model-load", 1).call(self._load)
        self._model = model
        tail = f"@{model.fingerprint}" if model.fingerprint else ""
        self.identity = f"{self.name}:{self.dimension}{tail}"
        async with anyio.create_task_group() as group:
            for lane in self._lanes.values():
                await group.start(lane.run)
            task_status.started()
            await anyio.sleep_forever()

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """Cancelling drops the result. Raises `EmbedderFailed`, `Overloaded`, `ShuttingDown`."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        wanted = [index for index, text in enumerate(texts) if text and not text.isspace()]
        if wanted:
            legal = [texts[i].encode("utf-8", "replace").decode() for i in wanted]
            vectors[wanted] = await self._lanes[kind].submit(legal)
        return vectors

    def _load(self) -> tuple[LocalModel, int]:
        try:
            model = self.load()
            return model, self._encode(model, ["word"], "document").shape[1]
        except ImportError as error:
            raise EmbedderFailed(
                f"the embedder {self.name!r} needs a package that is not installed ({error}); "
                f"pip install 'headwater[{self.package}]' and restart"
            ) from error
        except Exception as error:
            # These packages raise whatever their own parts do: files, hub, ONNX, torch.
            raise EmbedderFailed(
                f"the model {self.model!r} of {self._kind} cannot be loaded "
                f"({type(error).__name__}: {str(error)[:200]}); check its name, and that it is "
                "here or can be downloaded"
            ) from error

    def _documents(self, requests: Sequence[Sequence[str]]) -> list[Vectors]:
        texts = list(chain.from_iterable(requests))
        blocks = []
        for start in range(0, len(texts), BLOCK_TEXTS):
            with self._turns.give_way():
                blocks.append(self._answer(texts[start : start + BLOCK_TEXTS], "document"))
        return _shares(np.concatenate(blocks), requests)

    def _queries(self, requests: Sequence[Sequence[str]]) -> list[Vectors]:
        with self._turns.go_first():
            vectors = self._answer(list(chain.from_iterable(requests)), "query")
        return _shares(vectors, requests)

    def _answer(self, texts: list[str], kind: Kind) -> Vectors:
        if self._model is None:
            raise EmbedderUnavailable(f"the model {self.model!r} is not loaded; try again")
        try:
            return self._encode(self._model, texts, kind)
        except (RuntimeError, ValueError, MemoryError, OSError) as error:
            raise EmbedderFailed(
                f"the model {self.model!r} could not embed ({type(error).__name__}: "
                f"{str(error)[:200]}); the server's log may say more"
            ) from error

    def _encode(self, model: LocalModel, texts: Sequence[str], kind: Kind) -> Vectors:
        vectors: Vectors = np.array(model.encode(texts, kind), np.float32, order="C")
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise ValueError(f"{len(texts)} texts gave an array of {vectors.shape}")
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        vectors /= np.maximum(norms, np.float32(1e-12))[:, None]
        return vectors


class Turns:
    """One thread at a time; those who `go_first` before those who `give_way`. For threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._busy = False
        self._first = 0

    @contextmanager
    def go_first(self) -> Iterator[None]:
        with self._condition:
            self._first += 1
            self._condition.wait_for(lambda: not self._busy)
            self._first -= 1
            self._busy = True
        yield from self._hold()

    @contextmanager
    def give_way(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._busy and not self._first)
            self._busy = True
        yield from self._hold()

    def _hold(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()


def _shares(vectors: Vectors, requests: Sequence[Sequence[Any]]) -> list[Vectors]:
    ends = np.cumsum([len(texts) for texts in requests]).tolist()
    return [
        vectors[end - len(texts) : end].copy() for texts, end in zip(requests, ends, strict=True)
    ]
