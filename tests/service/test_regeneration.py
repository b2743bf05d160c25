"""Vectors made anew: whatever cuts the job off, they are all of one model or all of the other."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import numpy as np
import pytest
from embed.plugin import Letters
from heard import Heard
from service.job_house import Fault, JobHouse, job_house
from service.whole import search_of

from headwater.embed import plugins
from headwater.embed.base import Kind
from headwater.errors import (
    EmbedderFailed,
    InvalidJob,
    JobFailed,
    LibraryRegenerated,
    RegenerationRunning,
)
from headwater.model import Library, Vectors
from headwater.search.base import SearchEngine
from headwater.search.index import VectorIndex
from headwater.search.loader import Loader
from headwater.search.view import View
from headwater.service.job_types import regenerate_embeddings
from headwater.service.job_types.regenerate_embeddings import RegenerateEmbeddings
from headwater.service.live import LiveQuery, Watch
from headwater.service.query import Query
from headwater.settings import SearchSettings
from headwater.store.base import DeleteDocuments, PutDocuments, Reader
from headwater.store.job_commands import CancelJob
from headwater.store.regeneration_commands import BeginRegeneration, SettleVectors

pytestmark = pytest.mark.anyio

LETTERS = EntryPoint("letters", "embed.plugin:Letters", plugins.GROUP)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regenerate_embeddings, "_ROWS", 16)
    monkeypatch.setattr(regenerate_embeddings, "_LATE", 0)
    monkeypatch.setattr(regenerate_embeddings, "_MOVED", 16)
    monkeypatch.setattr(plugins, "declared", lambda: {"letters": LETTERS})


def handler_of(home: JobHouse) -> RegenerateEmbeddings:
    parts = home.parts
    return RegenerateEmbeddings(
        parts.libraries, parts.embedders, parts.engine, parts.settings.limits
    )


def document(number: int) -> dict[str, Any]:
    return {"id": f"d{number}", "texts": [f"first of {number}", f"second of {number}"]}


async def filled(home: JobHouse, name: str = "books", count: int = 40) -> Library:
    library = await home.library(name, embedder="static")
    await home.put(library, *map(document, range(count)))
    return library


async def vectors_are(home: JobHouse, library: Library, embedder: str) -> Library:
    """Every chunk has just the vector that the library's model makes; the view finds them."""
    now = await home.parts.libraries.fresh(library.id)
    assert now.embedder == embedder
    model = home.parts.embedders.bound(now)

    def read(reader: Reader) -> tuple[list[str], list[Any]]:
        documents = reader.documents(now.number, after_row=0, limit=10_000)
        chunks = [chunk for own in reader.chunks(documents, vectors=True) for chunk in own]
        return [chunk.text or "" for chunk in chunks], [chunk.vector for chunk in chunks]

    texts, vectors = await home.parts.log.store.read(read)
    wanted = await model.embed(texts)
    assert np.allclose(np.stack(vectors), wanted, atol=1e-5)
    rows, matrix = await home.parts.log.store.read(lambda r: r.vectors_after(now.number, 0, 10_000))
    assert matrix.shape == (len(texts), now.dimension)
    answer = await home.parts.search.search(now, Query(query=texts[3], k=1, mode="vector"))
    assert answer.hits[0].passage.text == texts[3]
    assert answer.hits[0].score == pytest.approx(1, abs=1e-4)
    assert (await home.parts.engine.rows(now)).tolist() == rows.tolist()
    assert await home.parts.log.store.read(lambda reader: reader.check()) == []
    return now


