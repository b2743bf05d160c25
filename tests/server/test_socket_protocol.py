"""The protocol of sockets on a real connection, with an application of the test's own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import uvicorn
from server.socket_client import CLOSE, frame_of
from uvicorn.server import ServerState

from headwater import socket_protocol
from headwater.settings import WebSocketSettings
from headwater.socket_messages import Unfinished
from headwater.socket_protocol import SOCKETS, SocketProtocol

pytestmark = pytest.mark.anyio

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
BYE = b"\x11\x3abye"
"""4410, and why."""


@asynccontextmanager
async def connected(
    app: Any, settings: WebSocketSettings
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that has shaken hands with `app`."""
    config = uvicorn.Config(app, log_config=None)
    config.load()
    async with anyio.create_task_group() as sockets:
        made = functools.partial(
            SocketProtocol,
            config,
            ServerState(),
            {SOCKETS: sockets},
            settings=settings,
            unfinished=Unfinished(settings.unfinished_bytes),
        )
        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            yield reader, writer
        finally:
            writer.close()
            server.close()
            await server.wait_closed()


@pytest.mark.parametrize("size", [1, 500])
async def test_a_close_is_answered_behind_all_that_was_being_said(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(socket_protocol, "LINGER_S", 3_600)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(4):  # far more has arrived by then, and waits for room
            await receive()
        await send({"type": "websocket.close", "code": 4410, "reason": "bye"})

    async with connected(app, WebSocketSettings()) as (reader, writer):
        with anyio.fail_after(20):
            frame = frame_of(size * b"x")
            writer.write(frame * (200_000 // len(frame) + 1))
            assert await reader.readexactly(7) == b"\x88\x05" + BYE
            writer.write(frame_of(BYE, CLOSE))
            assert await reader.read() == b"", "the server ends, and says nothing more"
