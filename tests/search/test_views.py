"""Local views over a real store: what they find is what the store holds, come what may."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import msgspec
import numpy as np
import pytest
from heard import Heard
from search.house import TINY, house, names, vectors

from headwater.clock import SystemClock
from headwater.errors import DimensionMismatch, LibraryNotFound, NotCaughtUp, ShuttingDown
from headwater.model import Library
from headwater.search import snapshot
from headwater.store.base import DeleteDocument, TrimLog
from headwater.store.library_commands import DeleteLibrary, UpdateLibrary

pytestmark = pytest.mark.anyio

UNHURRIED = TINY.model_copy(
    update={"settle": timedelta(hours=1), "snapshot_every": timedelta(hours=1)}
)


async def test_write_is_found_at_once_and_an_update_replaces_it(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        matrix = vectors(1, 3)
        await home.put(library, names(3), matrix)
        assert (await home.one(library, matrix[1], 1)).scores[0] == pytest.approx(1)
        position = await home.put(library, ["d1"], -matrix[1:2])
        await home.views.caught_up(library.id, position)
        found = await home.one(library, matrix[1], 3)
        assert found.scores[-1] == pytest.approx(-1)
        assert found.position >= position
        assert found.exact
        await home.store.write(DeleteDocument(library.number, "d1"))
        await home.agrees(library)


def test_restarts_and_random_writes_keep_view_and_store_equal(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        steps = [
            (
                int(random.integers(60)),
                int(random.integers(1, 40)),
                bool(random.random() < 0.4),
                bool(random.random() < 0.4),
            )
            for _ in range(8)
        ] + [(0, 5, False, False)]
        anyio.run(_run_story, tmp_path_factory.mktemp("story"), seed, steps)


async def _run_story(folder: Path, seed: int, steps: list[tuple[int, int, bool, bool]]) -> None:
    """Each step is a life of the server: writes, deletes, and (mostly) a comparison."""
    library: Library | None = None
    for at, (first, count, delete, blind) in enumerate(steps):
        async with house(folder) as home:
            library = library or await home.library(metric="euclidean")
            for turn in range(2):
                ids = names(count, first)
                await home.put(library, ids, vectors(seed * 1000 + at * 7 + turn, count))
                if delete:
                    for name in ids[:: 1 + turn * 3]:
                        await home.store.write(DeleteDocument(library.number, name))
                if not blind:
                    await home.agrees(library, seed)


async def test_quiet_library_is_built_announced_and_saved(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        await home.put(library, names(300), vectors(1, 300))
        await home.views.warm([library])
        await home.hear("index.optimized")
        (status,) = home.views.status()
        assert status.segments >= 1
        assert (status.rows, status.state) == (300, "ready")
        await home.agrees(library)
    async with house(tmp_path) as home:
        await home.agrees(library)
        (status,) = home.views.status()
        assert status.segments >= 1
        assert await home.events("index.rebuilt") == []


async def test_restart_replays_what_the_snapshot_does_not_have(tmp_path: Path) -> None:
    async with house(tmp_path, UNHURRIED) as home:
        library = await home.library()
        await home.put(library, names(100), vectors(1, 100))
        await home.agrees(library)
    async with house(tmp_path, UNHURRIED) as home:  # writes without a search: not in the snapshot
        await home.put(library, names(50, 80), vectors(2, 50))
        await home.store.write(DeleteDocument(library.number, "d1"))
    async with house(tmp_path, UNHURRIED) as home:
        await home.agrees(library)
        assert await home.events("index.rebuilt") == []


def _of(folder: Path, kind: str) -> Path:
    return next(path for path in sorted(folder.iterdir()) if kind in path.name)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("harm", [_flip, _cut, Path.unlink], ids=["flipped", "cut", "missing"])
@pytest.mark.parametrize("kind", [".graph", ".rows", "state-", "manifest"])
async def test_harmed_snapshot_file_means_rebuilding_from_the_store(
    tmp_path: Path, kind: str, harm: Callable[[Path], None]
) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        await home.put(library, names(60), vectors(1, 60))
        await home.views.warm([library])
        await home.hear("index.optimized")
    harm(_of(home.folder / library.id, kind))
    async with house(tmp_path) as home:
        await home.agrees(library)
        await home.hear("index.rebuilt")
        (told,) = await home.events("index.rebuilt")
        assert told["chunks"] == 60
        assert told["reason"]


async def test_snapshot_of_another_history_is_not_used(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        await home.put(library, names(20), vectors(1, 20))
        await home.agrees(library)
    async with house(tmp_path) as home:
        await home.store.restore_identity()
        await home.agrees(library)
        await home.hear("index.rebuilt")


async def test_log_trimmed_past_the_snapshot_means_rebuilding(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        await home.put(library, names(20), vectors(1, 20))
        await home.agrees(library)
    async with house(tmp_path) as home:
        await home.put(library, names(20, 10), vectors(2, 20))
        await home.store.write(TrimLog(before_us=1 << 60, keep=1, limit=1_000))
        await home.agrees(library)
        await home.hear("index.rebuilt")
        (told,) = await home.events("index.rebuilt")
        assert "log" in told["reason"]


async def test_crash_between_files_and_manifest_leaves_the_old_snapshot(tmp_path: Path) -> None:
    async with house(tmp_path, UNHURRIED) as home:
        library = await home.library()
        await home.put(library, names(100), vectors(1, 100))
        await home.agrees(library)
    folder = home.folder / library.id
    (folder / "segment-x-0.graph").write_bytes(b"half")
    (folder / "manifest.json.x").write_bytes(b"half")
    async with house(tmp_path, UNHURRIED) as home:
        await home.agrees(library)
        assert await home.events("index.rebuilt") == []
        await home.put(library, ["new"], vectors(3, 1))
        await home.agrees(library)
    assert not list(folder.glob("*x*"))


async def test_deleted_library_takes_its_files_along(tmp_path: Path, heard: Heard) -> None:
    async with house(tmp_path) as home:
        library, other = await home.library(), await home.library("other")
        for one in (library, other):
            await home.put(one, names(40), vectors(1, 40))
            await home.agrees(one)
    async with house(tmp_path) as home:
        await home.agrees(library)
        await home.store.write(DeleteLibrary(library.number))
        with pytest.raises(LibraryNotFound):
            await home.one(library, vectors(1, 1)[0])
        assert all(status.library_id != library.id for status in home.views.status())
        await heard.line("view.removed", library=library.id)
        assert not (home.folder / library.id).exists()
        await home.store.write(DeleteLibrary(other.number))
    snapshot.remove(home.folder / other.id)
    (home.folder / other.id).mkdir()  # as if it had been deleted while the server was down
    heard.entries.clear()
    async with house(tmp_path) as home:
        await heard.line("view.removed", library=other.id)
        assert not (home.folder / other.id).exists()


async def test_library_of_two_processes_is_one(tmp_path: Path) -> None:
    async with house(tmp_path) as first, house(tmp_path, write_snapshots=False) as second:
        library = await first.library()
        for turn in range(5):
            position = await first.put(library, names(20, turn * 7), vectors(turn, 20))
            await second.views.caught_up(library.id, position)
            await second.agrees(library, turn)
            position = await second.put(library, names(10, turn * 9), vectors(turn + 50, 10))
            await first.views.caught_up(library.id, position)
            await first.agrees(library, turn)


async def test_views_beyond_the_memory_budget_are_unloaded_and_come_back(
    tmp_path: Path, heard: Heard
) -> None:
    tight = TINY.model_copy(update={"memory_bytes": 1})
    async with house(tmp_path, tight) as home:
        libraries = [await home.library(f"l{number}") for number in range(4)]
        for number, library in enumerate(libraries):
            await home.put(library, names(30), vectors(number, 30))
            await home.agrees(library)

        async def one_is_left() -> bool:
            return len(home.views.status()) == 1

        await heard.until(one_is_left)
        for number, library in enumerate(libraries):
            await home.put(library, names(9, 25), vectors(number + 9, 9))
            await home.agrees(library)
        assert await home.events("index.rebuilt") == []


async def test_view_that_cannot_apply_is_dropped_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, UNHURRIED) as home:
        library = await home.library()
        await home.put(library, names(5), vectors(1, 5))
        await home.agrees(library)
        view = home.views._slots[library.id]
        index = view.index
        assert index.memory_bytes > 0

        def broken(*_: object) -> None:
            raise ValueError("broken on purpose")

        monkeypatch.setattr(index, "append_prepared", broken, raising=True)
        position = await home.put(library, names(5, 5), vectors(2, 5))
        await home.views.caught_up(library.id, position)
        (status,) = home.views.status()
        assert status.state == "failed"
        assert "broken on purpose" in str(status.reason)
        # Its memory is free before anybody asks again.
        assert view.index is not index
        assert (status.rows, status.memory_bytes) == (0, 0)
        await home.agrees(library)
        await home.hear("index.rebuilt")


async def test_waiting_for_a_position_that_never_comes_ends(tmp_path: Path) -> None:
    brief = TINY.model_copy(update={"max_wait": timedelta(milliseconds=30)})
    async with house(tmp_path, brief) as home:
        library = await home.library()
        await home.views.caught_up(library.id, 1 << 40)  # not loaded: at once
        await home.views.warm([library])
        with pytest.raises(NotCaughtUp):
            await home.views.caught_up(library.id, 1 << 40)


async def test_wrong_dimension_and_missing_library_are_said(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        with pytest.raises(DimensionMismatch):
            await home.views.search(library, np.zeros((1, 3), np.float32), [1])
        nowhere = msgspec.structs.replace(library, id=SystemClock().uuid7())
        with pytest.raises(LibraryNotFound):
            await home.one(nowhere, vectors(1, 1)[0])
        assert (await home.one(library, vectors(1, 1)[0])).rows.tolist() == []
    with pytest.raises(ShuttingDown):
        await home.one(library, vectors(1, 1)[0])


async def test_many_search_while_many_write(tmp_path: Path) -> None:
    """A searcher always finds what was there before it asked."""
    lively = TINY.model_copy(update={"threads": 2, "settle": timedelta(milliseconds=1)})
    async with house(tmp_path, lively) as home:
        library = await home.library()
        anchor = vectors(99, 1)
        await home.put(library, ["anchor"], anchor)
        await home.views.warm([library])
        done = anyio.Event()
        writers = 3

        async def write(number: int) -> None:
            nonlocal writers
            for turn in range(12):
                ids = names(25, number * 1000 + turn * 15)
                await home.put(library, ids, vectors(number * 100 + turn, 25))
            writers -= 1
            if not writers:
                done.set()

        async def seek() -> None:
            while not done.is_set():
                found = await home.one(library, anchor[0], 1)
                assert found.scores[0] == pytest.approx(1)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(write, number)
                for _ in range(3):
                    group.start_soon(seek)
        await home.agrees(library)


async def test_change_that_touches_no_chunk_moves_the_position(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        await home.views.warm([library])
        await home.store.write(UpdateLibrary(library.number, description="new"))
        head = home.log.head
        await home.views.caught_up(library.id, head)
        assert home.views.status()[0].position == head
