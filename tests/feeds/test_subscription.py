"""Subscriptions over a real store: turns, windows and resuming, whatever their client does."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from feeds.test_reader import Process, process
from store.backend import create

from headwater.clock import SystemClock
from headwater.errors import CursorExpired, InvalidCursor
from headwater.feeds import Hub, Line, Selection, Subscription, Wish, parse_types
from headwater.feeds.event import Event
from headwater.model import Cursor, Library
from headwater.service.render import documents_of
from headwater.settings import FeedSettings
from headwater.store.base import TrimLog

pytestmark = pytest.mark.anyio

CHUNKS = Wish(Selection(told=parse_types("document.*,chunk.*")), framing="apart")


EVENTS = ["document.added", "chunk.added", "chunk.added"]
"""Of each document."""


class Client:
    """Has room while `open`; every turn ends it when `sips` is set."""

    def __init__(self, *, sips: bool = False) -> None:
        self.told: list[Event] = []
        self.largest = 0
        self.progressed: list[Cursor] = []
        self.sips = sips
        self._room = anyio.Event()
        self.open()

    def open(self) -> None:
        self._room.set()

    def close(self) -> None:
        self._room = anyio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._room.wait()
        yield

    def tell(self, events: Sequence[Event]) -> None:
        self.told += events
        self.largest = max(self.largest, sum(len(event.json) for event in events))
        if self.sips:
            self.close()

    def tell_now(self, events: Sequence[Event]) -> None:
        if not self._room.is_set():
            raise anyio.WouldBlock
        self.tell(events)

    def line(self) -> Line | None:
        return None

    def progress(self, cursor: Cursor) -> None:
        self.progressed.append(cursor)


@asynccontextmanager
async def telling(
    folder: Path, client: Client, *, max_unacked: int | None = None, ring_bytes: int = 1 << 20
) -> AsyncIterator[tuple[Subscription, Library, Process]]:
    async with process(folder, ring_bytes) as running:
        library: Library = await running.store.write(create("notes"))
        hub = Hub(
            running.log,
            FeedSettings(write_bytes=1024),
            SystemClock(),
            documents_of(lambda: running.store.log_id),
        )
        after = running.log.cursor(running.log.head)
        subscription = Subscription(
            hub, CHUNKS, after, client, SystemClock(), max_unacked=max_unacked
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(hub.run)
            tasks.start_soon(subscription.run)
            yield subscription, library, running
            tasks.cancel_scope.cancel()


async def test_events_are_told_once_and_in_order_to_a_client_that_sips(tmp_path: Path) -> None:
    client = Client(sips=True)
    async with telling(tmp_path, client) as (subscription, library, running):
        positions: list[int] = []
        for number in range(40):
            positions += await running.put(library, f"d{number}")
            if number % 3 == 0:
                client.open()
        while subscription.position < positions[-1]:
            client.open()
            await anyio.lowlevel.checkpoint()
    assert [event.type for event in client.told] == EVENTS * 40
    cursors = [event.cursor for event in client.told]
    assert len(set(cursors)) == len(cursors)


async def test_a_client_without_room_is_told_nothing_and_goes_on_from_there(
    tmp_path: Path,
) -> None:
    client = Client()
    client.close()
    async with telling(tmp_path, client) as (subscription, library, running):
        start = subscription.position
        for number in range(10):
            (last,) = await running.put(library, f"d{number}")
        await anyio.wait_all_tasks_blocked()
        assert client.told == []
        assert (subscription.position, subscription.lag) == (start, last - start)
        client.open()
        await subscription.reached(last)
    assert len(client.told) == 10 * len(EVENTS)


@pytest.mark.parametrize("sips", [False, True])
async def test_one_large_commit_is_told_in_pieces_that_fit(tmp_path: Path, sips: bool) -> None:
    client = Client(sips=sips)
    async with telling(tmp_path, client) as (subscription, library, running):
        for turn in range(3):
            ids = [f"d{turn}-{n}" for n in range(50)]
            *_, last = await running.put(library, *ids)
            while subscription.position < last:
                client.open()
                await anyio.lowlevel.checkpoint()
    assert [event.type for event in client.told] == EVENTS * 150
    cursors = [event.cursor for event in client.told]
    assert len(set(cursors)) == len(cursors)
    assert client.largest <= 1024


async def test_a_place_is_reached_also_where_nothing_is_wanted(tmp_path: Path) -> None:
    client = Client()
    async with telling(tmp_path, client) as (subscription, library, running):
        await running.put(library, "d")
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(subscription.reached, running.log.head + 1)
                await anyio.wait_all_tasks_blocked()
                await running.store.write(create("others"))
    assert [event.type for event in client.told] == EVENTS


async def test_windows_of_any_size_tell_the_same(tmp_path: Path) -> None:
    chosen = random.Random(4)
    for window in (1, 2, 3, 7):
        client = Client()
        folder = tmp_path / str(window)
        async with telling(folder, client, max_unacked=window) as (subscription, library, running):
            for number in range(12):
                (last,) = await running.put(library, f"d{number}")
            while subscription.position < last or subscription.unacked:
                await anyio.wait_all_tasks_blocked()
                assert subscription.unacked <= window
                told = client.told[-subscription.unacked :]
                if told:
                    log_id = running.log.store.log_id
                    subscription.ack(Cursor.parse(chosen.choice(told).cursor, log_id=log_id))
        assert [event.type for event in client.told] == EVENTS * 12


async def test_only_what_was_told_can_be_acknowledged(tmp_path: Path) -> None:
    client = Client()
    async with telling(tmp_path, client, max_unacked=2) as (subscription, library, running):
        for number in range(5):
            (last,) = await running.put(library, f"d{number}")
        await anyio.wait_all_tasks_blocked()
        log_id = running.log.store.log_id
        with pytest.raises(InvalidCursor):
            subscription.ack(Cursor(log_id, last))
        assert subscription.unacked == 2


async def test_a_subscription_that_the_log_was_trimmed_past_ends(tmp_path: Path) -> None:
    client = Client()
    client.close()

    async def trim_past_it() -> None:
        async with telling(tmp_path, client, ring_bytes=1) as (_, library, running):
            for number in range(5):
                await running.put(library, f"d{number}")
            await running.store.write(TrimLog(0, 1, 100))
            client.open()
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as ended:
        await trim_past_it()
    assert ended.group_contains(CursorExpired)
