"""Embedders over HTTP against a provider that is slow, refuses, lies, and dies."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest
from embed.provider import (
    KEY,
    FakeProvider,
    Held,
    Step,
    cut,
    drop,
    one_too_few,
    one_too_wide,
    refuse,
    say,
    vectors,
)
from pydantic import SecretStr

from headwater.clock import Clock, SystemClock
from headwater.embed.base import Kind
from headwater.embed.cohere import Cohere
from headwater.embed.openai import OpenAI
from headwater.embed.remote import RemoteEmbedder
from headwater.errors import EmbedderFailed, EmbedderUnavailable, Overloaded, ShuttingDown
from headwater.settings import EmbedSettings

pytestmark = pytest.mark.anyio

PROVIDERS = {"openai": OpenAI, "cohere": Cohere}


@pytest.fixture(params=sorted(PROVIDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Make = Callable[..., RemoteEmbedder]


@pytest.fixture
def make(fake: FakeProvider, kind: str) -> Make:
    """An embedder of the fake, with short waits; `settings` as keywords."""

    def make(
        dimension: int | None = 8,
        key: str | None = None,
        clock: Clock | None = None,
        **settings: Any,
    ) -> RemoteEmbedder:
        quick = {"backoff": 0.01, "backoff_max": 0.02, "linger_ms": 1, "breaker_open": 0.05}
        provider = PROVIDERS[kind]("model-1", fake.url, SecretStr(key) if key else None)
        return RemoteEmbedder(
            provider, dimension, EmbedSettings(**{**quick, **settings}), clock or SystemClock()
        )

    return make


@asynccontextmanager
async def running(embedder: RemoteEmbedder) -> AsyncIterator[RemoteEmbedder]:
    async with anyio.create_task_group() as parts:
        await parts.start(embedder.run)
        yield embedder
        parts.cancel_scope.cancel()


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def is_right(given: Any, asked: list[str], dimension: int = 8) -> bool:
    return bool(np.allclose(given, vectors(asked, dimension), atol=1e-5))


async def reached(held: Held) -> None:
    assert await anyio.to_thread.run_sync(held.reached.acquire, True, 10)


class Skipping(SystemClock):
    """Goes as the system's does, `ahead` seconds before it."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


async def answered(
    embedder: RemoteEmbedder, clock: Skipping, asked: list[str], kind: Kind = "document"
) -> Any:
    """What it answers, as soon as it does; the time it wants to wait is skipped."""
    with anyio.fail_after(20):
        while True:
            try:
                return await embedder.embed(asked, kind)
            except EmbedderUnavailable as error:
                clock.ahead += error.fields.get("retry_after_s", 0.0)


# ── What is sent ────────────────────────────────────────────────────────────────────────────────


async def test_calls_are_what_the_provider_documents(
    fake: FakeProvider, kind: str, make: Make
) -> None:
    async with running(make(dimension=None, key=KEY)) as embedder:
        assert embedder.dimension == 8
        assert embedder.identity == f"{kind}:model-1:8@127.0.0.1:{fake.port}"
        assert is_right(await embedder.embed(["a", "b"]), ["a", "b"])
        assert is_right(await embedder.embed(["c"], "query"), ["c"])
    _, document, query = fake.calls
    assert document.authorization == f"Bearer {KEY}"
    if kind == "cohere":
        assert document.path == "/v2/embed"
        assert document.body == {
            "model": "model-1",
            "texts": ["a", "b"],
            "input_type": "search_document",
            "embedding_types": ["float"],
        }
        assert query.body["input_type"] == "search_query"
    else:
        assert document.path == "/embeddings"
        assert document.body == {
            "model": "model-1",
            "input": ["a", "b"],
            "encoding_format": "base64",
        }


async def test_without_a_key_none_is_sent(fake: FakeProvider, make: Make) -> None:
    async with running(make()) as embedder:
        await embedder.embed(["a"])
    assert fake.calls[0].authorization is None


