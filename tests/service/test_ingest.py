"""Streams that break off while the store fails: what is raised, and what becomes of the batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from service.whole import whole

from headwater.app import Parts
from headwater.errors import StoreFailed
from headwater.model import Change, Library
from headwater.store.batch_commands import EndBatch

BATCHES = ("batch.started", "batch.completed", "batch.failed")

pytestmark = pytest.mark.anyio


async def nobody(_: bytes) -> None:
    """A client that takes every line."""


async def stream(parts: Parts, library: Library, body: AsyncIterator[bytes], batch: str) -> None:
    await parts.ingest.run(
        library, body, nobody, response="results", batch_id=batch, searchable=False
    )


async def batches(parts: Parts, library: Library) -> list[tuple[str, str | None]]:
    page = await parts.log.store.read(
        lambda reader: reader.log(0, 1_000, library_ids={library.id}, types=BATCHES)
    )
    return [(change.type, change.subject) for change in page.changes]


async def heard(parts: Parts, type: str) -> Change:
    """The first change of that type, as soon as there is one."""
    with anyio.fail_after(30):
        while True:
            head = parts.log.head
            page = await parts.log.store.read(lambda reader: reader.log(0, 1_000, types=(type,)))
            if page.changes:
                return page.changes[0]
            await parts.log.bell.wait_past(head)


def break_ends(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, refused: list[EndBatch], times: int
) -> None:
    write = parts.log.store.write

    async def breaking(command: Any) -> Any:
        if isinstance(command, EndBatch) and len(refused) < times:
            refused.append(command)
            raise StoreFailed("the disk is full")
        return await write(command)

    monkeypatch.setattr(parts.log.store, "write", breaking)


async def test_a_store_that_fails_does_not_stand_in_a_cancellations_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("books")
        refused: list[EndBatch] = []
        break_ends(parts, monkeypatch, refused, 1)

        async def endless() -> AsyncIterator[bytes]:
            yield b'{"id":"a","text":"the sea"}\n'
            await anyio.sleep_forever()

        with anyio.fail_after(30), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream, parts, library, endless(), "cut")
                await heard(parts, "document.added")
                scope.cancel()
        assert scope.cancelled_caught
        assert [command.batch_id for command in refused] == ["cut"]
        assert await batches(parts, library) == [("batch.started", "cut")]

        async def short() -> AsyncIterator[bytes]:
            yield b'{"id":"b","text":"the shore"}\n'

        await stream(parts, library, short(), "next")
        assert await batches(parts, library) == [
            ("batch.started", "cut"),
            ("batch.failed", "cut"),
            ("batch.started", "next"),
            ("batch.completed", "next"),
        ]


async def test_a_store_that_fails_does_not_hide_why_a_stream_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("books")
        break_ends(parts, monkeypatch, [], 1)

        async def broken() -> AsyncIterator[bytes]:
            yield b'{"id":"a","text":"the sea"}\n'
            await heard(parts, "document.added")
            raise ConnectionError("the client is gone")

        with pytest.raises(BaseExceptionGroup) as caught:
            await stream(parts, library, broken(), "cut")
        assert caught.group_contains(ConnectionError)
        assert not caught.group_contains(StoreFailed)


async def test_an_end_that_the_store_does_not_take_fails_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("books")
        break_ends(parts, monkeypatch, [], 1)

        async def short() -> AsyncIterator[bytes]:
            yield b'{"id":"a","text":"the sea"}\n'

        with pytest.raises(BaseExceptionGroup) as caught:
            await stream(parts, library, short(), "cut")
        assert caught.group_contains(StoreFailed)
        assert await batches(parts, library) == [("batch.started", "cut"), ("batch.failed", "cut")]
