"""A remote embedder on the fake provider, with short waits, and a clock that skips them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from embed.provider import Held, vectors

from headwater.clock import SystemClock
from headwater.embed.base import Kind
from headwater.embed.cohere import Cohere
from headwater.embed.openai import OpenAI
from headwater.embed.remote import RemoteEmbedder
from headwater.errors import EmbedderUnavailable

PROVIDERS = {"openai": OpenAI, "cohere": Cohere}
Make = Callable[..., RemoteEmbedder]


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
