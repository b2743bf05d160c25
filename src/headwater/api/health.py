"""`/health` and `/ready`: is the process up, and may it be sent traffic."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import Response

from headwater import __version__
from headwater.api import openapi, wire


def health_routes(parts: Callable[[], dict[str, str]]) -> APIRouter:
    """`parts` gives each part's state: `ready`, or why it is not."""
    router = APIRouter(tags=["server"])
    healthy = {"status": "healthy", "version": __version__}

    @router.get(
        "/health",
        summary="Is the process up",
        responses=openapi.answers({200: ("Up.", {"application/json": {"example": healthy}})}),
    )
    async def health() -> Response:
        return wire.json_response(healthy)

    @router.get(
        "/ready",
        summary="May it be sent traffic",
        description="503 until the store is open and the views have caught up; `parts` says why.",
        responses=openapi.answers(
            {
                200: ("Ready.", {"application/json": {"example": {"status": "ready"}}}),
                503: ("Not ready.", {"application/json": {"example": {"status": "not_ready"}}}),
            }
        ),
    )
    async def ready() -> Response:
        found = parts()
        fine = all(state == "ready" for state in found.values())
        body = {"status": "ready" if fine else "not_ready", "parts": found}
        return wire.json_response(body, 200 if fine else 503)

    return router
