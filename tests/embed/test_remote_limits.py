"""Remote embedders under pressure: deadlines, queues, rates, cancelled calls, the end."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest
from embed.provider import FakeProvider, Held, cut, drop, one_too_few, refuse
from embed.remote import Make, Skipping, answered, is_right, reached, running, texts

from headwater.errors import EmbedderUnavailable, Overloaded, ShuttingDown

pytestmark = pytest.mark.anyio


async def test_queries_do_not_wait_for_documents(fake: FakeProvider, make: Make) -> None:
    held = Held()
    async with (
        running(make(concurrency=2, max_inputs=4)) as embedder,
        anyio.create_task_group() as calls,
    ):
        fake.script += [held, held]

        async def documents() -> None:
            assert is_right(await embedder.embed(texts(40)), texts(40))

        calls.start_soon(documents)
        await reached(held)
        await reached(held)
        with anyio.fail_after(15):
            for text in texts(20):
                assert is_right(await embedder.embed([text], "query"), [text])
        assert embedder.statistics()["waiting"]["document"] == 32
        held.let.set()


async def test_the_deadline_of_a_query_holds(fake: FakeProvider, make: Make) -> None:
    held = Held()
    clock = Skipping()
    async with running(make(clock=clock, query_deadline=0.2)) as embedder:
        fake.script.append(held)
        with anyio.fail_after(15):
            with pytest.raises(EmbedderUnavailable, match=r"within 0\.2 seconds"):
                await embedder.embed(["a"], "query")
        held.let.set()
        assert is_right(await answered(embedder, clock, ["a"], "query"), ["a"])


async def test_too_much_waiting_is_refused(fake: FakeProvider, make: Make) -> None:
    held = Held()
    fake.script.append(held)
    async with running(make(concurrency=1, max_waiting=10, max_inputs=1)) as embedder:
        async with anyio.create_task_group() as calls:
            calls.start_soon(embedder.embed, texts(12))
            await reached(held)
            with pytest.raises(Overloaded, match="11 texts wait"):
                await embedder.embed(["a"])
            held.let.set()
        assert is_right(await embedder.embed(["a"]), ["a"])


async def test_a_cancelled_request_takes_back_what_was_not_sent(
    fake: FakeProvider, make: Make
) -> None:
    held = Held()
    fake.script.append(held)
    async with running(make(concurrency=1, max_inputs=5)) as embedder:
        async with anyio.create_task_group() as calls:
            calls.start_soon(embedder.embed, texts(50))
            await reached(held)
            calls.cancel_scope.cancel()
        assert embedder.statistics()["waiting"]["document"] == 0
        held.let.set()
        assert is_right(await embedder.embed(["a"]), ["a"])
    assert len(fake.texts) == 6


async def test_a_call_that_nobody_waits_for_makes_room(fake: FakeProvider, make: Make) -> None:
    held = Held()
    fake.script += [held, held]
    async with running(make(concurrency=1, breaker_failures=1)) as embedder:
        for _ in range(2):
            async with anyio.create_task_group() as calls:
                calls.start_soon(embedder.embed, texts(3))
                await reached(held)
                calls.cancel_scope.cancel()
        with anyio.fail_after(15):
            assert is_right(await embedder.embed(["a"]), ["a"])
        assert embedder.statistics()["breaker"]["opened"] == 0
        held.let.set()


async def test_the_rate_is_kept(fake: FakeProvider, make: Make) -> None:
    # 60 a second; three seconds' worth may go at once, the next 30 take half a second.
    async with running(make(inputs_per_minute=3600, max_inputs=10)) as embedder:
        began = anyio.current_time()
        assert is_right(await embedder.embed(texts(210)), texts(210))
        assert anyio.current_time() - began >= 0.4


async def test_a_large_request_may_take_longer_than_the_deadline(
    fake: FakeProvider, make: Make
) -> None:
    # 60 at once, then 20 a second would take 1.5 s: it gets somewhere all the time. By so small
    # steps that a call may take most of the deadline, as it does on a busy machine.
    settings = {"inputs_per_minute": 1200, "max_inputs": 2, "document_deadline": 1.0}
    async with running(make(**settings)) as embedder:
        began = anyio.current_time()
        assert is_right(await embedder.embed(texts(90)), texts(90))
        assert anyio.current_time() - began > 1.0


async def test_when_it_stops_who_waits_is_told(fake: FakeProvider, make: Make) -> None:
    held = Held()
    fake.script.append(held)
    embedder = make()
    told: list[bool] = []

    async def one() -> None:
        with pytest.raises(ShuttingDown):
            await embedder.embed(["a"])
        told.append(True)

    async with anyio.create_task_group() as calls:
        async with running(embedder):
            calls.start_soon(one)
            await reached(held)
        held.let.set()
    assert told == [True]
    with pytest.raises(ShuttingDown):
        await embedder.embed(["a"])


async def test_everything_at_once_loses_nothing(fake: FakeProvider, make: Make) -> None:
    """Refusals, drops, wrong answers and a size limit, under many requests of both kinds."""
    fake.max_inputs = 13
    bad = [refuse(503), drop, one_too_few, refuse(429, retry_after_ms="5"), cut, refuse(500)]
    fake.script += [step for number in range(60) for step in (bad[number % len(bad)], _right)]
    async with (
        running(make(retries=20, breaker_failures=100, max_inputs=32)) as embedder,
        anyio.create_task_group() as calls,
    ):

        async def one(number: int) -> None:
            asked = [f"{number} {index}" for index in range(1 + number * 7 % 40)]
            found = await embedder.embed(asked, "query" if number % 3 == 0 else "document")
            assert is_right(found, asked)

        for number in range(60):
            calls.start_soon(one, number)
    assert not fake.script


def _right(handler: Any, seen: Any) -> bool:
    return False
