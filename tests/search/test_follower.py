"""The follower's bargain with its indexes, with an index that counts what it is given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from heard import Heard
from search.keyword_house import KeywordHouse, keyword_house

from headwater.clock import SystemClock
from headwater.errors import NotCaughtUp, Unavailable
from headwater.model import Change, Library, Position
from headwater.search.follower import Follower
from headwater.search.following import FollowingIndex, Unusable
from headwater.settings import SearchSettings
from headwater.store.base import Reader
from headwater.store.library_commands import DeleteLibrary
from headwater.threads import Loop

pytestmark = pytest.mark.anyio


class Panic(BaseException):
    """As PyO3's is no Exception."""


class Rows(FollowingIndex):
    """The rows that are there; what was applied shows with the commit."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.shown: frozenset[int] = frozenset()
        self.commits = 0
        self.closed = 0
        self.next_error: BaseException | None = None
        self._held: set[int] = set()

    def restore(self) -> Position | None:
        return None

    def disown(self) -> None:
        pass

    def begin(self) -> None:
        self._held = set()

    def fill(self, reader: Reader, after: int) -> int | None:
        page = reader.texts_after(self.library.number, after, 7)
        self._held |= {row for row, _, _ in page}
        return page[-1][0] if page else None

    def apply(self, reader: Reader, changes: Sequence[Change]) -> None:
        error, self.next_error = self.next_error, None
        if error is not None:
            raise error
        for change in changes:
            span = change.removed
            self._held -= set(range(span.first, span.first + span.count))
            span = change.added
            self._held |= set(range(span.first, span.first + span.count))

    def commit(self, position: Position) -> None:
        assert not self.closed
        self.shown = frozenset(self._held)
        self.commits += 1

    def close(self, position: Position | None, *, spoilt: bool = False) -> None:
        self.closed += 1

    @property
    def rows(self) -> int:
        return len(self._held)

    @property
    def memory_bytes(self) -> int:
        return 1_000 + 10 * len(self._held)


@asynccontextmanager
async def follower(
    house: KeywordHouse,
    made: list[Rows],
    *,
    memory_bytes: int = 10**6,
    discard: Callable[[str], None] | None = None,
    every: timedelta = timedelta(milliseconds=20),
) -> AsyncIterator[Follower[Rows]]:
    def make(library: Library) -> Rows:
        made.append(Rows(library))
        return made[-1]

    settings = SearchSettings(snapshot_every=every)
    one = Follower(
        "rows",
        make,
        settings,
        house.log,
        SystemClock(),
        memory_bytes=memory_bytes,
        discard=discard,
    )
    async with anyio.create_task_group() as group:
        await group.start(one.run)
        yield one
        group.cancel_scope.cancel()


def shown(index: Rows) -> frozenset[int]:
    return index.shown


async def agrees(house: KeywordHouse, one: Follower[Rows], library: Library) -> None:
    found, position = await one.ask(library, shown)
    assert found == set(await house.passages(library))
    assert position >= house.log.head


@pytest.mark.parametrize("error", [ValueError("full"), Panic("boom")])
async def test_an_index_that_fails_is_closed_and_made_anew(
    tmp_path: Path, error: BaseException
) -> None:
    made: list[Rows] = []
    async with keyword_house(tmp_path) as house, follower(house, made) as one:
        library = await house.library()
        await house.put(library, "a", "one")
        await agrees(house, one, library)
        made[0].next_error = error
        position = await house.put(library, "b", "two")
        await one.caught_up(library.id, position)
        (status,) = one.status()
        assert status.state == "failed"
        await agrees(house, one, library)
        assert len(made) == 2
        assert made[0].closed == 1
    assert made[1].closed == 1


async def test_a_store_that_is_away_for_a_moment_costs_no_index(tmp_path: Path) -> None:
    made: list[Rows] = []
    async with keyword_house(tmp_path) as house, follower(house, made) as one:
        library = await house.library()
        await agrees(house, one, library)
        made[0].next_error = Unavailable("busy")
        await house.put(library, "b", "two")
        await agrees(house, one, library)
        assert len(made) == 1


async def test_a_question_that_finds_the_index_unusable_costs_it(tmp_path: Path) -> None:
    made: list[Rows] = []
    async with keyword_house(tmp_path) as house, follower(house, made) as one:
        library = await house.library()

        def broken(_: Rows) -> None:
            raise Unusable("a block is gone")

        def mistaken(_: Rows) -> None:
            raise ZeroDivisionError

        with pytest.raises(Unavailable, match="a block is gone"):
            await one.ask(library, broken)
        await agrees(house, one, library)
        with pytest.raises(ZeroDivisionError):
            await one.ask(library, mistaken)
        await agrees(house, one, library)
        assert len(made) == 2


async def test_changes_of_others_cost_an_index_nothing(tmp_path: Path) -> None:
    made: list[Rows] = []
    async with keyword_house(tmp_path) as house, follower(house, made) as one:
        library, other = await house.library(), await house.library("other")
        await agrees(house, one, library)
        for number in range(20):
            position = await house.put(other, str(number), "x")
            await one.caught_up(library.id, position)
        (status,) = one.status()
        assert status.position == house.log.head
        assert made[0].rows == 0


async def test_the_index_used_longest_ago_goes_first(tmp_path: Path, heard: Heard) -> None:
    made: list[Rows] = []
    async with keyword_house(tmp_path) as house, follower(house, made, memory_bytes=2_500) as one:
        libraries = [await house.library(f"l{number}") for number in range(4)]
        for library in libraries:
            await house.put(library, "a", "one")
            await agrees(house, one, library)
        for library in libraries[:2]:
            await heard.line("view.evicted", library=library.id)
        assert [status.library_id for status in one.status()] == [one.id for one in libraries[2:]]
        await agrees(house, one, libraries[0])


async def test_an_index_that_grows_beyond_the_budget_is_let_go_of_at_once(
    tmp_path: Path, heard: Heard
) -> None:
    made: list[Rows] = []
    hourly = timedelta(hours=1)
    async with (
        keyword_house(tmp_path) as house,
        follower(house, made, memory_bytes=2_500, every=hourly) as one,
    ):
        growing, used = await house.library("growing"), await house.library("used")
        await agrees(house, one, growing)
        await agrees(house, one, used)
        # Nobody asks: it is the writes that make it larger.
        await house.put_all(growing, [(str(number), ["x"], None) for number in range(60)])
        await heard.line("view.evicted", library=growing.id)
        assert [status.library_id for status in one.status()] == [used.id]
        # It may be larger than everything allowed, and then it is alone.
        await agrees(house, one, growing)
        await house.put_all(growing, [(str(number), ["y"], None) for number in range(200)])
        await agrees(house, one, growing)
        await heard.line("view.evicted", library=used.id)
        assert [status.library_id for status in one.status()] == [growing.id]
        assert one.status()[0].memory_bytes > 2_500


async def test_an_index_makes_room_while_it_is_made(tmp_path: Path, heard: Heard) -> None:
    made: list[Rows] = []
    hourly = timedelta(hours=1)
    async with (
        keyword_house(tmp_path) as house,
        follower(house, made, memory_bytes=2_500, every=hourly) as one,
    ):
        small, large = await house.library("small"), await house.library("large")
        await agrees(house, one, small)
        await house.put_all(large, [(str(number), ["x"], None) for number in range(300)])
        one.open(large)
        await heard.line("view.evicted", library=small.id)
        assert not one.opened(small.id)
        await agrees(house, one, large)


async def test_questions_to_more_indexes_than_there_is_room_for_are_all_answered(
    tmp_path: Path, heard: Heard
) -> None:
    made: list[Rows] = []
    async with keyword_house(tmp_path) as house, follower(house, made, memory_bytes=1) as one:
        libraries = [await house.library(f"l{number}") for number in range(6)]
        for library in libraries:
            await house.put(library, "a", "one")
        async with anyio.create_task_group() as askers:
            for library in libraries * 3:
                askers.start_soon(agrees, house, one, library)

        async def one_is_left() -> bool:
            return len(one.status()) == 1

        await heard.until(one_is_left)


async def test_a_question_waits_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Rows] = []
    async with keyword_house(tmp_path) as house, follower(house, made) as one:
        library = await house.library()
        await agrees(house, one, library)
        # So short a wait only where it is to be in vain.
        hasty = one._settings.model_copy(update={"max_wait": timedelta(milliseconds=50)})
        async with one._turn:
            position = await house.put(library, "a", "one")
            with monkeypatch.context() as patch:
                patch.setattr(one, "_settings", hasty)
                with pytest.raises(NotCaughtUp):
                    await one.ask(library, shown)
                with pytest.raises(NotCaughtUp):
                    await one.caught_up(library.id, position)
        await one.caught_up(library.id, position)
        await agrees(house, one, library)


class Gone:
    """Told in the lane's thread that what is kept is to be taken away."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._told = anyio.Event()

    def __call__(self, library_id: str) -> None:
        self._loop.post(self._told.set)

    async def wait(self) -> None:
        with anyio.fail_after(30):
            await self._told.wait()


async def test_a_library_deleted_while_it_is_made_leaves_nothing(tmp_path: Path) -> None:
    made: list[Rows] = []
    gone = Gone()
    async with keyword_house(tmp_path) as house, follower(house, made, discard=gone) as one:
        library = await house.library()
        await house.put_all(library, [(str(number), ["x"], None) for number in range(500)])
        one.open(library)
        await anyio.lowlevel.checkpoint()
        await house.store.write(DeleteLibrary(library.number))
        await gone.wait()
        assert one.status() == []
        assert made[0].closed


async def test_a_library_deleted_after_its_index_failed_leaves_nothing(tmp_path: Path) -> None:
    made: list[Rows] = []
    gone = Gone()
    async with keyword_house(tmp_path) as house, follower(house, made, discard=gone) as one:
        library = await house.library()
        await agrees(house, one, library)
        made[0].next_error = ValueError("full")
        position = await house.put(library, "a", "one")
        await one.caught_up(library.id, position)
        await house.store.write(DeleteLibrary(library.number))
        await gone.wait()
        assert one.status() == []
