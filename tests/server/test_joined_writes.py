"""Whom a stopping server waits for: a client that takes something, however slowly."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from headwater import joined_writes
from headwater.joined_writes import JoinedWrites, JoinedWritesProtocol

BODY_BYTES = 1 << 20
LATER_BYTES = 64 << 20
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Stopping:
    """One connection whose answer has more to come, of a server that stops; it looks when told."""

    def __init__(self) -> None:
        self.state = ServerState()
        self.protocol: JoinedWritesProtocol | None = None
        self._more = asyncio.Event()

    def __call__(self) -> JoinedWritesProtocol:
        config = Config(self._answer, interface="asgi3", lifespan="off")
        config.load()
        self.protocol = JoinedWritesProtocol(
            config=config, server_state=self.state, app_state={}, _loop=asyncio.get_running_loop()
        )
        return self.protocol

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(LATER_BYTES).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(BODY_BYTES), "more_body": True})
        await self._more.wait()

    @property
    def transport(self) -> JoinedWrites:
        assert self.protocol is not None
        return cast(JoinedWrites, self.protocol.transport)

    def look(self, taken_bytes: int | None) -> int:
        """As its timer has it look; what was taken by then."""
        assert self.protocol is not None
        self.protocol._press(taken_bytes)
        return self.transport.taken_bytes

    async def settled(self) -> None:
        """Return once the system takes no more, as the client reads nothing."""
        end = self.transport.get_extra_info("socket").fileno()
        while self.transport.waiting and select.select([], [end], [], 0)[1]:  # noqa: ASYNC110 - it rings no bell
            await asyncio.sleep(0)


async def read(client: socket.socket, count: int) -> None:
    """Raises `ConnectionResetError` where it ends before, however it does."""
    loop = asyncio.get_running_loop()
    while count > 0:
        piece = await loop.sock_recv(client, min(count, 1 << 16))
        if not piece:
            raise ConnectionResetError
        count -= len(piece)


@pytest.mark.anyio
async def test_a_client_that_takes_as_much_as_comes_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joined_writes, "_TAKES_NOTHING_S", 3600)
    loop = asyncio.get_running_loop()
    stopping = Stopping()
    server = await loop.create_server(stopping, "127.0.0.1", 0)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # inherited
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, REQUEST)
        await read(client, 1)
        await stopping.settled()
        assert stopping.transport.waiting
        waiting = stopping.transport.get_write_buffer_size()
        taken = stopping.look(None)

        await read(client, 300_000)
        await stopping.settled()
        while (room := waiting - stopping.transport.get_write_buffer_size()) > 0:
            stopping.transport.write(bytes(room))
            await stopping.settled()
        assert stopping.transport.get_write_buffer_size() == waiting
        later = stopping.look(taken)
        assert later >= taken + 200_000
        assert stopping.protocol in stopping.state.connections

        stopping.look(later)  # nothing since then
        with pytest.raises(ConnectionResetError):
            await read(client, LATER_BYTES)
        assert stopping.protocol not in stopping.state.connections
    server.close()
    await server.wait_closed()
