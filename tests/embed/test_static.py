"""The static embedder as a running part: batching, cancelling, stopping, a broken model."""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import numpy as np
import pytest

from headwater.embed.bag import Bag
from headwater.embed.base import Kind
from headwater.embed.static import FOLDER, StaticEmbedder
from headwater.errors import Refused, ShuttingDown
from headwater.model import Vectors

pytestmark = pytest.mark.anyio


class Held:
    """A model that computes only when let, and says what it was given."""

    dimension = 256

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let = threading.Event()
        self.calls: list[list[str]] = []
        self._bag = Bag.load(FOLDER)

    def embed(self, texts: list[str]) -> Vectors:
        self.calls.append(list(texts))
        self.begun.set()
        assert self.let.wait(10)
        return self._bag.embed(texts)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held()
    monkeypatch.setattr(Bag, "load", lambda folder: held)
    return held


async def test_identity_is_known_before_it_runs() -> None:
    embedder = StaticEmbedder()
    assert embedder.identity.startswith("static:all-minilm-l6-v2-256-int8:")
    assert embedder.identity == StaticEmbedder().identity
    assert (embedder.name, embedder.dimension) == ("static", 256)


async def test_concurrent_requests_get_their_own_vectors() -> None:
    embedder = StaticEmbedder(at_once_chars=0)
    requests = [[f"boat {n} of {m}" for n in range(m)] for m in range(40)]
    results: dict[int, Vectors] = {}

    async def ask(index: int) -> None:
        kind: Kind = "query" if index % 3 == 0 else "document"
        results[index] = await embedder.embed(requests[index], kind)

    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        async with anyio.create_task_group() as asking:
            for index in range(len(requests)):
                asking.start_soon(ask, index)
        group.cancel_scope.cancel()
    bag = Bag.load(FOLDER)
    for index, texts in enumerate(requests):
        np.testing.assert_array_equal(results[index], bag.embed(texts))


async def test_what_waits_is_embedded_in_one_call(held: Held) -> None:
    embedder = StaticEmbedder(at_once_chars=0)
    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        group.start_soon(embedder.embed, ["first"])
        await anyio.to_thread.run_sync(held.begun.wait)
        for name in ("second", "third", "fourth"):
            group.start_soon(embedder.embed, [name])
        await anyio.wait_all_tasks_blocked()
        held.let.set()
        await embedder.embed(["last"])
        group.cancel_scope.cancel()
    assert held.calls[:2] in (
        [["first"], ["second", "third", "fourth"]],
        [["first"], ["second", "third", "fourth", "last"]],
    )


async def test_a_query_does_not_wait_for_documents(held: Held) -> None:
    embedder = StaticEmbedder(at_once_chars=0)
    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        group.start_soon(embedder.embed, ["a long stream"])
        await anyio.to_thread.run_sync(held.begun.wait)
        held.begun.clear()
        group.start_soon(embedder.embed, ["a query"], "query")
        await anyio.to_thread.run_sync(held.begun.wait)
        assert held.calls == [["a long stream"], ["a query"]]
        held.let.set()
        group.cancel_scope.cancel()


async def test_a_cancelled_request_harms_no_other(held: Held) -> None:
    embedder = StaticEmbedder(at_once_chars=0)
    answers: list[Vectors] = []

    async def ask() -> None:
        answers.append(await embedder.embed(["kept"]))

    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        group.start_soon(embedder.embed, ["first"])
        await anyio.to_thread.run_sync(held.begun.wait)
        async with anyio.create_task_group() as asking:
            with anyio.CancelScope() as scope:
                asking.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await embedder.embed(["dropped"])
            assert scope.cancelled_caught
            held.let.set()
        group.cancel_scope.cancel()
    assert answers[0].shape == (1, 256)


async def test_stopping_finishes_what_was_asked_and_refuses_more(held: Held) -> None:
    embedder = StaticEmbedder(at_once_chars=0)
    answers: list[Vectors] = []

    async def ask() -> None:
        answers.append(await embedder.embed(["asked before the end"]))

    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as group:
            await group.start(embedder.run)
            threads = [t for t in threading.enumerate() if t.name.startswith("headwater-embed")]
            outer.start_soon(ask)
            await anyio.to_thread.run_sync(held.begun.wait)
            group.cancel_scope.cancel()
            held.let.set()
        with pytest.raises(ShuttingDown):
            await embedder.embed(["too late"])
    assert answers[0].shape == (1, 256)
    assert len(threads) == 2
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, 10)
        assert not thread.is_alive()


async def test_no_texts_need_no_lane() -> None:
    assert (await StaticEmbedder().embed([])).shape == (0, 256)


async def test_a_missing_or_broken_model_refuses_to_start(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="install again"):
        StaticEmbedder(tmp_path)
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes()[:400_000])
    (tmp_path / "tokenizer.json").write_bytes((FOLDER / "tokenizer.json").read_bytes())
    embedder = StaticEmbedder(tmp_path)
    with pytest.raises(Refused, match="install again"):
        await embedder.run()
