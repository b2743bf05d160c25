"""The log, batches, transactions: what is told, in which order, and what a reader sees."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from store.backend import Backend, create, draft, put
from store.reading import data, is_sound, whole_log

from headwater.errors import (
    CursorExpired,
    HeadwaterError,
    LibraryExists,
    LibraryNotFound,
    ShuttingDown,
)
from headwater.store.base import Announce, LogPage, Reader, TrimLog
from headwater.store.batch_commands import BeginBatch, EndBatch, FailOpenBatches
from headwater.store.library_commands import DeleteLibrary


def a_page(reader: Reader, after: int) -> LogPage:
    return reader.log(after, 1_000)


class LogContract:
    async def test_batches_end_once_and_those_left_open_fail(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(BeginBatch(library.number, "one", "gone"))
            await store.write(BeginBatch(library.number, "two", "here"))
            await store.write(BeginBatch(library.number, "three", "gone"))
            end = await store.write(EndBatch("one", {"received": 3}))
            assert await store.write(EndBatch("one", {"received": 3})) == end
            await store.write(EndBatch("two", {"received": 1}, error="cut"))
        async with backend.open() as opened:
            await opened.store.write(BeginBatch(library.number, "four", "new"))
            assert await opened.store.read(lambda reader: reader.batch_processes()) == {
                "gone",
                "new",
            }
            assert await opened.store.write(FailOpenBatches("the server ended", {"gone"})) == 1
            assert await opened.store.write(FailOpenBatches("the server ended", {"gone"})) == 0
            told = [(change.type, data(change)) for change in await whole_log(opened)][1:]
            assert told == [
                ("batch.started", {"batch_id": "one"}),
                ("batch.started", {"batch_id": "two"}),
                ("batch.started", {"batch_id": "three"}),
                ("batch.completed", {"batch_id": "one", "received": 3}),
                ("batch.failed", {"batch_id": "two", "received": 1, "error": "cut"}),
                ("batch.started", {"batch_id": "four"}),
                ("batch.failed", {"batch_id": "three", "error": "the server ended"}),
            ]

    async def test_the_log_is_filtered_and_says_how_far_it_looked(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, a, b = opened.store, await opened.library("a"), await opened.library("b")
            for i in range(10):
                await store.write(put(a if i % 2 else b, draft(f"d{i}", "t")))
            await store.write(Announce("index.rebuilt", a.number, {"why": "asked"}))
            head = await store.read(lambda reader: reader.head())
            page = await store.read(lambda r: r.log(0, 3, library_ids={a.id}))
            assert [change.library_id for change in page.changes] == [a.id] * 3
            assert page.through == page.changes[-1].position < head
            page = await store.read(
                lambda r: r.log(0, 100, library_ids={b.id}, types={"document.added"})
            )
            assert len(page.changes) == 5
            assert page.through == head
            page = await store.read(lambda r: r.log(0, 100, types={"document.deleted"}))
            assert (page.changes, page.through) == ([], head)
            page = await store.read(lambda r: r.log(head, 100))
            assert (page.changes, page.through) == ([], head)
            (last,) = (await store.read(lambda r: r.log(head - 1, 100))).changes
            assert (last.type, data(last)) == ("index.rebuilt", {"why": "asked"})

    async def test_nothing_is_announced_of_a_deleted_library(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            await opened.store.write(DeleteLibrary(library.number))
            with pytest.raises(LibraryNotFound):
                await opened.store.write(Announce("index.rebuilt", library.number, {}))
            assert [change.type for change in await whole_log(opened)][-1] == "library.deleted"

    async def test_a_page_of_large_changes_is_short_and_the_next_goes_on(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            begin = await store.read(lambda reader: reader.head())
            large = b'{"x":"%b"}' % (b"x" * (1 << 20))
            for i in range(60):
                await store.write(put(library, draft(f"d{i}", "t", metadata=large)))
            after, subjects = begin, []
            while True:
                page = await store.read(partial(a_page, after=after))
                assert sum(len(change.data) for change in page.changes) < 32 << 20
                subjects += [change.subject for change in page.changes]
                after = page.through
                if not page.changes:
                    break
            assert subjects == [f"d{i}" for i in range(60)]
            assert after == await store.read(lambda reader: reader.head())

    async def test_resume_after_trim_reports_the_trim_point(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, clock = opened.store, opened.clock
            clock.us = 1_000
            library = await opened.library()
            for i in range(9):
                clock.us = (i + 2) * 1_000
                await store.write(put(library, draft(f"d{i}", "t")))
            assert await store.read(lambda r: r.position_at(5_000)) == 4
            assert await store.write(TrimLog(before_us=3_001, keep=1000, limit=2)) == 2
            assert await store.write(TrimLog(before_us=3_001, keep=1000, limit=99)) == 3
            assert await store.write(TrimLog(before_us=0, keep=5, limit=99)) == 5
            assert await store.read(lambda r: r.trimmed()) == 5
            assert await store.read(lambda r: r.position_at(0)) == 5
            with pytest.raises(CursorExpired):
                await store.read(lambda r: r.log(4, 10))
            assert len(await whole_log(opened)) == 5
            assert await store.write(TrimLog(before_us=1 << 60, keep=0, limit=99)) == 9
            assert await store.read(lambda r: r.head()) == 10
            assert await store.read(lambda r: r.check()) == []

    async def test_the_logs_time_never_goes_back(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 5_000
            library = await opened.library()
            opened.clock.us = 4_000
            await opened.store.write(put(library, draft("x")))
            assert [change.at_us for change in await whole_log(opened)] == [5_000, 5_000]

    async def test_a_failing_command_leaves_its_neighbours_alone(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            outcomes: dict[int, object] = {}

            async def write(i: int) -> None:
                try:
                    commands = (put(library, draft(f"d{i}", "t")), create("books"))
                    outcomes[i] = await store.write(commands[i % 3 == 1])
                except HeadwaterError as error:
                    outcomes[i] = error

            async with anyio.create_task_group() as group:
                for i in range(30):
                    group.start_soon(write, i)
            failed = {i for i, outcome in outcomes.items() if isinstance(outcome, LibraryExists)}
            assert failed == set(range(1, 30, 3))
            now = await store.read(lambda reader: reader.library(library.id))
            assert now is not None
            assert now.documents == 20
            await is_sound(opened)

    async def test_a_commit_is_told_before_its_writer_hears(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            for i in range(20):
                (written,) = await opened.store.write(put(library, draft(f"d{i}", "t")))
                assert opened.commits[-1].through >= written.position

    async def test_a_snapshot_stays_where_it_is(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(put(library, draft("x", "old")))
            async with store.snapshot() as snapshot:
                await store.write(put(library, draft("x", "new"), draft("y", "new")))
                await store.write(DeleteLibrary(library.number))
                documents = await snapshot.read(
                    lambda reader: reader.documents(library.number, after_row=0, limit=9)
                )
                ((chunk,),) = await snapshot.read(lambda reader: reader.chunks(documents))
                assert (len(documents), chunk.text) == (1, "old")
                assert snapshot.position == documents[0].position
                assert await snapshot.read(lambda r: r.head()) == snapshot.position
            assert await store.read(lambda r: r.library(library.id)) is None

    async def test_a_lanes_reader_sees_what_is_committed(self, backend: Backend) -> None:
        async with backend.open() as opened:
            run = opened.store.open_reader()
            library = await opened.library()
            found = await anyio.to_thread.run_sync(run, lambda r: r.library("books"))
            assert found == library
            await opened.store.write(DeleteLibrary(library.number))
            assert await anyio.to_thread.run_sync(run, lambda r: r.library("books")) is None

    async def test_everything_is_there_after_reopening(self, backend: Backend) -> None:
        async with backend.open() as opened:
            log_id, library = opened.store.log_id, await opened.library()
            await opened.store.write(put(library, draft("x", "a")))
            before = await whole_log(opened)
            store = opened.store
        with pytest.raises(ShuttingDown):
            await store.write(create("late"))
        async with backend.open() as opened:
            assert opened.store.log_id == log_id
            assert await whole_log(opened) == before
            await opened.store.write(put(library, draft("x", "b")))
            assert opened.commits[0].after == before[-1].position
            new = await opened.store.restore_identity()
            assert new != log_id
        async with backend.open() as opened:
            assert opened.store.log_id == new
            assert opened.foreign == []
            await is_sound(opened)

    async def test_check_finds_nothing_in_a_new_store(self, backend: Backend) -> None:
        async with backend.open() as opened:
            assert await opened.store.read(lambda reader: reader.check()) == []
            assert await opened.store.read(lambda reader: reader.head()) == 0
            assert await opened.store.read(lambda reader: reader.position_at(1 << 60)) == 0
