"""Readers of the feed over a real store: each change once and in order, wherever they stand."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from store.backend import create, draft, put

from headwater.changes import Log
from headwater.clock import SystemClock
from headwater.errors import CursorExpired, Unavailable
from headwater.feeds import Hub, Selection, Wish, parse_types
from headwater.feeds.reader import FeedReader, Frames
from headwater.model import Change, Cursor, Library
from headwater.service.render import documents_of
from headwater.settings import FeedSettings, StoreSettings
from headwater.store import SqliteStore
from headwater.store.base import DeleteDocument, Reader, TrimLog

pytestmark = pytest.mark.anyio

DOCUMENTS = Wish(Selection(told=parse_types("document.*")))
CHUNKS = Wish(Selection(told=parse_types("document.*,chunk.*")))


class Process:
    """What one server process has of the log."""

    def __init__(self, folder: Path, ring_bytes: int) -> None:
        self.log = Log(ring_bytes)
        self.store = SqliteStore(
            folder,
            StoreSettings(poll_ms=1),
            SystemClock(),
            on_commit=self.log.publish,
            on_foreign=self.log.hear,
        )
        self.frames = Frames(self.log, documents_of(lambda: self.store.log_id), 1 << 20)

    def reader(
        self, wish: Wish, position: int, part: int = 0, *, page: int = 3, write_bytes: int = 10_000
    ) -> FeedReader:
        cursor = Cursor(self.store.log_id, position, part)
        return FeedReader(self.log, self.frames, wish, cursor, page=page, write_bytes=write_bytes)

    async def put(self, library: Library, *ids: str, body: str = "x") -> list[int]:
        written: Any = await self.store.write(put(library, *(draft(id, body, id) for id in ids)))
        return [one.position for one in written]


@asynccontextmanager
async def process(folder: Path, ring_bytes: int = 1 << 20) -> AsyncIterator[Process]:
    running = Process(folder, ring_bytes)
    async with anyio.create_task_group() as tasks:
        await tasks.start(running.store.run)
        head = await running.store.read(lambda reader: reader.head())
        running.log.attach(running.store, head)
        yield running
        tasks.cancel_scope.cancel()


def ids_of(body: bytes) -> list[str]:
    """`type id` (or `type id ordinal`) of every frame."""
    told = []
    for frame in body.split(b"\n\n")[:-1]:
        event = json.loads(frame.partition(b"data: ")[2])
        data = event["data"]
        ordinal = f" {data['ordinal']}" if "ordinal" in data else ""
        told.append(f"{event['type'].split('.')[1]} {data['document_id']}{ordinal}")
    return told


def cursors_of(body: bytes) -> list[str]:
    return [frame.split(b"\n")[0][4:].decode() for frame in body.split(b"\n\n")[:-1]]


async def read_through(reader: FeedReader, position: int) -> bytes:
    out = b""
    with anyio.fail_after(20):
        while reader.position < position:
            before = reader.position
            piece = await reader.next()
            assert piece.through == reader.position > before
            out += piece.body
    assert reader.position == position
    return out


async def test_a_reader_at_the_head_hears_of_commits_as_they_come(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        reader = one.reader(DOCUMENTS, one.log.head)
        assert not reader.behind
        for number in range(3):
            (position,) = await one.put(library, f"d{number}")
            assert reader.behind
            assert ids_of(await read_through(reader, position)) == [f"added d{number}"]
        with anyio.move_on_after(0.05) as scope:
            await reader.next()
        assert scope.cancelled_caught


async def test_ring_and_store_tell_the_same_from_every_position(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        await one.put(library, "a", "b", "c")
        await one.put(library, "a", "d", body="y")
        await one.store.write(DeleteDocument(library.number, "b"))
        await one.put(library, "e")
        head = one.log.head
        stored = Process(tmp_path, 1)
        async with anyio.create_task_group() as tasks:
            await tasks.start(stored.store.run)
            stored.log.attach(stored.store, head)  # its ring is empty: all comes from the store
            for wish in (DOCUMENTS, CHUNKS, Wish(CHUNKS.selection, "cloudevents", True)):
                for position in range(head):
                    ours = await read_through(one.reader(wish, position), head)
                    theirs = await read_through(stored.reader(wish, position), head)
                    assert ours == theirs
            tasks.cancel_scope.cancel()


async def test_a_reader_inside_a_commit_hears_only_the_rest(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        positions = await one.put(library, *"abcde")
        for place, position in enumerate(positions):
            rest = await read_through(one.reader(DOCUMENTS, position), positions[-1])
            assert ids_of(rest) == [f"added {id}" for id in "abcde"[place + 1 :]]


async def test_every_cursor_told_resumes_exactly_there(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        await one.put(library, "a", "b")
        await one.put(library, "a", body="y")
        await one.store.write(DeleteDocument(library.number, "b"))
        head = one.log.head
        whole = await read_through(one.reader(CHUNKS, 0), head)
        frames = ids_of(whole)
        assert len(frames) == 2 * 3 + (1 + 2 + 2) + (1 + 2)
        for place, text in enumerate(cursors_of(whole)):
            cursor = Cursor.parse(text, log_id=one.store.log_id)
            if cursor.position == head:
                continue
            resumed = one.reader(CHUNKS, cursor.position, cursor.part)
            assert ids_of(await read_through(resumed, head)) == frames[place + 1 :]


async def test_commits_of_another_process_are_heard_once_and_in_order(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(process(tmp_path))
        library: Library = await one.store.write(create("books"))
        two = await stack.enter_async_context(process(tmp_path))
        readers = [at.reader(DOCUMENTS, at.log.head) for at in (one, two)]
        sent = []
        for number in range(30):
            at = (one, two, two)[number % 3]
            ids = [f"{number}-{part}" for part in range(number % 4 + 1)]
            last = (await at.put(library, *ids))[-1]
            sent += [f"added {id}" for id in ids]
        for reader in readers:
            assert ids_of(await read_through(reader, last)) == sent
        # And whoever begins in the middle of it, in the ring, a gap or the store.
        for at in (one, two):
            whole = await read_through(at.reader(DOCUMENTS, 0), last)
            for place, text in enumerate(cursors_of(whole)[:-1]):
                position = Cursor.parse(text, log_id=at.store.log_id).position
                rest = await read_through(at.reader(DOCUMENTS, position), last)
                assert ids_of(rest) == sent[place + 1 :]


async def test_a_filtered_reader_advances_where_nothing_matches(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        await one.put(library, *"abcdefgh")
        wish = Wish(Selection(told=parse_types("batch.*")))
        assert await read_through(one.reader(wish, 0), one.log.head) == b""


async def test_a_small_write_limit_cuts_between_commits(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        start = one.log.head
        for number in range(5):
            await one.put(library, f"d{number}")
        reader = one.reader(DOCUMENTS, start, write_bytes=1)
        for number in range(5):
            assert ids_of((await reader.next()).body) == [f"added d{number}"]


async def test_readers_with_equal_wishes_share_their_frames(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        start = one.log.head
        await one.put(library, "a")
        same = Wish(Selection(told=parse_types("document.*")))
        pieces = [await one.reader(wish, start).next() for wish in (DOCUMENTS, same)]
        assert pieces[0].body is pieces[1].body


async def test_readers_that_come_together_read_each_document_once(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        start = one.log.head
        await one.put(library, "a")
        render, reads = documents_of(lambda: one.store.log_id), itertools.count()

        def counted(reader: Reader, changes: Iterable[Change]) -> Any:
            next(reads)
            return render(reader, changes)

        one.frames = Frames(one.log, counted, 1 << 20)
        whole = replace(DOCUMENTS, documents=True)
        bodies: list[bytes] = []

        async def read() -> None:
            bodies.append((await one.reader(whole, start).next()).body)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(read)
        assert [ids_of(body) for body in bodies] == [["added a"]] * 10
        assert next(reads) == 1


async def test_a_reader_that_fails_to_encode_lets_the_next_one_try(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        start = one.log.head
        await one.put(library, "a")
        render, reads = documents_of(lambda: one.store.log_id), itertools.count()

        def failing_once(reader: Reader, changes: Iterable[Change]) -> Any:
            if not next(reads):
                raise Unavailable("not now")
            return render(reader, changes)

        one.frames = Frames(one.log, failing_once, 1 << 20)
        whole = replace(DOCUMENTS, documents=True)
        heard: list[list[str]] = []

        async def read() -> None:
            try:
                heard.append(ids_of((await one.reader(whole, start).next()).body))
            except Unavailable:
                heard.append([])

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read)
        assert sorted(heard) == [[], ["added a"], ["added a"]]


async def test_a_trimmed_reader_is_told_the_earliest_cursor(tmp_path: Path) -> None:
    async with process(tmp_path, ring_bytes=1) as one:
        library: Library = await one.store.write(create("books"))
        for number in range(10):
            await one.put(library, f"d{number}")
        trimmed = await one.store.write(TrimLog(0, 3, 100))
        with pytest.raises(CursorExpired) as caught:
            await one.reader(DOCUMENTS, 1).next()
        assert caught.value.fields["earliest"] == f"{one.store.log_id}.{trimmed}"
        last = await read_through(one.reader(DOCUMENTS, trimmed), one.log.head)
        assert ids_of(last) == ["added d7", "added d8", "added d9"]
        cursor = await one.log.resolve("beginning")
        assert cursor.position == trimmed


async def test_pages_go_on_where_they_end(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        library: Library = await one.store.write(create("books"))
        ids = [f"d{number}" for number in range(25)]
        await one.put(library, *ids)
        hub = Hub(one.log, FeedSettings(), SystemClock(), documents_of(lambda: one.store.log_id))
        for wish, each in ((DOCUMENTS, 1), (CHUNKS, 3)):
            cursor, told = one.log.cursor(0), []
            while True:
                page = await hub.page(wish, cursor, 7, timedelta(0))
                if not page.events:
                    break
                told += [json.loads(event.json)["data"]["document_id"] for event in page.events]
                cursor = page.cursor
            assert told == [id for id in ids for _ in range(each)]
            assert cursor.position == one.log.head
