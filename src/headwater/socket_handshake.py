"""The HTTP side of a WebSocket: its handshake as ASGI tells it, and how one is refused.

`socket_protocol.py` uses it. A refusal is a whole HTTP answer, and its body a problem as
everywhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from uvicorn.config import Config
from websockets.http11 import Request, Response

from headwater.api import problems
from headwater.api.socket.wire import EXTENSION, Wire
from headwater.errors import InvalidHandshake

_KEPT = frozenset({"upgrade", "sec-websocket-version", "allow"})
"""What a refusal says in its head about what would be accepted."""


def scope_of(
    request: Request,
    transport: asyncio.Transport,
    config: Config,
    state: dict[str, Any],
    wire: Wire,
) -> dict[str, Any]:
    """The ASGI scope of a connection."""
    path, _, query = request.path.partition("?")
    offered = request.headers.get_all("Sec-WebSocket-Protocol")
    return {
        "type": "websocket",
        "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": transport.get_extra_info("sockname"),
        "client": transport.get_extra_info("peername"),
        "root_path": config.root_path,
        "path": config.root_path + unquote(path),
        "raw_path": (config.root_path + path).encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers.raw_items()
        ],
        "subprotocols": [
            token for line in offered for part in line.split(",") if (token := part.strip())
        ],
        "state": state.copy(),
        "extensions": {"websocket.http.response": {}, EXTENSION: wire},
    }


def answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A whole HTTP answer, after which the connection closes."""
    head = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    head += [b"%b: %b\r\n" % (name, value) for name, value in headers]
    head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
    return b"".join(head) + body


def refusal(response: Response | None, error: BaseException | None) -> bytes:
    """The answer to a handshake that is none; `response` is what the parser would say."""
    problem = InvalidHandshake(
        f"this is no WebSocket handshake: {error}; /asyncapi.json describes the socket"
    )
    headers = [(b"content-type", problems.MEDIA_TYPE.encode())]
    if response is not None:
        headers += [
            (name.lower().encode(), value.encode())
            for name, value in response.headers.raw_items()
            if name.lower() in _KEPT
        ]
    status = 400 if response is None else response.status_code
    return answer(status, headers, problems.encoded(problem))
