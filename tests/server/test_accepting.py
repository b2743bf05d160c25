"""How workers share what one listening socket brings."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from headwater.accepting import Accepting, new_loop


class Counter:
    """Protocols for one worker, and how many of them got a connection."""

    def __init__(self) -> None:
        self.made = 0
        self.changed = asyncio.Event()

    def __call__(self) -> asyncio.Protocol:
        counter = self

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                counter.made += 1
                counter.changed.set()

        return Protocol()

    async def reach(self, count: int) -> None:
        while self.made < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield listener


def connect(stack: ExitStack, listener: socket.socket, count: int) -> None:
    for _ in range(count):
        stack.enter_context(socket.create_connection(listener.getsockname()))


def run(story: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


def test_connections_that_wait_are_shared_out_among_all_who_listen() -> None:
    async def story() -> None:
        with listening() as listener, listener.dup() as same, ExitStack() as clients:
            connect(clients, listener, 8)
            one, other = Counter(), Counter()
            loop = asyncio.get_running_loop()
            servers = [Accepting(loop, one, listener), Accepting(loop, other, same)]
            both = (one.reach(3), other.reach(3))
            await asyncio.gather(*both)
            for server in servers:
                server.close()
                await server.wait_closed()

    run(story)


def test_one_who_listens_alone_takes_them_all() -> None:
    async def story() -> None:
        with listening() as listener, ExitStack() as clients:
            counter = Counter()
            server = await asyncio.get_running_loop().create_server(counter, sock=listener)
            assert server.is_serving()
            connect(clients, listener, 200)
            await counter.reach(200)
            server.close()
            await server.wait_closed()
            assert not server.is_serving()

    run(story)


def test_after_closing_a_connection_waits_for_another_worker() -> None:
    async def story() -> None:
        with listening() as listener, listener.dup() as same, ExitStack() as clients:
            gone, there = Counter(), Counter()
            loop = asyncio.get_running_loop()
            server = Accepting(loop, gone, listener)
            connect(clients, listener, 1)
            await gone.reach(1)
            server.close()
            await server.wait_closed()
            connect(clients, listener, 3)
            server = Accepting(loop, there, same)
            await there.reach(3)
            assert gone.made == 1
            server.close()

    run(story)


class Exhausted(socket.socket):
    """A listening socket of a process that has, twice, as many files open as it may."""

    refusals = 2

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


def test_a_process_with_too_many_open_files_takes_them_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headwater.accepting._FULL_REST_S", 0.01)

    async def story() -> None:
        with Exhausted() as listener, ExitStack() as clients:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            counter = Counter()
            server = Accepting(asyncio.get_running_loop(), counter, listener)
            connect(clients, listener, 2)
            await counter.reach(2)
            assert listener.refusals == 0
            server.close()

    run(story)
