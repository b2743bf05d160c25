"""Promise 5: at every cursor that is told, snapshot and deltas are what a fresh exact search finds.

Random writes go on while random queries stand, are dropped and resumed; every list a reader made
of the events is compared with a dictionary as it was at that cursor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio
import invariants
import msgspec
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from filters.random_filters import filters, metadata
from hypothesis import given, settings
from hypothesis import strategies as st
from live.model import DIMENSION, History, vector_of
from live.reader import ShownHits
from service.whole import running

from headwater.app import Parts
from headwater.changes import Ring
from headwater.clock import SystemClock
from headwater.model import Committed, Library, Metric, Position, Written
from headwater.service.drafts import ChunkInput, DocumentInput
from headwater.service.live import LiveQuery
from headwater.settings import LiveSettings, SearchSettings, Settings
from headwater.store.base import DeleteDocuments

TINY = SearchSettings(seal_rows=16, exact_rows=0, ef_search=16, settle=timedelta(milliseconds=10))
LIVE = LiveSettings(margin=0, step_rows=4)

IDS = st.integers(0, 9).map(lambda number: f"d{number}")
OWN = st.one_of(st.just({}), st.just({}), metadata)
CHUNKS = st.lists(st.tuples(st.integers(0, 12), OWN), min_size=1, max_size=5)
PUT = st.tuples(st.just("put"), IDS, CHUNKS, metadata)
WRITE = st.one_of(
    PUT,
    PUT,
    st.tuples(st.just("patch"), IDS, metadata),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("clear"), st.lists(IDS, min_size=2, unique=True)),
    st.tuples(st.just("together"), st.lists(PUT, min_size=2, max_size=6, unique_by=lambda p: p[1])),
    st.tuples(st.just("batch"), st.lists(PUT, min_size=2, unique_by=lambda p: p[1])),
    st.tuples(st.just("settle")),
)
WRITES = st.lists(WRITE, max_size=30)


@dataclass(frozen=True)
class Asked:
    seed: int
    k: int | None
    floor: float | None
    filter: dict[str, Any] | None
    grouped: bool
    drops: tuple[int, ...]
    """After how many takings the reader goes away and comes again, over and over."""
    coalesce_ms: int = 0

    @property
    def query(self) -> LiveQuery:
        return LiveQuery(
            vector=vector_of(self.seed).tolist(),
            k=self.k,
            score_threshold=self.floor,
            filter=self.filter,
            group_by="document" if self.grouped else None,
            coalesce_ms=self.coalesce_ms,
        )


ASKED = st.builds(
    Asked,
    st.integers(0, 12),
    st.none() | st.integers(1, 6),
    st.none() | st.sampled_from([-0.5, 0.0, 0.1, 0.3, 0.7]),
    st.none() | filters,
    st.booleans(),
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
    st.sampled_from([0, 0, 0, 3]),
)


@dataclass
class Stage:
    portal: BlockingPortal
    parts: Parts


@pytest.fixture(scope="module", params=[LIVE.step_rows, 100], ids=["small steps", "whole commits"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    live = LIVE.model_copy(update={"step_rows": request.param})
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            running(Settings(data=tmp_path_factory.mktemp("data"), live=live, search=TINY))
        ) as parts,
    ):
        yield Stage(portal, parts)


@dataclass
class Reading:
    """One reader's story: what it showed at each cursor it was told."""

    asked: Asked
    shown: ShownHits
    seen: list[tuple[str, list[tuple[str, float]]]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    at: Position = -1
    resumed: bool = False

    async def read(self, parts: Parts, library: Library, ends: Ending) -> None:
        drops = list(self.asked.drops)
        while not await self._sit(parts, library, ends, drops.pop(0) if drops else None):
            self.resumed = True

    async def _sit(self, parts: Parts, library: Library, ends: Ending, takings: int | None) -> bool:
        """Read until the end, or until so many takings were had; whether it was the end."""
        async with parts.live.watch(library, self.asked.query, after=self.shown.cursor) as watch:
            while takings is None or takings > 0:
                deltas = await watch.take() or watch.progress()
                if deltas is None:
                    if self.at >= ends.position and ends.over:
                        return True
                    with anyio.move_on_after(0.01):
                        await watch.wait()
                    continue
                for sent in deltas.events:
                    self.shown.hear(sent.event, msgspec.json.decode(sent.data))
                assert self.shown.cursor == deltas.cursor == watch.cursor
                self.seen.append((deltas.cursor, self.shown.told()))
                self.kinds.append(deltas.kind)
                self.at = invariants.position(deltas.cursor)[0]
                ends.look()
                if takings is not None:
                    takings -= 1
        return False


class Ending:
    """How far the writer is, for the readers, and the other way round."""

    def __init__(self) -> None:
        self.position: Position = 0
        self.over = False
        self.readings: list[Reading] = []
        self._moved = anyio.Event()

    def reach(self, position: Position) -> None:
        """A write that changed nothing answers where its document was written, long ago."""
        self.position = max(self.position, position)

    def look(self) -> None:
        moved, self._moved = self._moved, anyio.Event()
        moved.set()

    async def settle(self) -> None:
        while any(reading.at < self.position for reading in self.readings):
            await self._moved.wait()


@given(
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    begun=st.lists(PUT, max_size=6),
    writes=WRITES,
    asked=st.lists(ASKED, min_size=1, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_what_is_told_equals_a_fresh_exact_search_at_that_cursor(
    stage: Stage,
    metric: Metric,
    begun: list[tuple[Any, ...]],
    writes: list[tuple[Any, ...]],
    asked: list[Asked],
) -> None:
    stage.portal.call(_story, stage.parts, metric, begun, writes, asked)


@given(
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    begun=st.lists(PUT, max_size=6),
    writes=WRITES,
    asked=st.lists(ASKED, min_size=1, max_size=6),
    passes=st.lists(st.booleans(), min_size=1, max_size=7),
)
@settings(max_examples=40, deadline=None)
def test_so_it_is_where_the_store_is_read_and_is_ahead(
    stage: Stage,
    metric: Metric,
    begun: list[tuple[Any, ...]],
    writes: list[tuple[Any, ...]],
    asked: list[Asked],
    passes: list[bool],
) -> None:
    """As behind the ring, or beside another process: rows may be gone that the log still has."""
    ring = stage.parts.log.ring
    turns = itertools.cycle(passes)

    def now_and_then(position: Position) -> Committed | None:
        return Ring.after(ring, position) if next(turns) else None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ring, "after", now_and_then)
        stage.portal.call(_story, stage.parts, metric, begun, writes, asked)


async def _story(
    parts: Parts,
    metric: Metric,
    begun: Sequence[tuple[Any, ...]],
    writes: Sequence[tuple[Any, ...]],
    asked: Sequence[Asked],
) -> None:
    library = await make_library(parts, metric)
    history, ends = History(), Ending()
    for write in begun:
        await write_one(parts, library, history, ends, write)
    ends.readings = [Reading(one, ShownHits(one.grouped)) for one in asked]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for reading in ends.readings:
                tasks.start_soon(reading.read, parts, library, ends)
            for write in writes:
                await write_one(parts, library, history, ends, write)
            ends.over = True
    for reading in ends.readings:
        agrees(reading, history, metric)
        assert reading.at >= ends.position
        if not reading.resumed:
            assert reading.shown.unknown == 0, "in normal flow every event is exact"
    shown = {(hit["chunk_id"]): hit["metadata"] for one in ends.readings for hit in one.shown.hits}
    for id, own in shown.items():
        held = history.now[id.partition("#")[0]]
        piece = held.pieces[int(id.partition("#")[2])]
        assert own == {**held.metadata, **piece.own}, "what is shown at the end is the latest"
    await parts.libraries.delete(library.id)
    assert parts.live.snapshot()["watches"] == 0


def agrees(reading: Reading, history: History, metric: Metric) -> None:
    asked = reading.asked
    k = 10 if asked.k is None and asked.floor is None else asked.k
    last = -1
    for cursor, told in reading.seen:
        position, _ = invariants.position(cursor)
        assert position >= last
        last = position
        assert told == history.shows(
            position,
            metric,
            vector_of(asked.seed),
            k=k,
            floor=asked.floor,
            filter=asked.filter,
            grouped=asked.grouped,
        ), f"{asked} at {position}"


async def make_library(parts: Parts, metric: Metric) -> Library:
    name = SystemClock().uuid7().replace("-", "")
    return await parts.libraries.create(name, embedder="none", dimension=DIMENSION, metric=metric)


async def write_one(
    parts: Parts, library: Library, history: History, ends: Ending, write: tuple[Any, ...]
) -> None:
    match write:
        case ("put", id, chunks, own):
            position = await _put(parts, library, id, chunks, own)
            history.put(id, chunks, own, position)
            ends.reach(position)
        case ("patch", id, patch) if id in history.now:
            written = await parts.documents.patch(library, id, metadata=patch)
            document = await parts.documents.get(library, id)
            new = msgspec.json.decode(document.document.metadata)
            history.patch(id, new, written.position)
            ends.reach(written.position)
        case ("delete", id) if id in history.now:
            position = await parts.documents.delete(library, id)
            history.delete(id, position)
            ends.reach(position)
        case ("clear", ids):
            gone = await parts.log.store.write(DeleteDocuments(library.number, ids))
            for position, id in zip(gone, ids, strict=True):
                if position is not None:
                    history.delete(id, position)
                    ends.reach(position)
        case ("together", puts):
            done: list[tuple[Position, tuple[Any, ...]]] = []

            async def one(put: tuple[Any, ...]) -> None:
                done.append((await _put(parts, library, *put[1:]), put))

            async with anyio.create_task_group() as tasks:
                for put in puts:
                    tasks.start_soon(one, put)
            for position, (_, id, chunks, own) in sorted(done, key=lambda entry: entry[0]):
                if position > ends.position:
                    history.put(id, chunks, own, position)
                    ends.reach(position)
        case ("batch", puts):
            bodies = [msgspec.json.encode(_document(*put[1:])) for put in puts]
            results = await parts.documents.put_batch(library, bodies)
            for (_, id, chunks, own), result in zip(puts, results, strict=True):
                assert isinstance(result, Written)
                if result.position > ends.position:
                    history.put(id, chunks, own, result.position)
                    ends.reach(result.position)
        case ("settle",):
            await ends.settle()


def _document(id: str, chunks: list[tuple[int, Any]], own: dict[str, Any]) -> DocumentInput:
    given = [
        ChunkInput(None, vector_of(seed).tolist(), metadata or None) for seed, metadata in chunks
    ]
    return DocumentInput(id=id, chunks=given, metadata=own)


async def _put(
    parts: Parts, library: Library, id: str, chunks: list[tuple[int, Any]], own: dict[str, Any]
) -> Position:
    document = _document(id, chunks, own)
    return (await parts.documents.put(library, document, size_bytes=0)).position
