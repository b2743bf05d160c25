"""An embedder as the server runs it: when it starts, what it remembers, what it lets through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import numpy as np
import pytest
from embed.plugin import Letters

from headwater.embed import Embedder
from headwater.embed.base import Kind
from headwater.embed.hosted import Hosted
from headwater.embed.query_cache import QueryCache
from headwater.errors import EmbedderFailed, EmbedderUnavailable, ShuttingDown
from headwater.model import Vectors

pytestmark = pytest.mark.anyio


class HandClock:
    """Stands still unless moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return round(self.now * 1e6)

    def uuid7(self) -> str:
        raise NotImplementedError


class Counted(Letters):
    """Says what it was asked, breaks when told to."""

    def __init__(self) -> None:
        super().__init__("16")
        self.starts = 0
        self.asked: list[tuple[Kind, list[str]]] = []
        self.start_error: BaseException | None = None
        self.error: Exception | None = None
        self.change: Callable[[Vectors], Any] = lambda vectors: vectors
        self.ended = anyio.Event()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self.starts += 1
        if self.start_error is not None:
            raise self.start_error
        self.ended = anyio.Event()
        task_status.started()
        await self.ended.wait()
        raise RuntimeError("it broke at work")

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        self.asked.append((kind, list(texts)))
        if self.error is not None:
            raise self.error
        changed: Vectors = self.change(await super().embed(texts, kind))
        return changed


@pytest.fixture
def inner() -> Counted:
    return Counted()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@asynccontextmanager
async def hosting(
    inner: Embedder, clock: HandClock, cache_bytes: int = 1 << 20
) -> AsyncIterator[Hosted]:
    hosted = Hosted("letters", lambda: inner, QueryCache(cache_bytes), clock)
    async with anyio.create_task_group() as group:
        await group.start(hosted.run)
        yield hosted
        group.cancel_scope.cancel()


async def test_it_starts_once_when_first_needed(inner: Counted, clock: HandClock) -> None:
    async with hosting(inner, clock) as hosted:
        assert (inner.starts, hosted.state) == (0, "idle")
        async with anyio.create_task_group() as calls:
            for number in range(5):
                calls.start_soon(hosted.embed, [f"text {number}"])
        assert (inner.starts, hosted.state) == (1, "running")
        assert (hosted.identity, hosted.dimension) == (inner.identity, 16)


async def test_a_request_that_ends_does_not_end_the_start(clock: HandClock) -> None:
    gate = anyio.Event()

    class Slow(Letters):
        async def run(
            self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
        ) -> None:
            await gate.wait()
            await super().run(task_status=task_status)

    async with hosting(Slow("16"), clock) as hosted:
        async with anyio.create_task_group() as calls:
            calls.start_soon(hosted.embed, ["a"])
            await anyio.wait_all_tasks_blocked()
            calls.cancel_scope.cancel()
        assert hosted.state == "starting"
        gate.set()
        assert (await hosted.embed(["a"])).shape == (1, 16)


async def test_one_that_ends_the_process_at_its_start_ends_itself_only(
    inner: Counted, clock: HandClock
) -> None:
    inner.start_error = SystemExit(3)
    async with hosting(inner, clock) as hosted:
        with pytest.raises(EmbedderFailed, match="SystemExit"):
            await hosted.embed(["a"])


async def test_a_dimension_of_numpy_becomes_a_plain_one(inner: Counted, clock: HandClock) -> None:
    async with hosting(inner, clock) as hosted:
        inner.dimension = np.int64(16)  # type: ignore[assignment]  # as a careless plug-in does
        await hosted.ready()
        assert type(hosted.dimension) is int


async def test_a_failed_start_is_told_and_tried_again_later(
    inner: Counted, clock: HandClock
) -> None:
    inner.start_error = EmbedderUnavailable("the provider sleeps")
    async with hosting(inner, clock) as hosted:
        for _ in range(3):
            with pytest.raises(EmbedderUnavailable, match="the provider sleeps"):
                await hosted.embed(["a"])
        assert (inner.starts, hosted.state) == (1, "failed")
        clock.now += 6
        inner.start_error = None
        await hosted.embed(["a"])
        assert (inner.starts, hosted.state) == (2, "running")


