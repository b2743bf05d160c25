"""Views made anew on request: the old ones answer until the new ones are whole."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from search.house import TINY, House, house, names, vectors
from search.keyword_house import KeywordHouse, keyword_house
from search.test_metadata_views import opened
from store.backend import create, draft, put

from headwater.errors import LibraryNotFound
from headwater.model import Library, Position
from headwater.search.view import View
from headwater.store.base import Announce, DeleteDocument
from headwater.store.library_commands import DeleteLibrary

pytestmark = pytest.mark.anyio

IDLE = TINY.model_copy(update={"settle": timedelta(hours=1), "snapshot_every": timedelta(hours=1)})


async def ask(home: Any, library: Library, type: str = "index.rebuilding") -> Position:
    position: Position = await home.store.write(Announce(type, library.number, {}))
    return position


def view_of(home: House, library: Library) -> View:
    return home.views._slots[library.id]


async def test_view_made_anew_holds_what_the_old_one_did_and_what_came_meanwhile(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, IDLE) as home:
        library = await home.library()
        await home.put(library, names(300), vectors(1, 300))
        await home.agrees(library)
        old = view_of(home, library)
        position = await ask(home, library)

        async def write_and_search() -> None:
            for turn in range(20):
                await home.put(library, names(10, turn * 15), vectors(turn, 10))
                await home.store.write(DeleteDocument(library.number, f"d{turn * 7}"))
                await home.agrees(library, turn)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_and_search)
            status = await home.views.renewed(library, position)
        assert status.state == "ready"
        assert view_of(home, library) is not old
        assert status.segments > 0, "its graphs are built before it answers"
        await home.agrees(library)


async def test_every_process_makes_its_own_anew(tmp_path: Path) -> None:
    async with house(tmp_path, IDLE) as home, house(tmp_path, IDLE, write_snapshots=False) as other:
        library = await home.library()
        await home.put(library, names(50), vectors(1, 50))
        await home.agrees(library)
        await other.agrees(library)
        old = view_of(other, library)
        position = await ask(home, library)
        await other.views.renewed(library, position)
        assert view_of(other, library) is not old
        await other.agrees(library)


async def test_request_outlives_the_process_that_heard_it(tmp_path: Path) -> None:
    """An old view is not saved past the request, so the next process meets it again."""
    async with house(tmp_path) as home:
        library = await home.library()
        await home.put(library, names(60), vectors(1, 60))
        await home.agrees(library)
    async with house(tmp_path) as home:
        await home.agrees(library)
        home.views._renewals._turns = anyio.Semaphore(0)  # it is never this one's turn
        position = await ask(home, library)
        await home.put(library, ["late"], vectors(2, 1))
        await home.agrees(library)
        assert view_of(home, library).outdated
    async with house(tmp_path) as home:
        home.views.open(library)
        await view_of(home, library).done.wait()
        old = view_of(home, library)
        await home.views.renewed(library, position)
        assert view_of(home, library) is not old
        assert not view_of(home, library).outdated
        await home.agrees(library)


async def test_deleted_library_ends_it(tmp_path: Path) -> None:
    async with house(tmp_path, IDLE) as home:
        library = await home.library()
        await home.put(library, names(50), vectors(1, 50))
        await home.agrees(library)
        position = await ask(home, library)
        await home.store.write(DeleteLibrary(library.number))
        with anyio.fail_after(10), pytest.raises(LibraryNotFound):
            await home.views.renewed(library, position)


async def test_optimized_view_is_one_segment_without_dead_rows(tmp_path: Path) -> None:
    async with house(tmp_path, IDLE) as home:
        library = await home.library()
        for turn in range(5):
            await home.put(library, names(40, turn * 40), vectors(turn, 40))
        for number in range(0, 200, 9):
            await home.store.write(DeleteDocument(library.number, f"d{number}"))
        await home.agrees(library)
        with anyio.fail_after(10):
            status = await home.views.optimize(library)
        assert (status.segments, status.dead_rows, status.head_rows) == (1, 0, 0)
        await home.agrees(library)
        await home.put(library, names(40, 500), vectors(9, 40))
        await home.agrees(library)


async def test_other_processes_optimize_when_they_hear_of_it(tmp_path: Path) -> None:
    async with house(tmp_path, IDLE) as home, house(tmp_path, IDLE, write_snapshots=False) as other:
        library = await home.library()
        await home.put(library, names(80), vectors(1, 80))
        await other.agrees(library)
        await home.store.write(DeleteDocument(library.number, "d1"))
        position = await ask(home, library, "index.optimizing")
        await other.log.bell.wait_past(position - 1)
        await other.agrees(library)
        with anyio.fail_after(10):
            await other.views._upkeep.optimized(view_of(other, library))
        assert other.views.status()[0].dead_rows == 0


@pytest.mark.parametrize("keeps", [True, False])
async def test_keyword_index_is_made_anew_while_it_answers(tmp_path: Path, keeps: bool) -> None:
    async with keyword_house(tmp_path, keeps=keeps) as home:
        library = await home.library()
        await home.put_all(library, [(f"d{n}", [f"apple number {n}"], None) for n in range(300)])
        await home.agrees(library, ["apple"])
        position = await ask(home, library)

        async def write_and_search() -> None:
            for turn in range(20):
                await home.put(library, f"d{turn * 9}", f"pear {turn}")
                await home.is_complete(library)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_and_search)
            status = await home.views.renewed(library, position)
        assert status.rows == 300
        await home.is_complete(library)
        assert len(await home.found(library, "pear")) == 20
    if keeps:
        assert len([path for path in (home.folder / library.id).iterdir() if path.is_dir()]) == 1
        async with keyword_house(tmp_path) as home:
            await home.is_complete(library)
            assert home.views.status()[0].reason is None, "the new one was kept"


async def test_keyword_request_outlives_the_process_that_heard_it(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as home:
        library = await home.library()
        await home.put(library, "d1", "apple")
        await home.is_complete(library)
    async with keyword_house(tmp_path) as home:
        await home.is_complete(library)
        position = await ask(home, library)
        await _heard(home, position)
    async with keyword_house(tmp_path) as home:
        await home.is_complete(library)
        await home.views.renewed(library, position)
        await home.is_complete(library)


async def _heard(home: KeywordHouse, position: Position) -> None:
    await home.views._follower._applied.wait_past(position - 1)


async def test_metadata_view_is_made_anew_while_it_answers(tmp_path: Path) -> None:
    async with opened(tmp_path) as home:
        library: Library = await home.store.write(create("books"))

        async def add(*ids: str) -> None:
            drafts = [draft(id, id, metadata=b'{"n":%d}' % len(id)) for id in ids]
            await home.store.write(put(library, *drafts))

        await add(*(f"d{n}" for n in range(200)))
        await home.agrees(library)
        position = await ask(home, library)

        async def write_and_search() -> None:
            for turn in range(10):
                await add(f"e{turn}", f"d{turn * 3}")
                await home.agrees(library)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_and_search)
            await home.views.renewed(library, position)
        await home.agrees(library)
        await home.store.write(DeleteDocument(library.number, "d7"))
        await home.agrees(library)
    assert (tmp_path / "metadata" / f"{library.id}.metadata").exists()
