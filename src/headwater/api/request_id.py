"""A name for every request: the client's `X-Request-ID`, or a new one, on every answer.

Plain ASGI: Starlette's `BaseHTTPMiddleware` buffers streams and hides disconnects.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater.clock import Clock

_ACCEPTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestId:
    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        own = given if _ACCEPTABLE.fullmatch(given) else self._clock.uuid7().encode()
        scope["headwater.request_id"] = own.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", own)]
            await send(message)

        await self._app(scope, receive, send_with_id)
