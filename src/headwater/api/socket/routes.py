"""`WS /v1/libraries/{library}/ws` and `GET /v1/websockets/statistics`.

The handshake is decided here. What a browser could not tell from a lost connection (no such
library, too many sockets) is said on an accepted socket: an error frame, then a close code.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from headwater.api import openapi, problems, wire
from headwater.api.socket import frames
from headwater.api.socket.frames import SUBPROTOCOL
from headwater.api.socket.sockets import Sockets
from headwater.api.socket.wire import SocketClosed, Wire, wire_of
from headwater.errors import (
    HeadwaterError,
    OriginRefused,
    Refused,
    UnknownSubprotocol,
    UpgradeRequired,
)
from headwater.service.sessions import Sessions


class SocketEndpoint:
    """Plain ASGI: one WebSocket connection, from its handshake to its end."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        channel = await shake_hands(self._sockets, scope, receive, send)
        if channel is None:
            return
        try:
            self._sockets.streams.check()
            library = await self._sockets.services.libraries.get(scope["path_params"]["library"])
            self._sockets.streams.check()
        except HeadwaterError as error:
            await turn_away(self._sockets, channel, error)
            return
        await self._sockets.serve(channel, receive, library)


async def shake_hands(sockets: Sockets, scope: Scope, receive: Receive, send: Send) -> Wire | None:
    """Accept a connection; None when it was refused, or is gone."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return None
    channel = wire_of(scope)
    headers = Headers(scope=scope)
    try:
        if channel is None:
            raise Refused("this server speaks no WebSocket; start it with `headwater serve`")
        sockets.check_origin(headers.get("origin"), headers.get("host"))
        subprotocol = choose(scope["subprotocols"])
    except (Refused, OriginRefused, UnknownSubprotocol) as error:
        sockets.refuse(error)
        await _refuse(send, error)
        return None
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    return channel


async def turn_away(sockets: Sockets, channel: Wire, error: HeadwaterError) -> None:
    """Say on an accepted socket why it cannot be served, and close it."""
    code = sockets.refuse(error)
    try:
        channel.write([frames.error(error)])
    except SocketClosed:
        return
    channel.close(code, error.code)
    await channel.wait_closed()


def choose(offered: list[str]) -> str | None:
    """The subprotocol to speak; None when none was offered. Raises `UnknownSubprotocol`."""
    if SUBPROTOCOL in offered:
        return SUBPROTOCOL
    if offered:
        raise UnknownSubprotocol(
            f"none of the subprotocols offered is spoken here; offer {SUBPROTOCOL}, or none",
            known=[SUBPROTOCOL],
        )
    return None


async def _refuse(send: Send, error: HeadwaterError) -> None:
    body = problems.encoded(error)
    await send(
        {
            "type": "websocket.http.response.start",
            "status": problems.status_of(error),
            "headers": [(b"content-type", problems.MEDIA_TYPE.encode())],
        }
    )
    await send({"type": "websocket.http.response.body", "body": body})


def socket_routes(sockets: Sockets, sessions: Sessions) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["sockets"])
    path = "/libraries/{library}/ws"
    router.routes.append(WebSocketRoute("/v1" + path, SocketEndpoint(sockets)))

    @router.get(
        path,
        summary="Open a WebSocket",
        description=(
            "With a WebSocket handshake, subprotocol `headwater.v1`: requests, events and live "
            "queries over one connection. `/asyncapi.json` describes its frames."
        ),
        responses=openapi.answers({}, 403, 404, 426),
        status_code=426,
    )
    async def upgrade(library: str) -> Response:
        raise UpgradeRequired(
            "this path is a WebSocket's; connect to it with a WebSocket client. /asyncapi.json "
            "describes what is said there"
        )

    @router.get(
        "/websockets/statistics",
        summary="How the WebSockets are doing",
        description="Counted in the process that answers, since it started.",
        responses=openapi.answers({200: ("Figures.", {})}),
    )
    async def statistics() -> Response:
        return wire.json_response({**sockets.snapshot(), "sessions": sessions.figures()})

    return router
