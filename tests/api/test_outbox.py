"""One way out, shared: answers first, feeds in turn, nothing kept, nothing lost when one leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import anyio
import pytest

from headwater.api.socket.outbox import FEEDS_AT_ONCE, Outbox
from headwater.api.socket.statistics import SocketStatistics
from headwater.api.socket.wire import SocketClosed

pytestmark = pytest.mark.anyio


class Peer:
    """A wire whose peer takes `room` messages before it is full."""

    close_code = 1006
    bytes_received = bytes_sent = 0

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.taken: list[bytes] = []
        self.closed = False
        self._tell: Callable[[], None] = lambda: None

    @property
    def writable(self) -> bool:
        return self.room > 0

    def write(self, messages: Sequence[bytes]) -> None:
        if self.closed:
            raise SocketClosed
        self.taken += messages
        self.room -= len(messages)

    def write_framed(self, data: bytes) -> None:
        self.write([data])

    def direct(self, data: bytes) -> None:
        self.write([data])
        if not self.writable:
            self._tell()

    def count(self, size_bytes: int) -> None:
        self.bytes_sent += size_bytes

    def on_change(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def take(self, count: int) -> None:
        self.room += count
        self._tell()

    def keep_alive(self, every: timedelta, timeout: timedelta) -> None: ...

    def close(self, code: int, reason: str = "") -> None:
        self.closed = True

    async def wait_closed(self) -> None: ...


def outbox(peer: Peer) -> tuple[Outbox, SocketStatistics]:
    statistics = SocketStatistics()
    return Outbox(peer, statistics), statistics


async def feed(out: Outbox, name: bytes) -> None:
    async with out.turn():
        out.put(name)


async def test_what_the_peer_takes_is_sent_at_once() -> None:
    peer = Peer(room=5)
    out, statistics = outbox(peer)
    await out.send(b"a", b"b")
    await feed(out, b"c")
    assert peer.taken == [b"a", b"b", b"c"]
    assert statistics.fallbacks == 0


async def test_answers_go_before_feeds_that_wait_longer() -> None:
    peer = Peer()
    out, statistics = outbox(peer)
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(feed, out, b"feed %d" % number)
        await anyio.wait_all_tasks_blocked()
        for number in range(3):
            tasks.start_soon(out.send, b"answer %d" % number)
        await anyio.wait_all_tasks_blocked()
        assert peer.taken == []
        for count in range(1, 4):
            peer.take(1)
            await anyio.wait_all_tasks_blocked()
            assert len(peer.taken) == count, "one turn for each that is taken"
        peer.take(3)
    assert peer.taken[:3] == [b"answer 0", b"answer 1", b"answer 2"]
    assert sorted(peer.taken[3:]) == [b"feed 0", b"feed 1", b"feed 2"]
    assert statistics.fallbacks == 3


async def test_an_answer_that_is_given_up_passes_its_turn_on() -> None:
    peer = Peer()
    out, _ = outbox(peer)
    async with anyio.create_task_group() as tasks:
        waiting = anyio.CancelScope()
        granted = anyio.CancelScope()

        async def leave(scope: anyio.CancelScope) -> None:
            with scope:
                await out.send(b"never")

        tasks.start_soon(leave, granted)
        tasks.start_soon(leave, waiting)
        tasks.start_soon(out.send, b"mine")
        await anyio.wait_all_tasks_blocked()
        waiting.cancel()
        peer.take(1)
        granted.cancel()  # its turn has been given; it may use it, or pass it on
        await anyio.wait_all_tasks_blocked()
        if peer.taken == [b"never"]:
            peer.take(1)
    assert peer.taken[-1] == b"mine"


async def test_a_feed_that_is_given_up_holds_up_no_other() -> None:
    peer = Peer()
    out, _ = outbox(peer)
    async with anyio.create_task_group() as tasks:
        scopes = [anyio.CancelScope() for _ in range(2 * FEEDS_AT_ONCE)]

        async def leave(scope: anyio.CancelScope) -> None:
            with scope:
                await feed(out, b"never")

        for scope in scopes:
            tasks.start_soon(leave, scope)
        tasks.start_soon(feed, out, b"mine")
        await anyio.wait_all_tasks_blocked()
        for scope in scopes:
            scope.cancel()
        await anyio.wait_all_tasks_blocked()
        peer.take(1)
    assert peer.taken == [b"mine"]


async def test_only_so_many_feeds_put_something_together_at_once() -> None:
    peer = Peer(room=1000)
    out, _ = outbox(peer)
    at_work = most = 0
    go_on = anyio.Event()

    async def slow() -> None:
        nonlocal at_work, most
        async with out.turn():
            at_work += 1
            most = max(most, at_work)
            await go_on.wait()
            at_work -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(3 * FEEDS_AT_ONCE):
            tasks.start_soon(slow)
        await anyio.wait_all_tasks_blocked()
        await out.send(b"an answer waits for none of them")
        assert peer.taken
        go_on.set()
    assert most == FEEDS_AT_ONCE


async def test_a_closed_socket_takes_nothing() -> None:
    peer = Peer(room=5)
    out, _ = outbox(peer)
    peer.close(1000)
    with pytest.raises(SocketClosed):
        await out.send(b"x")
    with pytest.raises(SocketClosed):
        out.put(b"x")
