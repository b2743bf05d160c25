"""Readers who come back: over a restart, over a trimmed log, over more than can be told."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live.model import DIMENSION, History, vector_of
from live.reader import ShownHits
from live.test_exactness import (
    ASKED,
    LIVE,
    PUT,
    TINY,
    WRITES,
    Asked,
    Ending,
    Reading,
    agrees,
    make_library,
    write_one,
)
from service.whole import running

from headwater.app import Parts
from headwater.errors import InvalidCursor, LibraryNotFound, TooManyHits
from headwater.model import Library, Metric
from headwater.service.drafts import ChunkInput, DocumentInput
from headwater.service.live import LiveQuery, Watch
from headwater.settings import LimitSettings, LiveSettings, Settings
from headwater.store.base import TrimLog


@given(
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    begun=st.lists(PUT, min_size=1, max_size=8),
    between=WRITES,
    after=WRITES,
    asked=st.lists(ASKED, min_size=1, max_size=4),
)
@settings(max_examples=8, deadline=None)
def test_over_a_restart_the_difference_is_what_an_exact_search_finds(
    metric: Metric,
    begun: list[tuple[Any, ...]],
    between: list[tuple[Any, ...]],
    after: list[tuple[Any, ...]],
    asked: list[Asked],
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="headwater-comeback-"))
    try:
        anyio.run(_over_a_restart, folder, metric, begun, between, after, asked)
    finally:
        shutil.rmtree(folder)


async def _over_a_restart(
    folder: Path,
    metric: Metric,
    begun: Sequence[tuple[Any, ...]],
    between: Sequence[tuple[Any, ...]],
    after: Sequence[tuple[Any, ...]],
    asked: Sequence[Asked],
) -> None:
    history, ends = History(), Ending()
    ends.readings = [Reading(one, ShownHits(one.grouped)) for one in asked]
    library: Library | None = None
    kinds: set[str] = set()
    for writes, quietly in ((begun, ()), (after, between)):
        async with running(Settings(data=folder, live=LIVE, search=TINY)) as parts:
            if library is None:
                library = await make_library(parts, metric)
            for write in quietly:
                if write != ("settle",):
                    await write_one(parts, library, history, ends, write)
            ends.over = False
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    for reading in ends.readings:
                        tasks.start_soon(reading.read, parts, library, ends)
                    for write in writes:
                        await write_one(parts, library, history, ends, write)
                    ends.over = True
    for reading in ends.readings:
        agrees(reading, history, metric)
        kinds |= set(reading.kinds[1:])
        assert reading.at >= ends.position
    assert "snapshot" not in kinds, "who comes back is told the difference"


@pytest.mark.anyio
async def test_a_cursor_before_the_trim_point_gives_reset_and_snapshot(tmp_path: Path) -> None:
    async with running(Settings(data=tmp_path)) as parts:
        library = await _two_d(parts)
        for number in range(5):
            await _put(parts, library, f"d{number}", number)
        cursor = str(parts.log.cursor(2))
        await parts.log.store.write(TrimLog(0, 1, 1_000))
        async with parts.live.watch(library, _near(), after=cursor) as watch:
            deltas = await next_events(watch)
            assert [event.event for event in deltas] == ["reset", "snapshot", "ready"]
            assert msgspec.json.decode(dict(deltas_by_name(deltas))["reset"])["reason"] == "trimmed"
        with pytest.raises(InvalidCursor):
            async with parts.live.watch(library, _near(), after="now"):
                pass


@pytest.mark.anyio
async def test_a_threshold_that_lets_too_much_in_ends_the_watch(tmp_path: Path) -> None:
    limits = LimitSettings(k=20)
    async with running(Settings(data=tmp_path, limits=limits)) as parts:
        library = await _two_d(parts)
        everything = LiveQuery(vector=vector_of(1).tolist(), score_threshold=-1)
        async with parts.live.watch(library, everything) as watch:
            await next_events(watch)
            with anyio.fail_after(20):
                for number in range(30):
                    await _put(parts, library, f"d{number}", number)
                with pytest.raises(TooManyHits):
                    await _read_on(watch)
        with pytest.raises(TooManyHits):
            async with parts.live.watch(library, everything) as watch:
                await next_events(watch)


@pytest.mark.anyio
async def test_what_is_kept_for_a_library_is_bounded(tmp_path: Path) -> None:
    async with running(Settings(data=tmp_path, live=LiveSettings(max_hits=1_000))) as parts:
        library = await _two_d(parts)
        with pytest.raises(TooManyHits):
            async with parts.live.watch(
                library, LiveQuery(vector=vector_of(1).tolist(), k=900)
            ) as watch:
                await next_events(watch)
        async with parts.live.watch(library, _near()) as watch:
            await next_events(watch)
            assert parts.live.snapshot()["kept_hits"] == 32
        assert parts.live.snapshot()["kept_hits"] == 0


@pytest.mark.anyio
async def test_a_watch_on_a_deleted_library_says_so(tmp_path: Path) -> None:
    async with running(Settings(data=tmp_path)) as parts:
        library = await _two_d(parts)
        async with parts.live.watch(library, _near()) as watch:
            await next_events(watch)
            told: list[int] = []
            watch.on_news(lambda: told.append(1))
            await parts.libraries.delete(library.id)
            with anyio.fail_after(20), pytest.raises(LibraryNotFound):
                await _read_on(watch)
            assert told


def deltas_by_name(events: Sequence[Any]) -> list[tuple[str, bytes]]:
    return [(event.event, bytes(event.data)) for event in events]


async def _two_d(parts: Parts) -> Library:
    return await parts.libraries.create("notes", embedder="none", dimension=DIMENSION)


def _near() -> LiveQuery:
    return LiveQuery(vector=vector_of(1).tolist(), k=3)


async def _put(parts: Parts, library: Library, id: str, seed: int) -> None:
    document = DocumentInput(id=id, chunks=[ChunkInput(None, vector_of(seed).tolist())])
    await parts.documents.put(library, document, size_bytes=0)


async def _read_on(watch: Watch) -> None:
    while True:
        await watch.take()
        await watch.wait()


async def next_events(watch: Watch) -> Sequence[Any]:
    with anyio.fail_after(20):
        while True:
            deltas = await watch.take()
            if deltas is not None:
                return deltas.events
            await watch.wait()
