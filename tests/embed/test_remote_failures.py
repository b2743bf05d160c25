"""Remote embedders whose provider fails in passing: retries, their waits, and the breaker."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest
from embed.provider import FakeProvider, Held, Step, cut, drop, one_too_few, refuse, say
from embed.remote import Make, Skipping, answered, is_right, running, texts

from headwater.errors import EmbedderUnavailable

pytestmark = pytest.mark.anyio


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
