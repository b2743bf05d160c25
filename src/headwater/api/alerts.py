"""`/v1/libraries/{library}/alerts`: queries that are kept; what they match is told in the log."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.documents import parse_include
from headwater.api.paging import next_token, read_token
from headwater.changes import Log
from headwater.clock import rfc3339
from headwater.errors import InvalidQuery
from headwater.model import Alert
from headwater.service.alerts import AlertPatch, Alerts, NewAlert
from headwater.service.libraries import Libraries
from headwater.settings import LimitSettings

EXAMPLE = {"name": "storms", "query": "storm warnings", "score_threshold": 0.6}
SHOWN = {
    "id": "0192…",
    "name": "storms",
    "query": "storm warnings",
    "score_threshold": 0.6,
    "filter": None,
    "metadata": {},
    "version": 1,
    "created_at": "2026-11-28T12:00:00.000000Z",
    "updated_at": "2026-11-28T12:00:00.000000Z",
    "cursor": "k3f9q2.88123",
}
Include = Annotated[str | None, Query(description="`vector`.")]


def alert_routes(
    log: Log, libraries: Libraries, alerts: Alerts, limits: LimitSettings
) -> APIRouter:
    router = APIRouter(prefix="/v1/libraries/{library}/alerts", tags=["live"])
    one = {"application/json": {"example": SHOWN}}

    @router.post(
        "",
        status_code=201,
        summary="Keep a query",
        description=(
            "Each document version whose best chunk scores `score_threshold` at least, and passes "
            "the filter, becomes an `alert.matched` in the log: what is written from now on."
        ),
        openapi_extra=openapi.body(NewAlert, EXAMPLE),
        responses=openapi.answers({201: ("The alert.", one)}, 400, 404, 413, 422, 502, 503),
    )
    async def create(library: str, request: Request) -> Response:
        given = decode(await read_body(request, limits.body_bytes), NewAlert, InvalidQuery)
        alert = await alerts.create(await libraries.get(library), given)
        headers = {"location": f"/v1/libraries/{alert.library_id}/alerts/{alert.id}"}
        return wire.json_response(shown(alert), 201, headers)

    @router.get(
        "",
        summary="List alerts",
        responses=openapi.answers(
            {
                200: (
                    "A page, in the order they were made.",
                    {"application/json": {"example": {"alerts": [SHOWN], "next": None}}},
                )
            },
            400,
            404,
            422,
        ),
    )
    async def page(
        library: str,
        limit: int = Query(100, ge=1, le=limits.page_items),
        after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
        include: Include = None,
    ) -> Response:
        wanted = parse_include(include, frozenset({"vector"}))
        found = await alerts.page(await libraries.get(library), read_token(after), limit + 1)
        part = found[:limit]
        return wire.json_response(
            {
                "alerts": [shown(alert, vector="vector" in wanted) for alert in part],
                "next": next_token(part[-1].row) if len(found) > limit else None,
            }
        )

    @router.get(
        "/{alert}",
        summary="One alert",
        responses=openapi.answers({200: ("The alert.", one)}, 404, 422),
    )
    async def get(library: str, alert: str, include: Include = None) -> Response:
        wanted = parse_include(include, frozenset({"vector"}))
        found = await alerts.get(await libraries.get(library), alert)
        return wire.json_response(shown(found, vector="vector" in wanted))

    @router.patch(
        "/{alert}",
        summary="Change an alert",
        description="What is written from now on is matched with it as it is then.",
        openapi_extra=openapi.body(AlertPatch, {"score_threshold": 0.7}),
        responses=openapi.answers({200: ("The alert.", one)}, 400, 404, 422, 502, 503),
    )
    async def patch(library: str, alert: str, request: Request) -> Response:
        given = decode(await read_body(request, limits.body_bytes), AlertPatch, InvalidQuery)
        changed = await alerts.patch(await libraries.get(library), alert, given)
        return wire.json_response(shown(changed))

    @router.delete(
        "/{alert}",
        summary="Delete an alert",
        responses=openapi.answers({200: ("It is gone.", openapi.json(wire.Deleted))}, 404),
    )
    async def delete(library: str, alert: str) -> Response:
        position = await alerts.delete(await libraries.get(library), alert)
        return wire.json_response(wire.Deleted(alert, str(log.cursor(position))))

    def shown(alert: Alert, *, vector: bool = False) -> dict[str, Any]:
        result = {
            "id": alert.id,
            "name": alert.name,
            "query": alert.query,
            "score_threshold": alert.score_threshold,
            "filter": None if alert.filter is None else msgspec.Raw(alert.filter),
            "metadata": msgspec.Raw(alert.metadata),
            "version": alert.version,
            "created_at": rfc3339(alert.created_us),
            "updated_at": rfc3339(alert.updated_us),
            "cursor": str(log.cursor(alert.position)),
        }
        if vector:
            result["vector"] = alert.vector.tolist()
        return result

    return router