async def test_cut_off_at_every_write_it_ends_with_vectors_of_one_model(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        for after in (False, True):
            for nth in (1, 2, 4, 6, 7, 9):
                library = await filled(home, f"cut-{after}-{nth}", 30)
                job = await home.submit(handler, {"embedder": "letters:64"}, library)
                job = await home.run(handler, job, Fault(nth, after))
                now = await home.parts.libraries.fresh(library.id)
                await vectors_are(home, library, now.embedder)
                done = await home.run(handler, job) if job.status == "queued" else job
                assert done.status == "completed", done.error
                assert (done.result or {})["chunks"] == 60
                now = await vectors_are(home, library, "letters:64")
                assert (now.dimension, now.generation, now.pending) == (64, 1, 0)
                told = [kind for kind, _ in await home.events(library, "library.")]
                assert told == ["library.created", "library.regenerated"]


async def test_a_text_that_gets_wrong_answers_is_pending_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Letters.embed

    async def not_finite(self: Letters, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        if "second of 7" in texts:
            raise EmbedderFailed("not finite", retryable=True)
        return await embed(self, texts, kind)

    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home, count=30)
        monkeypatch.setattr(Letters, "embed", not_finite)
        job = await home.submit(handler, {"embedder": "letters:64"}, library)
        done = await home.run(handler, job)
        assert done.status == "completed", done.error
        now = await home.parts.libraries.fresh(library.id)
        assert (now.embedder, now.documents, now.pending) == ("letters:64", 30, 1)


async def test_searches_and_writes_go_on_and_never_see_a_mix(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home)
        job = await home.submit(handler, {"embedder": "letters:256"}, library)
        stop = anyio.Event()
        searched = 0

        async def search() -> None:
            nonlocal searched
            while not stop.is_set():
                held = await home.parts.libraries.get(library.id)
                answer = await home.parts.search.search(
                    held, Query(query="first of 7", k=1, mode="vector")
                )
                assert answer.hits[0].passage.text == "first of 7"
                assert answer.hits[0].score == pytest.approx(1, abs=1e-4)
                searched += 1

        async def write() -> None:
            for number in range(30):
                await home.put(library, document(100 + number))  # the library as it was
                changed = number if number != 7 else 8  # what is searched for stays
                await home.put(library, {"id": f"d{changed}", "texts": [f"third of {number}"]})
                await home.parts.log.store.write(_delete(library, f"d{30 + number % 10}"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(search)
            async with anyio.create_task_group() as writes:
                writes.start_soon(write)
                done = await home.run(handler, job)
            stop.set()
        assert done.status == "completed", done.error
        assert searched
        await vectors_are(home, library, "letters:256")


class Outrun:
    """Views whose answer stands for vectors that are made anew before anything is done with it."""

    def __init__(self, views: Any, anew: Callable[[], Awaitable[None]]) -> None:
        self._views = views
        self._anew = anew
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._views, name)

    async def search(self, *asked: Any, **how: Any) -> Any:
        found = await self._views.search(*asked, **how)
        self.asked += 1
        if self.asked == 1:
            await self._anew()
        return found


@pytest.mark.parametrize("embedder", ["letters:256", "letters:64"])
@pytest.mark.parametrize(
    "query",
    [
        Query(query="first of 7", k=5, mode="vector", mmr=0.5, include=["vector"]),
        Query(query="first of 7", k=5, mode="hybrid", mmr=0.5, include=["vector"]),
        Query(query="first of 7", k=5, mode="vector", include=["vector"]),
        Query(query="first of 7", k=5, mode="keyword", include=["vector"]),
        Query(query="first of 7", k=2, group_by="document", include=["vector"]),
    ],
)
async def test_search_that_straddles_the_switch_is_done_once_more(
    tmp_path: Path, query: Query, embedder: str
) -> None:
    async with job_house(tmp_path) as home, anyio.create_task_group() as tasks:
        handler = handler_of(home)
        library = await filled(home, count=20)
        job = await home.submit(handler, {"embedder": embedder}, library)

        async def anew() -> None:
            assert (await home.run(handler, job)).status == "completed"

        vector = Outrun(home.parts.engine, anew)
        words = Outrun(home.parts.keyword, anew)
        search = search_of(
            home.parts,
            engine=vector if query.mode != "keyword" else None,  # type: ignore[arg-type]  # it stands in for one
            keyword=words if query.mode == "keyword" else None,
        )
        await tasks.start(search.run)
        answer = await search.search(library, query)
        assert vector.asked + words.asked > 1
        hits = answer.hits or [hit for group in answer.groups or [] for hit in group.hits]
        now = await home.parts.libraries.fresh(library.id)
        wanted = await home.parts.embedders.bound(now).embed(
            [hit.passage.text or "" for hit in hits]
        )
        shown = [hit.passage.vector for hit in hits if hit.passage.vector is not None]
        assert np.allclose(np.stack(shown), wanted, atol=1e-5)
        fresh = await home.parts.search.search(now, query)
        assert [hit.passage.row for hit in hits] == [
            hit.passage.row
            for hit in fresh.hits or [hit for group in fresh.groups or [] for hit in group.hits]
        ]
        tasks.cancel_scope.cancel()


async def test_streamed_search_that_straddles_the_switch_ends_and_says_so(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home, count=20)
        query = Query(query="of", k=30, mode="vector", include=["vector"])
        _, pages = await home.parts.search.stream(library, query)
        first = await anext(pages)
        assert all(hit.passage.vector is not None for hit in first)
        await home.run(handler, await home.submit(handler, {"embedder": "letters:64"}, library))
        with pytest.raises(LibraryRegenerated):
            await anext(pages)


class Meanwhile:
    """Views beside which something happens once those of the next vectors are prepared."""

    def __init__(self, views: SearchEngine, happens: Callable[[], Awaitable[None]]) -> None:
        self._views = views
        self._happens = happens

    @asynccontextmanager
    async def prepared(self, library: Library) -> AsyncIterator[None]:
        async with self._views.prepared(library):
            await self._happens()
            yield


def handler_beside(home: JobHouse, happens: Callable[[], Awaitable[None]]) -> RegenerateEmbeddings:
    parts = home.parts
    engine = cast(SearchEngine, Meanwhile(parts.engine, happens))
    return RegenerateEmbeddings(parts.libraries, parts.embedders, engine, parts.settings.limits)


@pytest.mark.parametrize("embedder", ["letters:256", "letters:64"])
@pytest.mark.parametrize("late", [0, 512])
async def test_view_that_was_prepared_answers_from_the_switch_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedder: str, late: int
) -> None:
    monkeypatch.setattr(regenerate_embeddings, "_LATE", late)
    # Tiny segments, so that there is something to build.
    async with job_house(tmp_path, search=SearchSettings(seal_rows=16, exact_rows=0)) as home:
        library = await filled(home)
        await vectors_are(home, library, "static")
        old = await home.parts.engine.rows(library)

        async def write() -> None:
            await home.put(library, document(100), {"id": "d3", "texts": ["third of 3"]})
            await home.parts.log.store.write(_delete(library, "d5"))
            monkeypatch.setattr(Loader, "_scan", None)  # the view is not to be made of the store
            assert (await home.parts.engine.rows(library)).tolist() != old.tolist()

        handler = handler_beside(home, write)
        done = await home.run(handler, await home.submit(handler, {"embedder": embedder}, library))
        assert done.status == "completed", done.error
        await vectors_are(home, library, embedder)
        assert [status.reason for status in home.parts.engine.status()] == [None]
        await home.put(library, document(101))
        await vectors_are(home, library, embedder)


async def test_prepared_view_of_vectors_that_never_are_valid_is_let_go_of(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home)
        await vectors_are(home, library, "static")
        views: list[weakref.ref[VectorIndex]] = []

        async def fail() -> None:
            views.extend(
                weakref.ref(one)
                for one in gc.get_objects()
                if isinstance(one, VectorIndex) and one.dimension == 64
            )
            raise JobFailed("it did not work")

        handler = handler_beside(home, fail)
        job = await home.submit(handler, {"embedder": "letters:64"}, library)
        done = await home.run(handler, job)
        assert done.status == "failed"
        gc.collect()
        assert views
        assert {view() for view in views} == {None}
        await vectors_are(home, library, "static")


async def test_view_that_cannot_be_prepared_is_made_after_the_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    async def full(self: Loader, view: View) -> None:
        raise OSError("No space left on device")

    async with job_house(tmp_path) as home:
        library = await filled(home)
        await vectors_are(home, library, "static")
        monkeypatch.setattr(Loader, "prepare", full)
        handler = handler_of(home)
        job = await home.submit(handler, {"embedder": "letters:64"}, library)
        assert (await home.run(handler, job)).status == "completed"
        await heard.line("view.not_prepared")
        await vectors_are(home, library, "letters:64")


def _delete(library: Library, id: str) -> Any:
    return DeleteDocuments(library.number, [id])


async def test_vectors_of_the_old_model_are_refused_after_the_switch(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home, count=5)
        stale: PutDocuments = await home.parts.documents.command(library, [])
        await home.run(handler, await home.submit(handler, {"embedder": "letters:256"}, library))
        with pytest.raises(LibraryRegenerated):
            await home.parts.log.store.write(stale)
        await home.put(library, document(99))
        await vectors_are(home, library, "letters:256")


async def test_one_regeneration_at_a_time_and_what_a_dead_one_left_goes(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home)
        first = await home.submit(handler, {"embedder": "letters:64"}, library)
        first = await home.run(handler, first, Fault(3))
        begin = BeginRegeneration(library.number, "another", "static", "static", 256)
        with pytest.raises(RegenerationRunning):
            await home.parts.log.store.write(begin)
        store = home.parts.log.store
        assert not await store.write(SettleVectors(10)), "a job that waits will go on"
        await store.write(CancelJob(first.id))
        while await store.write(SettleVectors(10)):
            pass
        await vectors_are(home, library, "static")
        again = await home.submit(handler, {}, library)
        assert (await home.run(handler, again)).status == "completed"
        assert (await vectors_are(home, library, "static")).generation > 0


async def test_chunks_without_a_text_are_refused_and_nothing_has_changed(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home)
        await home.put(library, {"id": "bare", "chunks": [{"vector": [0.5] * 256}]})
        done = await home.run(handler, await home.submit(handler, {}, library))
        assert (done.error or {})["code"] == "regeneration_refused"
        assert "'bare'" in (done.error or {})["detail"]
        assert (await home.parts.libraries.fresh(library.id)).generation == 0


async def test_library_of_own_vectors_gets_an_embedder(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await home.library()
        await home.put(
            library,
            *(
                {"id": f"d{n}", "chunks": [{"text": f"w {n}", "vector": [1, n, 0]}]}
                for n in range(9)
            ),
        )
        done = await home.run(handler, await home.submit(handler, {"embedder": "static"}, library))
        assert done.status == "completed", done.error
        await vectors_are(home, library, "static")


async def test_wrong_parameters_are_named(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        own = await home.library()
        library = await home.library("other", embedder="static")
        for which, params in (
            (own, {}),
            (library, {"embedder": "none"}),
            (library, {"embedder": "unheard-of"}),
            (library, {"dimension": 7}),
        ):
            with pytest.raises(InvalidJob) as caught:
                await handler.check(params, which)
            assert caught.value.fields["path"] == "params.embedder"


async def test_a_live_query_ends_and_comes_back_to_a_snapshot_of_the_new_scores(
    tmp_path: Path,
) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home)
        live, query = home.parts.live, LiveQuery(query="first of 7", k=3)

        async def end(watch: Watch) -> None:
            while True:
                await events(watch)

        async def events(watch: Watch) -> list[Any]:
            while (deltas := await watch.take()) is None:
                await watch.wait()
            return [(event.event, msgspec.json.decode(event.data)) for event in deltas.events]

        with anyio.fail_after(30):
            async with live.watch(library, query) as watch:
                (_, old), _ = await events(watch)
                job = await home.submit(handler, {"embedder": "letters:64"}, library)
                assert (await home.run(handler, job)).status == "completed"
                with pytest.raises(LibraryRegenerated):
                    await end(watch)
            now = await vectors_are(home, library, "letters:64")
            async with live.watch(now, query, after=old["cursor"]) as watch:
                (reset, why), (snapshot, new), (ready, _) = await events(watch)
        assert (reset, snapshot, ready) == ("reset", "snapshot", "ready")
        assert (why["code"], why["reason"]) == ("cursor_expired", "regenerated")
        searched = await home.parts.search.search(
            now, Query(query="first of 7", k=3, mode="vector", exact=True)
        )
        assert [(hit["document_id"], hit["score"]) for hit in new["results"]] == [
            (hit.passage.document_id, hit.score) for hit in searched.hits
        ]
        assert [hit["score"] for hit in new["results"]] != [hit["score"] for hit in old["results"]]


async def test_live_query_never_shows_vectors_of_a_model_that_did_not_find_them(
    tmp_path: Path,
) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home)
        live, query = home.parts.live, LiveQuery(query="first of 7", k=3, include=["vector"])
        job = await home.submit(handler, {"embedder": "letters:64"}, library)
        with anyio.fail_after(30):
            async with live.watch(library, query) as watch, anyio.create_task_group() as tasks:
                while await watch.take() is None:
                    await watch.wait()
                await home.put(library, {"id": "new", "texts": ["first of 7"]})
                await watch.wait()  # it is found, and not yet told
                release = threading.Event()
                tasks.start_soon(live._lane.submit, release.wait)
                try:
                    await home.put(library, document(100))  # the matcher waits here
                    assert (await home.run(handler, job)).status == "completed"
                    assert watch.standing.error is None
                    with pytest.raises(LibraryRegenerated):
                        await watch.take()
                finally:
                    release.set()
