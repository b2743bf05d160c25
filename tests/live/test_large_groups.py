"""Live queries that show much, read by nobody in a hurry: what is held for them is bounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from live.model import DIMENSION, vector_of
from live.reader import ShownHits
from live.test_comeback import next_events
from service.whole import running

from headwater.app import Parts
from headwater.errors import AnswerTooLarge
from headwater.live import gap
from headwater.model import Library
from headwater.service.drafts import ChunkInput, DocumentInput
from headwater.service.live import LiveQuery, Watch
from headwater.settings import LimitSettings, LiveSettings, Settings

pytestmark = pytest.mark.anyio

MB = 1_000_000
DOCUMENTS = 120
TEXT = "x" * 15_000


async def filled(parts: Parts) -> Library:
    library = await parts.libraries.create("notes", embedder="none", dimension=DIMENSION)
    for number in range(DOCUMENTS):
        await put(parts, library, number)
    return library


async def put(parts: Parts, library: Library, number: int) -> None:
    chunk = ChunkInput(TEXT, vector_of(number + 1).tolist())
    document = DocumentInput(id=f"d{number}", chunks=[chunk], metadata={"pad": "y" * 100})
    await parts.documents.put(library, document, size_bytes=0)


def everything() -> LiveQuery:
    return LiveQuery(vector=vector_of(1).tolist(), k=DOCUMENTS)


async def tell(watch: Watch, shown: ShownHits) -> None:
    for event in await next_events(watch):
        shown.hear(event.event, json.loads(bytes(event.data)))


async def test_large_groups_wait_for_those_that_are_being_read(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, live=LiveSettings(sending_bytes=MB * 2))
    async with running(settings) as parts:
        library = await filled(parts)
        live = parts.live
        async with live.watch(library, everything()) as first:
            shown = ShownHits()
            await tell(first, shown)
            held = live.snapshot()["sending_bytes"]
            assert held > DOCUMENTS * len(TEXT)
            async with (
                live.watch(library, everything()) as second,
                live.watch(library, LiveQuery(vector=vector_of(1).tolist(), k=2)) as small,
            ):
                assert len(await next_events(small)) == 2, "small ones do not wait"
                assert await second.take() is None
                assert not second.rung
                assert live.snapshot()["sending_bytes"] == held
                assert await first.take() is None  # it has read
                assert second.rung
                again = ShownHits()
                await tell(second, again)
                assert again.told() == shown.told()
                assert live.snapshot()["sending_bytes"] == held
            assert live.snapshot()["sending_bytes"] == 0
            for number in range(DOCUMENTS):
                await put(parts, library, number)
                await parts.documents.delete(library, f"d{number}")
                await put(parts, library, number)
            while shown.cursor != again.cursor:
                async with live.watch(library, everything()) as fresh:
                    again = ShownHits()
                    await tell(fresh, again)
                await tell(first, shown)
            assert shown.told() == again.told()


async def test_a_group_that_is_too_large_ends_its_query(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, limits=LimitSettings(answer_bytes=MB))
    async with running(settings) as parts:
        library = await filled(parts)
        with pytest.raises(AnswerTooLarge):
            async with parts.live.watch(library, everything()) as watch:
                await next_events(watch)
        async with parts.live.watch(library, LiveQuery(vector=[1.0] * DIMENSION, k=30)) as watch:
            assert len(await next_events(watch)) == 2


async def test_a_gap_of_large_changes_is_told_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap, "MOST_BYTES", 10_000)
    async with running(Settings(data=tmp_path)) as parts:
        library = await filled(parts)
        async with parts.live.watch(library, everything()) as watch:
            await next_events(watch)
            told = watch.cursor
        names = []
        for changes in (5, DOCUMENTS):
            for number in range(changes):
                await parts.documents.delete(library, f"d{number}")
                await put(parts, library, number)
            async with parts.live.watch(library, everything(), after=told) as watch:
                events = await next_events(watch)
            names.append([event.event for event in events])
        assert "reset" not in names[0]
        assert names[1][:2] == ["reset", "snapshot"]
