"""`/v1/events`: every change, streamed or paged, in order and resumable."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.documents import parse_include
from headwater.api.streaming import Conversation, EventOutlet, Inbound, Outbound
from headwater.changes import Log
from headwater.errors import CursorExpired, Overloaded, ShuttingDown
from headwater.feeds import Hub, Selection, Wish, parse_condition, parse_types, reset
from headwater.model import Cursor, Position
from headwater.service.libraries import Libraries
from headwater.settings import LimitSettings
from headwater.store.base import Reader

EVENT = (
    '{"id":"k3f9q2.88123","type":"document.added","library_id":"0192…",'
    '"timestamp":"2026-11-24T12:00:00.000000Z","data":{"document_id":"note-1","title":"Tides",'
    '"num_chunks":1,"version":1,"metadata":{"year":2026}}}'
)
SSE = (
    'retry: 1000\nevent: ready\ndata: {"cursor":"k3f9q2.88122"}\n\n'
    f"id: k3f9q2.88123\nevent: document.added\ndata: {EVENT}\n\n: heartbeat\n\n"
)
DESCRIPTION = (
    "Server-sent events. `ready` comes first, once nothing after its cursor can be missed; then "
    "each change once, in the order of commits. Resume with `Last-Event-ID` or `after`. "
    "`progress` advances a filtered reader, `reset` says that the cursor has expired, `goodbye` "
    "that the server ends the stream; reconnect with the last id."
)

LibraryIds = Annotated[
    list[str] | None, Query(description="Only these libraries, by id or name; repeatable.")
]
Types = Annotated[
    str | None,
    Query(description="Comma-separated, with wildcards: `document.*`. `chunk.*` only when named."),
]
Filter = Annotated[
    str | None,
    Query(description='A filter on documents\' metadata, as JSON: `{"year":{"$gte":2020}}`.'),
]
Include = Annotated[str | None, Query(description="`document`: its latest state.")]
Format = Annotated[Literal["json", "cloudevents"], Query()]
After = Annotated[str | None, Query(description="A cursor, `beginning` or `now`.")]
LastEventId = Annotated[str | None, Header(description="As `after`; wins over it.")]


def event_routes(log: Log, hub: Hub, libraries: Libraries, limits: LimitSettings) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["events"])

    async def wish(
        library_ids: list[str] | None,
        types: str | None,
        filter: str | None,
        include: str | None,
        format: Literal["json", "cloudevents"],
    ) -> Wish:
        wanted = parse_include(include, frozenset({"document"}))
        ids = None
        if library_ids is not None:
            ids = frozenset([await _library_id(ref) for ref in library_ids])
        selection = Selection(ids, parse_types(types), parse_condition(filter))
        return Wish(selection, format, "document" in wanted)

    async def _library_id(ref: str) -> str:
        """An id is taken as it is: the changes of a deleted library can still be read."""
        return ref if _looks_like_id(ref) else (await libraries.get(ref)).id

    async def _stream(wish: Wish, after: str) -> Response:
        hub.streams.check()
        cursor: Cursor | None = None
        expired: CursorExpired | None = None
        try:
            cursor = await log.resolve(after)
        except CursorExpired as error:
            expired = error

        async def talk(inbound: Inbound, outbound: Outbound) -> None:
            outlet = EventOutlet(outbound, hub.settings.stall)
            if expired is not None:
                await outlet.send(reset(expired))
            elif cursor is not None:
                # Between the check above and here the server may have begun to stop, or the last
                # free place been taken: the stream then ends at once, and the client comes again.
                with suppress(ShuttingDown, Overloaded):
                    await hub.sse(wish, cursor, outlet)

        return Conversation(talk, media_type="text/event-stream")

    streams = openapi.answers(
        {200: ("Events.", openapi.lines(SSE, "text/event-stream"))}, 400, 404, 422, 429, 503
    )

    @router.get(
        "/events/stream", summary="Hear every change", description=DESCRIPTION, responses=streams
    )
    async def stream(
        library_id: LibraryIds = None,
        types: Types = None,
        filter: Filter = None,
        include: Include = None,
        format: Format = "json",
        after: After = None,
        last_event_id: LastEventId = None,
    ) -> Response:
        chosen = await wish(library_id, types, filter, include, format)
        return await _stream(chosen, last_event_id or after or "now")

    @router.get(
        "/libraries/{library}/events/stream",
        summary="Hear every change of a library",
        description=DESCRIPTION,
        responses=streams,
    )
    async def library_stream(
        library: str,
        types: Types = None,
        filter: Filter = None,
        include: Include = None,
        format: Format = "json",
        after: After = None,
        last_event_id: LastEventId = None,
    ) -> Response:
        found = await libraries.get(library)
        chosen = await wish([found.id], types, filter, include, format)
        return await _stream(chosen, last_event_id or after or "now")

    @router.get(
        "/events",
        summary="Page through the changes",
        description=(
            "The same log in pages. With `wait`, an empty page is held back until something "
            "matches or the seconds are over. Go on from `cursor`, also after an empty page."
        ),
        responses=openapi.answers(
            {
                200: (
                    "A page.",
                    {"application/json": {"example": {"events": [], "cursor": "k3f9q2.88123"}}},
                )
            },
            400,
            404,
            410,
            422,
        ),
    )
    async def page(
        library_id: LibraryIds = None,
        types: Types = None,
        filter: Filter = None,
        include: Include = None,
        format: Format = "json",
        after: After = "beginning",
        limit: int = Query(100, ge=1, le=limits.page_items),
        wait: float = Query(
            0, ge=0, le=limits.wait.total_seconds(), description="Seconds to wait for an event."
        ),
    ) -> Response:
        chosen = await wish(library_id, types, filter, include, format)
        cursor = await log.resolve(after or "beginning")
        with hub.streams.open() as scope:
            found = await hub.page(chosen, cursor, limit, timedelta(seconds=wait))
        if scope.cancelled_caught:
            return wire.json_response({"events": [], "cursor": str(cursor)})
        events = [msgspec.Raw(event.json) for event in found.events]
        return wire.json_response({"events": events, "cursor": str(found.cursor)})

    @router.get(
        "/events/statistics",
        summary="How the feeds are doing",
        description="Counted in the process that answers, since it started.",
        responses=openapi.answers({200: ("Figures.", {})}),
    )
    async def statistics() -> Response:
        def query(reader: Reader) -> tuple[Position, int]:
            waiting = reader.libraries_pending()
            return reader.trimmed(), sum(library.pending for library in waiting)

        trimmed, pending = await log.store.read(query)
        return wire.json_response({**hub.snapshot(trimmed), "pending_embeddings": pending})

    return router


def _looks_like_id(ref: str) -> bool:
    return len(ref) == 36 and ref.count("-") == 4
