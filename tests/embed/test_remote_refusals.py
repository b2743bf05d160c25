"""Remote embedders whose provider refuses, or answers what no embedder may."""

from __future__ import annotations

import json

import anyio
import anyio.to_thread
import numpy as np
import pytest
from embed.provider import (
    KEY,
    FakeProvider,
    Handler,
    Held,
    Seen,
    Step,
    one_too_few,
    one_too_wide,
    refuse,
    say,
    vectors,
)
from embed.remote import Make, is_right, reached, running, texts

from headwater.errors import EmbedderFailed, EmbedderUnavailable, HeadwaterError

pytestmark = pytest.mark.anyio


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


async def beside_good_ones(
    fake: FakeProvider, make: Make, texts_of_one: list[str], said: str, step: Step | None = None
) -> EmbedderFailed:
    """The error of one request that lies in a batch with others, which are all answered.

    The provider takes `step` before every answer but the first.
    """
    held = Held()
    fake.script.append(held)
    errors: list[EmbedderFailed] = []
    async with running(make(concurrency=1)) as embedder:
        async with anyio.create_task_group() as calls:

            async def fine(text: str) -> None:
                assert is_right(await embedder.embed([text]), [text])

            async def bad() -> None:
                with pytest.raises(EmbedderFailed, match=said) as caught:
                    await embedder.embed(texts_of_one)
                errors.append(caught.value)

            calls.start_soon(fine, "first")
            await reached(held)
            fake.every_step = step
            for text in texts(20):
                calls.start_soon(fine, text)
            calls.start_soon(bad)
            await anyio.wait_all_tasks_blocked()
            held.let.set()
        assert embedder.statistics()["inputs_per_call"] > 20, "not the size was wrong"
    return errors[0]


async def test_one_bad_text_harms_only_its_own_request(fake: FakeProvider, make: Make) -> None:
    error = await beside_good_ones(fake, make, ["", "good", "poison"], "refuses a text")
    assert not error.retryable
    assert error.fields["text_index"] == 2


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


async def test_a_text_that_gets_wrong_answers_harms_only_its_own_request(
    fake: FakeProvider, make: Make
) -> None:
    def not_finite(handler: Handler, seen: Seen) -> bool:
        if "odd" not in seen.texts:
            return False
        found = vectors(seen.texts)
        found[seen.texts.index("odd")] = np.nan
        handler.answer_with(seen, found)
        return True

    error = await beside_good_ones(fake, make, ["", "good", "odd"], "answered", not_finite)
    assert error.retryable
    assert error.fields["text_index"] == 2
    assert len(fake.calls) < 20


@pytest.mark.parametrize(
    "said",
    ["the input length exceeds the context length", "json: unsupported value: NaN"],
)
async def test_a_500_that_is_about_a_text_is_a_refusal_of_it(
    fake: FakeProvider, make: Make, said: str
) -> None:
    def step(handler: Handler, seen: Seen) -> bool:
        return "odd" in seen.texts and refuse(500, said)(handler, seen)

    fake.every_step = step
    async with running(make()) as embedder:
        with pytest.raises(EmbedderFailed, match="refuses a text") as caught:
            await embedder.embed(["good", "odd"])
    assert not caught.value.retryable
    assert caught.value.fields["text_index"] == 1
    assert len(fake.calls) == 3


async def test_a_redirect_is_not_followed(fake: FakeProvider, make: Make) -> None:
    fake.script.append(refuse(307, location="http://127.0.0.1:9/elsewhere"))
    async with running(make(key=KEY)) as embedder:
        with pytest.raises(EmbedderFailed, match="307"):
            await embedder.embed(["a"])
    assert len(fake.calls) == 1


async def test_a_redirect_is_told_with_where_it_leads_and_without_its_query(
    fake: FakeProvider, kind: str, make: Make
) -> None:
    fake.script.append(refuse(308, location="https://me:pw@new.example/v1/there?token=hush"))
    async with running(make(key=KEY)) as embedder:
        with pytest.raises(EmbedderFailed, match=r"https://new\.example/v1/there") as caught:
            await embedder.embed(["a"])
    assert f"HEADWATER_EMBED__{kind.upper()}_BASE_URL" in caught.value.detail
    assert "hush" not in caught.value.detail
    assert "pw@" not in caught.value.detail


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 200])
async def test_what_a_provider_says_is_told_without_an_end_of_the_key(
    fake: FakeProvider, make: Make, status: int
) -> None:
    said = f"Your quota is used up, {KEY[:9]}********{KEY[-4:]}, and {KEY}."
    async with running(make(key=KEY, retries=0)) as embedder:
        fake.script.append(refuse(status, said))
        with pytest.raises(HeadwaterError, match="Your quota is used up, … and …") as caught:
            await embedder.embed(["a"])
    for end in (KEY, KEY[:9], KEY[-4:]):
        assert end not in str(caught.value)
        assert end not in str(caught.value.__cause__)


async def test_a_right_that_a_key_lacks_is_told_as_that(fake: FakeProvider, make: Make) -> None:
    fake.script.append(refuse(403, "Project p has no access to model m"))
    async with running(make(key=KEY)) as embedder:
        with pytest.raises(EmbedderFailed, match="Project p has no access to model m"):
            await embedder.embed(["a"])


async def test_texts_that_a_refusal_repeats_are_not_told(fake: FakeProvider, make: Make) -> None:
    def fastapi(handler: Handler, seen: Seen) -> bool:
        wrong = {"type": "list_too_long", "loc": ["body", "input"], "msg": "at most 32 items"}
        body = {"detail": [wrong | {"input": seen.texts}]}
        handler.answer(422, json.dumps(body).encode(), {})
        return True

    fake.script.append(fastapi)
    async with running(make()) as embedder:
        with pytest.raises(EmbedderFailed, match="at most 32 items at ") as caught:
            await embedder.embed(["my diary"])
    assert "diary" not in caught.value.detail


async def test_the_page_of_a_proxy_is_not_quoted(fake: FakeProvider, make: Make) -> None:
    def page(handler: Handler, seen: Seen) -> bool:
        handler.answer(502, b"<html><h1>502 Bad Gateway</h1></html>", {})
        return True

    fake.script.append(page)
    async with running(make(retries=0)) as embedder:
        with pytest.raises(EmbedderUnavailable, match=r"of its own \(502\); try again later"):
            await embedder.embed(["a"])