async def test_another_width_is_asked_for_when_the_model_has_its_own(
    fake: FakeProvider, kind: str, make: Make
) -> None:
    async with running(make(dimension=4)) as embedder:
        assert is_right(await embedder.embed(["a"]), ["a"], 4)
        assert is_right(await embedder.embed(["b"]), ["b"], 4)
    name = "output_dimension" if kind == "cohere" else "dimensions"
    assert [call.body.get(name) for call in fake.calls] == [None, 4, 4]


async def test_a_width_that_cannot_be_had_is_told(fake: FakeProvider, make: Make) -> None:
    fake.narrows = False
    async with running(make(dimension=4)) as embedder:
        with pytest.raises(EmbedderFailed, match=r"makes vectors of 8 dimensions.*asked for 4"):
            await embedder.embed(["a"])


async def test_base64_is_left_out_where_it_is_not_known(fake: FakeProvider) -> None:
    fake.knows_base64 = False
    provider = OpenAI("m", fake.url, None)
    async with running(RemoteEmbedder(provider, 8, EmbedSettings(), SystemClock())) as embedder:
        assert is_right(await embedder.embed(texts(5)), texts(5))
        assert is_right(await embedder.embed(["a"]), ["a"])
    assert ["encoding_format" in call.body for call in fake.calls] == [True, False, False]


async def test_requests_that_wait_share_calls(fake: FakeProvider, make: Make) -> None:
    held = Held()
    fake.script.append(held)
    async with running(make(concurrency=1, max_inputs=50)) as embedder:
        async with anyio.create_task_group() as calls:

            async def one(text: str) -> None:
                assert is_right(await embedder.embed([text]), [text])

            calls.start_soon(one, "first")
            await reached(held)
            for text in texts(100):
                calls.start_soon(one, text)
            await anyio.wait_all_tasks_blocked()
            held.let.set()
        assert [len(call.texts) for call in fake.calls] == [1, 50, 50]
        assert embedder.statistics()["inputs"] == 101


async def test_a_small_request_does_not_wait_for_the_whole_of_a_large_one(
    fake: FakeProvider, make: Make
) -> None:
    held = Held()
    fake.script.append(held)
    order: list[str] = []
    async with (
        running(make(concurrency=1, max_inputs=10)) as embedder,
        anyio.create_task_group() as calls,
    ):

        async def one(name: str, count: int) -> None:
            asked = [f"{name} {number}" for number in range(count)]
            assert is_right(await embedder.embed(asked), asked)
            order.append(name)

        calls.start_soon(one, "large", 100)
        await reached(held)
        calls.start_soon(one, "small", 3)
        await anyio.wait_all_tasks_blocked()
        held.let.set()
    assert order == ["small", "large"]


# ── Failures that pass ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "steps",
    [
        [refuse(503), refuse(500), refuse(502)],
        [refuse(429, retry_after="0.05"), refuse(429, retry_after_ms="20")],
        [drop, cut, drop],
        [one_too_few, say(b"not json"), say(b"{}")],
        [one_too_few, drop, refuse(529), say(b'{"data":[]}')],
    ],
)
async def test_a_failure_that_passes_is_not_seen(
    fake: FakeProvider, make: Make, steps: list[Step]
) -> None:
    async with running(make()) as embedder:
        fake.script += steps
        assert is_right(await embedder.embed(texts(20)), texts(20))
        figures = embedder.statistics()
    assert figures["retries"] == len(steps)
    assert figures["calls"]["count"] == len(steps) + 1
    assert sum(figures["errors"].values()) == len(steps)


async def test_retry_after_is_waited_for(fake: FakeProvider, make: Make) -> None:
    fake.script.append(refuse(429, retry_after="0.3"))
    async with running(make()) as embedder:
        began = anyio.current_time()
        await embedder.embed(["a"])
        assert anyio.current_time() - began >= 0.3


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(
    fake: FakeProvider, make: Make
) -> None:
    fake.script.append(refuse(429, retry_after="3600"))
    async with running(make()) as embedder:
        with pytest.raises(EmbedderUnavailable, match="limits the rate") as caught:
            await embedder.embed(["a"])
    assert caught.value.retryable
    assert caught.value.fields["retry_after_s"] >= 3600