async def test_one_that_breaks_at_work_is_started_anew(inner: Counted, clock: HandClock) -> None:
    async with hosting(inner, clock) as hosted:
        await hosted.embed(["a"])
        inner.ended.set()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(EmbedderFailed, match="it broke at work") as caught:
            await hosted.embed(["a"])
        assert caught.value.retryable, "or a document of this moment would be put aside for hours"
        clock.now += 6
        await hosted.embed(["a"])
        assert inner.starts == 2


async def test_a_foreign_error_is_told_as_ours(inner: Counted, clock: HandClock) -> None:
    async with hosting(inner, clock) as hosted:
        inner.error = KeyError("tokens")
        with pytest.raises(EmbedderFailed, match="broke \\(KeyError\\)"):
            await hosted.embed(["a"])
        assert hosted.statistics()["errors"] == {"embedder_failed": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda vectors: vectors[1:],
        lambda vectors: vectors[:, 1:],
        lambda vectors: vectors.astype(np.float64),
        lambda vectors: vectors * np.float32("nan"),
        lambda vectors: vectors[0],
        lambda vectors: vectors.tolist(),
        lambda vectors: None,
    ],
)
@pytest.mark.parametrize("kind", ["document", "query"])
async def test_wrong_vectors_do_not_get_through(
    inner: Counted, clock: HandClock, change: Callable[[Vectors], Any], kind: Kind
) -> None:
    async with hosting(inner, clock) as hosted:
        inner.change = change
        with pytest.raises(EmbedderFailed):
            await hosted.embed(["a", "b"], kind)
        inner.change = lambda vectors: vectors
        assert (await hosted.embed(["a", "b"], kind)).shape == (2, 16)


async def test_queries_are_remembered_and_documents_are_not(
    inner: Counted, clock: HandClock
) -> None:
    async with hosting(inner, clock) as hosted:
        first = await hosted.embed(["a boat", "a tree"], "query")
        again = await hosted.embed(["a tree", "a house", "a boat"], "query")
        assert np.array_equal(again[[2, 0]], first)
        assert np.array_equal(again[1:2], await inner.embed(["a house"]))
        again[:] = 7
        assert np.array_equal(await hosted.embed(["a boat", "a tree"], "query"), first)
        await hosted.embed(["a boat"])
        await hosted.embed(["a boat"])
        assert [texts for _, texts in inner.asked] == [
            ["a boat", "a tree"],
            ["a house"],
            ["a house"],
            ["a boat"],
            ["a boat"],
        ]


async def test_before_and_after_it_runs_it_says_so(inner: Counted, clock: HandClock) -> None:
    hosted = Hosted("letters", lambda: inner, QueryCache(0), clock)
    with pytest.raises(ShuttingDown):
        await hosted.embed(["a"])
    async with anyio.create_task_group() as group:
        await group.start(hosted.run)
        await hosted.embed(["a"])
        group.cancel_scope.cancel()
    with pytest.raises(ShuttingDown):
        await hosted.embed(["a"])


def test_the_cache_keeps_to_its_bytes_and_drops_the_least_used() -> None:
    cache = QueryCache(4_000)
    vector = np.ones(64, np.float32)
    for number in range(5):
        cache.put("m", f"text {number}", vector)
    assert cache.get("m", "text 0") is not None
    for number in range(5, 8):
        cache.put("m", f"text {number}", vector)
    assert cache.statistics()["bytes"] <= 4_000
    assert cache.get("m", "text 0") is not None
    assert cache.get("m", "text 1") is None
    assert cache.get("another", "text 0") is None
    cache.put("m", "far too long", np.ones(5_000, np.float32))
    assert cache.get("m", "far too long") is None


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = QueryCache(0)
    cache.put("m", "text", np.ones(4, np.float32))
    assert cache.get("m", "text") is None
