"""A short way to a hot route.

The layers between the server and a handler (matching routes, solving dependencies, exit stacks,
error handlers) cost a small request more than the request itself: a third of the loop's time for
a search. This middleware knows one pattern, takes its requests in front of those layers and lets
everything else pass. The described route stays where it is, with the same handler: one path, one
answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.api.problems import known
from headwater.errors import HeadwaterError

Handler = Callable[[str, Request], Awaitable[Response]]

_SEARCH = re.compile(r"/v1/libraries/([^/]+)/search").fullmatch


class DirectSearch:
    """Plain ASGI. `handler` gets the library's name or id and the request."""

    def __init__(self, app: ASGIApp, handler: Handler) -> None:
        self._app = app
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        match = _SEARCH(scope["path"])
        if match is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._handler(match[1], request)
        except HeadwaterError as error:
            response = known(request, error)
        except ClientDisconnect:
            return  # nobody reads an answer
        await response(scope, receive, send)