async def test_a_day_of_retry_after_refuses_at_once_and_is_not_believed_for_long(
    fake: FakeProvider, make: Make
) -> None:
    fake.script.append(refuse(429, retry_after="86400"))
    clock = Skipping()
    async with running(make(clock=clock)) as embedder:
        with pytest.raises(EmbedderUnavailable, match="limits the rate"):
            await embedder.embed(["a"])
        with anyio.fail_after(5):  # well below what a query may take
            with pytest.raises(EmbedderUnavailable, match="left alone") as caught:
                await embedder.embed(["b"], "query")
        assert 0 < caught.value.fields["retry_after_s"] <= 60
        assert len(fake.calls) == 1
        clock.ahead += 61
        assert is_right(await embedder.embed(["b"], "query"), ["b"])


async def test_a_provider_that_dies_and_comes_back(fake: FakeProvider, make: Make) -> None:
    clock = Skipping()
    async with running(make(clock=clock, breaker_failures=3, retries=1)) as embedder:
        assert is_right(await embedder.embed(texts(3)), texts(3))
        await anyio.to_thread.run_sync(fake.stop)
        for _ in range(4):
            with pytest.raises(EmbedderUnavailable) as caught:
                await embedder.embed(["a"])
            assert caught.value.retryable
        breaker = embedder.statistics()["breaker"]
        assert breaker["opened"] >= 1
        fake.start()
        assert is_right(await answered(embedder, clock, texts(7)), texts(7))
        assert embedder.statistics()["breaker"]["state"] == "closed"


async def test_an_open_breaker_asks_nothing_and_one_call_tries_again(
    fake: FakeProvider, make: Make
) -> None:
    fake.every_step = refuse(500)
    clock = Skipping()
    settings = {"breaker_failures": 2, "retries": 5, "breaker_open": 60}
    async with running(make(clock=clock, **settings)) as embedder:
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed(["a"])
        assert len(fake.calls) == 2
        with pytest.raises(EmbedderUnavailable, match="left alone") as caught:
            await embedder.embed(["a"])
        assert 0 < caught.value.fields["retry_after_s"] <= 60
        assert len(fake.calls) == 2
        assert embedder.statistics()["breaker"]["state"] == "open"
        clock.ahead = 60
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed(["a"])
        assert len(fake.calls) == 3


# ── Refusals ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_batch_that_is_too_large_is_split_and_the_size_learned(
    fake: FakeProvider, make: Make, status: int
) -> None:
    fake.max_inputs, fake.too_many = 7, status
    async with running(make(concurrency=1, max_inputs=40)) as embedder:
        assert is_right(await embedder.embed(texts(40)), texts(40))
        before = len(fake.calls)
        assert is_right(await embedder.embed(texts(40)), texts(40))
        sizes = [len(call.texts) for call in fake.calls[before:]]
        assert max(sizes) <= 7
        assert embedder.statistics()["inputs_per_call"] <= 7


async def test_one_bad_text_harms_only_its_own_request(fake: FakeProvider, make: Make) -> None:
    held = Held()
    fake.script.append(held)
    async with running(make(concurrency=1)) as embedder:
        async with anyio.create_task_group() as calls:

            async def fine(text: str) -> None:
                assert is_right(await embedder.embed([text]), [text])

            async def bad() -> None:
                with pytest.raises(EmbedderFailed, match="refuses a text") as caught:
                    await embedder.embed(["", "good", "poison"])
                assert not caught.value.retryable
                assert caught.value.fields["text_index"] == 2

            calls.start_soon(fine, "first")
            await reached(held)
            for text in texts(20):
                calls.start_soon(fine, text)
            calls.start_soon(bad)
            await anyio.wait_all_tasks_blocked()
            held.let.set()
        assert embedder.statistics()["inputs_per_call"] > 20, "not the size was refused"


async def test_when_every_text_is_refused_it_is_not_asked_for_each(
    fake: FakeProvider, make: Make
) -> None:
    held = Held()
    fake.script.append(held)
    async with running(make(concurrency=1)) as embedder, anyio.create_task_group() as calls:

        async def refused(text: str) -> None:
            with pytest.raises(EmbedderFailed):
                await embedder.embed([text])

        calls.start_soon(embedder.embed, ["first"])
        await reached(held)
        fake.every_step = refuse(400, "this model does not embed")
        for text in texts(64):
            calls.start_soon(refused, text)
        await anyio.wait_all_tasks_blocked()
        held.let.set()
    assert len(fake.calls) < 25


