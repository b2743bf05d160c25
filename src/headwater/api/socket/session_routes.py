"""`WS /v1/sessions/{name}`: joining a session, and staying in it.

As on every socket, what a browser could not tell from a lost connection is said on an accepted
one: an error frame, then a close code.
"""

from __future__ import annotations

from starlette.datastructures import QueryParams
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from headwater.api.socket.routes import shake_hands, turn_away
from headwater.api.socket.session import SessionSocket
from headwater.api.socket.sockets import Sockets
from headwater.errors import HeadwaterError, InvalidSession
from headwater.service.sessions import Newcomer, Sessions


class SessionEndpoint:
    """Plain ASGI: one person's connection, from its handshake to its end."""

    def __init__(self, sockets: Sockets, sessions: Sessions) -> None:
        self._sockets = sockets
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sockets, sessions, services = self._sockets, self._sessions, self._sockets.services
        wire = await shake_hands(sockets, scope, receive, send)
        if wire is None:
            return
        settings = sessions.settings
        wire.keep_alive(settings.ping_every, settings.ping_timeout)
        asked = QueryParams(scope["query_string"])
        try:
            sockets.streams.check()
            stay = await sessions.join(
                scope["path_params"]["name"], asked.get("library"), newcomer(asked)
            )
        except HeadwaterError as error:
            await turn_away(sockets, wire, error)
            return
        reason = "left"
        try:
            sockets.streams.check()
            socket = SessionSocket(
                wire,
                receive,
                stay,
                sessions,
                services.log,
                services.clock,
                sockets.statistics,
                retry_ms=services.hub.settings.retry_ms,
            )
            with sockets.counted(wire):
                reason = await socket.run(sockets.streams)
        except HeadwaterError as error:  # the last free place was taken meanwhile
            await turn_away(sockets, wire, error)
        finally:
            await sessions.leave(stay, reason)


def newcomer(asked: QueryParams) -> Newcomer:
    """Who joins, by the parameters of the handshake. Raises `InvalidSession`."""
    name = asked.get("display_name")
    if name is None:
        raise InvalidSession(
            "say who joins: /v1/sessions/{name}?library=…&display_name=…", parameter="display_name"
        )
    return Newcomer(name, asked.get("colour"), asked.get("client_id"))


def session_socket_route(sockets: Sockets, sessions: Sessions) -> WebSocketRoute:
    return WebSocketRoute("/v1/sessions/{name}", SessionEndpoint(sockets, sessions))
