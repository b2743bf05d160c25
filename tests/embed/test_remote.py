"""Embedders over HTTP: what is sent to a provider, and what never is."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.to_thread
import pytest
from embed.provider import KEY, FakeProvider, Held, refuse
from embed.remote import Make, is_right, reached, running, texts

from headwater.clock import SystemClock
from headwater.embed.openai import OpenAI
from headwater.embed.remote import RemoteEmbedder
from headwater.errors import EmbedderFailed
from headwater.settings import EmbedSettings

pytestmark = pytest.mark.anyio


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