async def test_a_wrong_key_is_told_without_showing_it(
    fake: FakeProvider, kind: str, make: Make
) -> None:
    fake.key = "another"
    async with running(make(key=KEY)) as embedder:
        with pytest.raises(EmbedderFailed, match=f"{kind.upper()}_API_KEY") as caught:
            await embedder.embed(["a"])
    assert not caught.value.retryable
    assert KEY not in str(caught.value)
    assert len(fake.calls) == 1


async def test_a_missing_model_is_told(fake: FakeProvider, make: Make) -> None:
    fake.models = {"other"}
    async with running(make()) as embedder:
        with pytest.raises(EmbedderFailed, match="does not have the model 'model-1'") as caught:
            await embedder.embed(["a"])
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "step",
    [
        one_too_few,
        one_too_wide,
        say(b"<html>"),
        say(b'{"data":"\xff"}'),
        say(b'{"more":' + b"[" * 20_000),
        say(b'{"data":[{"embedding":[1,2]},{"embedding":[1]}],"embeddings":{"float":[[1,2],[1]]}}'),
        say(
            b'{"data":[{"embedding":[1e300,0]},{"embedding":[0,1]}],'
            b'"embeddings":{"float":[[1e300,0],[0,1]]}}'
        ),
        say(b'{"data":[{"embedding":"AADAf/8="},{"embedding":"AADAfw=="}],"embeddings":{}}'),
        say(b'{"data":[{"embedding":[NaN]},{"embedding":[1]}],"embeddings":{"float":[[NaN],[1]]}}'),
    ],
)
async def test_a_wrong_answer_never_becomes_a_vector(
    fake: FakeProvider, make: Make, step: Step
) -> None:
    async with running(make(retries=1)) as embedder:
        fake.every_step = step
        with pytest.raises(EmbedderFailed):
            await embedder.embed(["a", "b"])
        fake.every_step = None
        assert is_right(await embedder.embed(["a", "b"]), ["a", "b"])


async def test_a_redirect_is_not_followed(fake: FakeProvider, make: Make) -> None:
    fake.script.append(refuse(307, location="http://127.0.0.1:9/elsewhere"))
    async with running(make(key=KEY)) as embedder:
        with pytest.raises(EmbedderFailed, match="307"):
            await embedder.embed(["a"])
    assert len(fake.calls) == 1


# ── Slowness, limits, ends ──────────────────────────────────────────────────────────────────────


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


async def test_a_provider_that_hangs_opens_the_breaker(fake: FakeProvider, make: Make) -> None:
    held = Held()
    fake.every_step = held
    settings = {"query_deadline": 0.05, "breaker_failures": 2, "breaker_open": 60}
    async with running(make(**settings)) as embedder:
        with anyio.fail_after(20):
            # A machine that stalls can use up a query's time before there is a call.
            while embedder.statistics()["breaker"]["state"] == "closed":
                with pytest.raises(EmbedderUnavailable):
                    await embedder.embed(["a"], "query")
        assert embedder.statistics()["calls"]["count"] == 2
        with pytest.raises(EmbedderUnavailable, match="left alone"):
            await embedder.embed(["a"], "query")
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


async def test_the_key_is_in_no_log_and_no_figure(
    fake: FakeProvider, make: Make, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.script += [refuse(400, f"you sent {KEY}"), refuse(418, f"Bearer {KEY} is a teapot")]
    async with running(make(key=KEY)) as embedder:
        for _ in range(2):
            with pytest.raises(EmbedderFailed) as caught:
                await embedder.embed(["a"])
            assert KEY not in repr(caught.value) + str(caught.value.fields)
        shown = repr(embedder.statistics())
    said = caplog.text + "".join(capsys.readouterr())
    assert "refuses" in said
    assert KEY not in said + shown
