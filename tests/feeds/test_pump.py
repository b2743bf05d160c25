"""Crowds at the head of the log: in a row or alone, everybody hears each event once, in order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.abc
import pytest
from feeds.test_reader import Process, process
from store.backend import create

from headwater.clock import Clock, SystemClock
from headwater.feeds import Hub, Line, Selection, Subscription, Wish, crowd, parse_types, pump
from headwater.feeds.event import Event
from headwater.feeds.reader import read_events
from headwater.model import Cursor, Library, Position
from headwater.service.render import documents_of
from headwater.settings import FeedSettings
from headwater.store.base import DeleteDocument

pytestmark = pytest.mark.anyio

WISHES = [
    Wish(Selection(told=parse_types(types)), framing="apart")
    for types in ("document.*", "document.*,chunk.*")
]
DELETIONS = Wish(Selection(told=parse_types("document.deleted")), framing="apart")


def place_of(event: Event) -> tuple[Position, int]:
    cursor = Cursor.parse(event.cursor, log_id=event.cursor.partition(".")[0])
    return cursor.position, cursor.part


class Hand(SystemClock):
    """A clock that is moved by hand."""

    at_s = 0.0

    def monotonic(self) -> float:
        return self.at_s


@dataclass(eq=False)
class Peer:
    """A client and the way to it. By `fickleness` it takes no more after what it was told."""

    hub: Hub
    wish: Wish
    name: str
    after: Cursor
    chosen: random.Random
    fickleness: float = 0
    clock: Clock = field(default_factory=SystemClock)
    told: list[str] = field(default_factory=list)
    in_row: int = 0
    in_row_bytes: int = 0
    counted: int = 0
    counted_bytes: int = 0
    progressed: list[Cursor] = field(default_factory=list)
    over: bool = False
    broken: bool = False

    def __post_init__(self) -> None:
        self._room = anyio.Event()
        self._room.set()
        self.has_progressed = anyio.Event()
        self.scope = anyio.CancelScope()
        self.subscription = Subscription(self.hub, self.wish, self.after, self, self.clock)

    async def run(self) -> None:
        with self.scope:
            await self.subscription.run()

    def open(self) -> None:
        self._room.set()

    def end(self) -> None:
        self.subscription.step_out()
        self.over = True
        self.scope.cancel()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._room.wait()
        yield

    def tell(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise BrokenPipeError
        if not self.over:
            self._take(self._framed(events).decode().split(" "))

    def tell_now(self, events: Sequence[Event]) -> None:
        if not self._room.is_set():
            raise anyio.WouldBlock
        self.tell(events)

    def line(self) -> Line | None:
        if self.over or not self._room.is_set():
            return None
        return Line(self.name, self._framed, self._write, self._count)

    def progress(self, cursor: Cursor) -> None:
        assert not self.over
        self.progressed.append(cursor)
        self.has_progressed.set()
        self.has_progressed = anyio.Event()

    def _framed(self, events: Sequence[Event]) -> bytes:
        size_bytes = sum(len(event.json) for event in events)
        assert len(events) == 1 or size_bytes <= self.hub.settings.write_bytes
        return " ".join(event.cursor for event in events).encode()

    def _write(self, data: bytes) -> None:
        assert self._room.is_set(), "it had said that it takes no more"
        assert not self.over, "it had said that it is over"
        if self.broken:
            raise BrokenPipeError
        cursors = data.decode().split(" ")
        self.in_row += len(cursors)
        self.in_row_bytes += len(data)
        self._take(cursors)

    def _take(self, cursors: list[str]) -> None:
        self.told += cursors
        if self.chosen.random() < self.fickleness:
            self._room = anyio.Event()
            self.subscription.step_out()

    def _count(self, events: int, size_bytes: int) -> None:
        self.counted += events
        self.counted_bytes += size_bytes


@asynccontextmanager
async def telling(
    folder: Path, settings: FeedSettings, clock: Clock | None = None
) -> AsyncIterator[tuple[Process, Library, Hub, anyio.abc.TaskGroup]]:
    async with process(folder) as running:
        library: Library = await running.store.write(create("notes"))
        renders = documents_of(lambda: running.store.log_id)
        hub = Hub(running.log, settings, clock or SystemClock(), renders)
        async with anyio.create_task_group() as tasks:
            await tasks.start(hub.run)
            yield running, library, hub, tasks
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(6))
async def test_a_crowd_that_comes_goes_and_stalls_hears_each_event_once(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "IN_A_ROW", 4)
    monkeypatch.setattr(pump, "ROW", 4)
    monkeypatch.setattr(crowd, "ROW", 4)
    chosen = random.Random(seed)
    async with telling(tmp_path, FeedSettings(write_bytes=5_000)) as (running, library, hub, tasks):
        log = running.log
        start = log.cursor(log.head)
        peers: list[Peer] = []
        ended: dict[Peer, Position] = {}
        async with anyio.create_task_group() as writes:
            for number in range(80):
                for _ in range(chosen.choice((0, 0, 1, 3))):
                    wish, name = chosen.choice(WISHES), chosen.choice(("a", "a", "b"))
                    after = chosen.choice((start, log.cursor(log.head)))
                    fickleness = chosen.choice((0, 0.3))
                    peers.append(Peer(hub, wish, name, after, chosen, fickleness))
                    tasks.start_soon(peers[-1].run)
                if peers and chosen.random() < 0.2:
                    leaving = chosen.choice(peers)
                    leaving.end()
                    ended.setdefault(leaving, leaving.subscription.position)
                for peer in peers:
                    if chosen.random() < 0.5:
                        peer.open()
                ids = [f"d{number}-{n}" for n in range(chosen.choice((1, 1, 1, 30)))]
                if chosen.random() < 0.3:
                    writes.start_soon(running.put, library, *ids)
                    continue
                await running.put(library, *ids)
                if chosen.random() < 0.7:
                    await anyio.wait_all_tasks_blocked()
        staying = [peer for peer in peers if peer not in ended]
        for peer in staying:
            peer.fickleness = 0
            peer.open()
            await peer.subscription.reached(log.head)

        for peer in peers:
            told, _ = await read_events(log, hub.frames, peer.wish, peer.after, 10_000)
            assert peer.told == [event.cursor for event in told[: len(peer.told)]]
            last = ended.get(peer, log.head)
            assert len(peer.told) >= sum(place_of(event) <= (last, 0) for event in told)
            assert (peer.counted, peer.counted_bytes) == (peer.in_row, peer.in_row_bytes)
        assert sum(peer.in_row for peer in peers) > 50, "hardly anybody was told in a row"
        assert any(peer.in_row for peer in ended), "nobody left a row for good"


async def test_a_line_that_fails_ends_its_own_subscription_only(tmp_path: Path) -> None:
    async with telling(tmp_path, FeedSettings()) as (running, library, hub, tasks):
        start = running.log.cursor(running.log.head)
        peers = [Peer(hub, WISHES[0], "a", start, random.Random(1)) for _ in range(5)]
        broken = peers.pop(2)
        failures: list[Exception] = []

        async def run_into_it() -> None:
            try:
                await broken.run()
            except BrokenPipeError as error:
                failures.append(error)

        tasks.start_soon(run_into_it)
        for peer in peers:
            tasks.start_soon(peer.run)
        await anyio.wait_all_tasks_blocked()
        await running.put(library, "before")
        await anyio.wait_all_tasks_blocked()
        broken.broken = True
        for number in range(3):
            await running.put(library, f"d{number}")
            await anyio.wait_all_tasks_blocked()
        assert len(failures) == 1
        assert [len(peer.told) for peer in peers] == [4] * 4
        assert [peer.in_row for peer in peers] == [3] * 4
        assert len(broken.told) == 1


async def test_a_row_that_nothing_matches_for_is_told_how_far_it_is(tmp_path: Path) -> None:
    settings = FeedSettings(progress=timedelta(milliseconds=50))
    clock = Hand()
    async with telling(tmp_path, settings, clock) as (running, library, hub, tasks):
        start = running.log.cursor(running.log.head)
        peers = [Peer(hub, DELETIONS, "a", start, random.Random(1), clock=clock) for _ in range(3)]
        for peer in peers:
            tasks.start_soon(peer.run)
        await anyio.wait_all_tasks_blocked()
        for number in range(2):  # by the second they stand in a row
            await running.put(library, f"d{number}")
            await running.store.write(DeleteDocument(library.number, f"d{number}"))
            await anyio.wait_all_tasks_blocked()
        assert [peer.in_row for peer in peers] == [1] * 3
        (last,) = await running.put(library, "d")
        clock.at_s = 1
        with anyio.fail_after(20):
            for peer in peers:
                while peer.progressed != [running.log.cursor(last)]:
                    await peer.has_progressed.wait()
        assert [len(peer.told) for peer in peers] == [2] * 3


async def test_who_stands_within_a_change_not_heard_of_yet_hears_its_rest_once(
    tmp_path: Path,
) -> None:
    async with telling(tmp_path, FeedSettings()) as (running, library, hub, tasks):
        head, log_id = running.log.head, running.log.store.log_id
        peer = Peer(hub, WISHES[1], "a", Cursor(log_id, head, 1), random.Random(1))
        tasks.start_soon(peer.run)
        await anyio.wait_all_tasks_blocked()
        for number in range(3):
            await running.put(library, f"d{number}")
        await peer.subscription.reached(running.log.head)
        told, _ = await read_events(
            running.log, hub.frames, peer.wish, running.log.cursor(head), 100
        )
        assert peer.told == [event.cursor for event in told[1:]]
