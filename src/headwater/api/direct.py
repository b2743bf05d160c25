"""A short way to a hot route.

FastAPI's solving of dependencies and its exit stacks cost a small request more than the request
itself. A route that needs neither is added a second time, in front of its described self, as a
plain Starlette route: one path, one handler, one answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

Handler = Callable[[str, Request], Awaitable[Response]]


def add_direct(router: APIRouter, handler: Handler) -> None:
    """Let `POST` on the router's own prefix reach `handler(library, request)` directly.

    To be called before the described route is added: the first match answers.
    """

    async def endpoint(request: Request) -> Response:
        return await handler(request.path_params["library"], request)

    router.add_route(router.prefix, endpoint, methods=["POST"], include_in_schema=False)
