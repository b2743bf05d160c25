"""Offering a piece to a socket: taken at once, or finished by a task later."""

from __future__ import annotations

from datetime import timedelta

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message

from headwater.api.streaming import ClientStalled, Outbound

pytestmark = pytest.mark.anyio

STALL = timedelta(seconds=5)


class Socket:
    """Takes messages while `open` is set, as a server's flow control does."""

    def __init__(self) -> None:
        self.open = anyio.Event()
        self.taken: list[bytes] = []

    async def send(self, message: Message) -> None:
        if not self.open.is_set():
            await self.open.wait()
        await anyio.lowlevel.checkpoint_if_cancelled()
        self.taken.append(message["body"])


async def test_a_free_socket_takes_a_piece_at_once() -> None:
    socket = Socket()
    socket.open.set()
    assert Outbound(socket.send).offer(b"piece", stall=STALL) is None
    assert socket.taken == [b"piece"]


async def test_a_full_socket_gives_a_rest_that_a_task_finishes() -> None:
    socket = Socket()
    rest = Outbound(socket.send).offer(b"piece", stall=STALL)
    assert rest is not None
    assert socket.taken == []
    async with anyio.create_task_group() as tasks:

        async def finish() -> None:
            await rest

        tasks.start_soon(finish)
        await anyio.wait_all_tasks_blocked()
        socket.open.set()
    assert socket.taken == [b"piece"]


async def test_a_rest_that_takes_too_long_is_a_stall_and_sends_nothing() -> None:
    socket = Socket()
    rest = Outbound(socket.send).offer(b"piece", stall=timedelta(milliseconds=10))
    assert rest is not None
    with pytest.raises(ClientStalled):
        await rest
    socket.open.set()
    await anyio.wait_all_tasks_blocked()
    assert socket.taken == []


async def test_a_rest_that_is_abandoned_sends_nothing() -> None:
    socket = Socket()
    rest = Outbound(socket.send).offer(b"piece", stall=STALL)
    assert rest is not None
    rest.close()
    socket.open.set()
    await anyio.wait_all_tasks_blocked()
    assert socket.taken == []
