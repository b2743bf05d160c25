"""A short way to a hot route.

The layers between the server and a handler (telemetry, matching routes, solving dependencies, exit
stacks, error handlers) cost a small request more than the request itself: a third of the loop's
time for a search. `DirectSearch` knows one pattern, takes its requests in front of those layers and
lets everything else pass. The described route stays where it is, with the same handler: one path,
one answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.api.problems import bug, known
from headwater.errors import HeadwaterError

Handler = Callable[[str, Request], Awaitable[Response]]

_SEARCH = re.compile(r"/v1/libraries/([^/]+)/search").fullmatch


class Application(FastAPI):
    """FastAPI with a place in front of all its layers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._front: ASGIApp = super().__call__

    def put_in_front(self, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
        """What is put there last is asked first."""
        self._front = wrap(self._front)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._front(scope, receive, send)


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
        except Exception as error:  # noqa: BLE001 - the request's root
            response = bug(request, error)
        await response(scope, receive, send)
