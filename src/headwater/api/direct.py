"""A short way to the hot routes.

The layers between the server and a handler (telemetry, matching routes, solving dependencies, exit
stacks, error handlers) cost a small request more than the request itself: a third of the loop's
time for a search. `Direct` knows a few paths, takes their requests in front of those layers and
lets everything else pass, also whatever has query parameters, which those layers read. The
described routes stay where they are, with the same handlers: one path, one answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.api.problems import bug, known
from headwater.errors import HeadwaterError

Handler = Callable[[str, Request], Awaitable[Response]]

_PATH = re.compile(r"/v1/libraries/([^/]+)/([^/]+)").fullmatch


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


class Direct:
    """Plain ASGI. Each handler of a `POST …/{library}/<name>` gets the library and the request."""

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = handlers

    def _handler(self, scope: Scope) -> tuple[Handler | None, str]:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return None, ""
        match = _PATH(scope["path"])
        return (None, "") if match is None else (self._handlers.get(match[2]), match[1])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler, library = self._handler(scope)
        if handler is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await handler(library, request)
        except HeadwaterError as error:
            response = known(request, error)
        except ClientDisconnect:
            return  # nobody reads an answer
        except Exception as error:  # noqa: BLE001 - the request's root
            response = bug(request, error)
        await response(scope, receive, send)
