"""Models in this process, with stubs for the packages: missing, broken, and taking turns."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import numpy as np
import pytest
from embed.packages import stand_in
from embed.provider import vectors

from headwater.embed import Embedder
from headwater.embed.base import Kind
from headwater.embed.fastembed import FastEmbed
from headwater.embed.local import BLOCK_TEXTS, LocalEmbedder, LocalModel
from headwater.embed.sentence_transformers import SentenceTransformers, fingerprint
from headwater.errors import EmbedderFailed
from headwater.model import Vectors

pytestmark = pytest.mark.anyio


async def start(embedder: Embedder) -> None:
    """Start and stop it. Raises what the start does."""
    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        group.cancel_scope.cancel()


async def failure_of(embedder: Embedder) -> EmbedderFailed:
    with pytest.RaisesGroup(EmbedderFailed) as caught:
        await start(embedder)
    error = caught.value.exceptions[0]
    assert isinstance(error, EmbedderFailed)
    return error


@pytest.mark.parametrize(
    ("make", "extra"),
    [
        (lambda: FastEmbed("fastembed", "m"), "fastembed"),
        (
            lambda: SentenceTransformers("sentence-transformers", "m"),
            "sentence-transformers",
        ),
    ],
)
async def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    make: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, extra.replace("-", "_"), None)
    error = await failure_of(make())
    assert f"pip install 'headwater[{extra}]'" in error.detail
    assert not error.retryable


async def test_a_model_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model_name: str) -> None:
        raise ValueError(f"Model {model_name} is not supported")

    stand_in(monkeypatch, "fastembed", TextEmbedding=load)
    error = await failure_of(FastEmbed("fastembed", "magic"))
    assert "'magic' of fastembed cannot be loaded (ValueError: Model magic" in error.detail


class _Fast:
    """What fastembed's `TextEmbedding` is asked."""

    asked: ClassVar[list[tuple[str, list[str]]]] = []

    def __init__(self, model_name: str) -> None:
        self.asked.clear()

    def embed(self, texts: list[str], batch_size: int) -> Vectors:
        return self._told("embed", texts)

    def passage_embed(self, texts: list[str], batch_size: int) -> Vectors:
        return self._told("passage_embed", texts)

    def query_embed(self, texts: list[str]) -> Vectors:
        return self._told("query_embed", texts)

    def _told(self, method: str, texts: list[str]) -> Vectors:
        self.asked.append((method, texts))
        return vectors(texts)


async def _asked(model: str, monkeypatch: pytest.MonkeyPatch) -> FastEmbed:
    """An embedder that was asked for "a" as a document and as a query; `_Fast.asked` says how."""
    stand_in(monkeypatch, "fastembed", TextEmbedding=_Fast)
    embedder = FastEmbed("fastembed", model)
    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        _Fast.asked.clear()
        await embedder.embed(["a"])
        await embedder.embed(["a"], "query")
        group.cancel_scope.cancel()
    return embedder


@pytest.mark.parametrize(
    ("model", "document", "query"),
    [
        ("intfloat/multilingual-e5-large", "passage: a", "query: a"),
        ("Nomic-AI/nomic-embed-text-v1.5-Q", "search_document: a", "search_query: a"),
        (
            "snowflake/snowflake-arctic-embed-s",
            "a",
            "Represent this sentence for searching relevant passages: a",
        ),
    ],
)
async def test_fastembed_gets_what_its_model_wants_before_a_text(
    model: str, document: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = await _asked(model, monkeypatch)
    assert _Fast.asked == [("embed", [document]), ("embed", [query])]
    # Other vectors of documents are another identity; those of queries are not kept.
    assert embedder.identity.endswith("@prefixed") is (document != "a")


async def test_fastembed_is_left_to_itself_with_a_model_that_wants_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedder = await _asked("jinaai/jina-embeddings-v3", monkeypatch)
    assert _Fast.asked == [("passage_embed", ["a"]), ("query_embed", ["a"])]
    assert embedder.identity == "fastembed:jinaai/jina-embeddings-v3:8"


class _Model(LocalModel):
    """Waits in `block` for each batch of documents, says what it was given, checks its turns."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.block: threading.Semaphore | None = None
        self.calls: list[tuple[Kind, int]] = []
        self.inside = threading.Lock()
        self.broken = False

    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        assert self.inside.acquire(blocking=False), "one thread at a time"
        try:
            self.calls.append((kind, len(texts)))
            self.begun.release()
            if self.block is not None and kind == "document":
                assert self.block.acquire(timeout=10)
            if self.broken:
                raise RuntimeError("CUDA out of memory")
            return vectors(texts) * 4
        finally:
            self.inside.release()


class _Announcing(threading.Condition):
    """Says when a thread has begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()
        return super().wait(timeout)


class _Embedder(LocalEmbedder):
    package = "stub"

    def __init__(self, stub: _Model) -> None:
        super().__init__("stub", "m")
        self.stub = stub

    def load(self) -> LocalModel:
        return self.stub


async def test_a_query_goes_before_the_next_block_of_documents() -> None:
    stub = _Model()
    embedder = _Embedder(stub)
    embedder._turns._condition = condition = _Announcing()
    texts = [f"text {number}" for number in range(4 * BLOCK_TEXTS)]
    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        assert embedder.identity == "stub:m:8"
        stub.block = threading.Semaphore(0)
        stub.calls.clear()
        async with anyio.create_task_group() as calls:

            async def documents() -> None:
                assert np.allclose(await embedder.embed(texts), vectors(texts), atol=1e-6)

            async def query(done: anyio.Event) -> None:
                found = await embedder.embed(["a query"], "query")
                assert np.allclose(found, vectors(["a query"]), atol=1e-6)
                done.set()

            calls.start_soon(documents)
            for _ in range(2):  # the word at the start, and the first block
                assert await anyio.to_thread.run_sync(stub.begun.acquire, True, 10)
            done = anyio.Event()
            calls.start_soon(query, done)
            # The query waits for its turn: nobody else does, and the block is still at work.
            assert await anyio.to_thread.run_sync(condition.waits.acquire, True, 10)
            stub.block.release()
            with anyio.fail_after(10):
                await done.wait()
            for _ in range(3):
                stub.block.release()
        group.cancel_scope.cancel()
    assert stub.calls[:2] == [("document", BLOCK_TEXTS), ("query", 1)]
    assert stub.calls[2:] == [("document", BLOCK_TEXTS)] * 3


async def test_a_model_that_breaks_is_told_and_goes_on() -> None:
    stub = _Model()
    embedder = _Embedder(stub)
    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        stub.broken = True
        with pytest.raises(EmbedderFailed, match="CUDA out of memory"):
            await embedder.embed(["a"])
        stub.broken = False
        assert (await embedder.embed(["a"])).shape == (1, 8)
        group.cancel_scope.cancel()


def test_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "hub-name") == ""
    (tmp_path / "model.safetensors").write_bytes(b"\1" * (3 << 20))
    (tmp_path / "config.json").write_text("{}")
    first = fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("words")
    assert fingerprint(tmp_path) == first
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\2")
    assert fingerprint(tmp_path) != first
