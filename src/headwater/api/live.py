"""`/v1/libraries/{library}/search/live`: a search that stays open, as server-sent events."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.streaming import Conversation, EventOutlet, Inbound, Outbound
from headwater.errors import InvalidQuery, Overloaded, ShuttingDown
from headwater.service.alert_matching import AlertMatching
from headwater.service.libraries import Libraries
from headwater.service.live import LiveQuery, LiveSearches
from headwater.service.live_streams import LiveStreams
from headwater.settings import FeedSettings, LimitSettings

EXAMPLE = {"query": "what moves the sea?", "k": 3, "filter": {"year": 2026}}
HIT = (
    '{"rank":1,"chunk_id":"note-1#0","document_id":"note-1","title":"Tides",'
    '"text":"The moon pulls the sea…","score":0.71,"metadata":{"year":2026}}'
)
SSE = (
    "retry: 1000\n\n"
    f'event: snapshot\ndata: {{"results":[{HIT}],"cursor":"k3f9q2.88122"}}\n\n'
    'id: k3f9q2.88122\nevent: ready\ndata: {"cursor":"k3f9q2.88122"}\n\n'
    'event: leave\ndata: {"hit":{"chunk_id":"note-9#0","document_id":"note-9","rank":3,'
    '"score":0.4},"reason":"outranked","cursor":"k3f9q2.88130","more":true}\n\n'
    f'id: k3f9q2.88130\nevent: enter\ndata: {{"hit":{HIT},"cursor":"k3f9q2.88130"}}\n\n'
)
DESCRIPTION = (
    "Server-sent events. `snapshot` and `ready` first; then what changes: `leave`, `update`, "
    "`enter`, with rank, score and cursor. At every cursor the hits are what an "
    "exact search finds. "
    "Give `k`, or `score_threshold` for all that reach it. Resume with `Last-Event-ID` or `after`: "
    "you get the difference, or `reset` and a new `snapshot`."
)

After = Annotated[str | None, Query(description="A cursor that an earlier live query told.")]
LastEventId = Annotated[str | None, Header(description="As `after`; wins over it.")]


def live_routes(
    live: LiveSearches,
    streams: LiveStreams,
    alerts: AlertMatching,
    libraries: Libraries,
    limits: LimitSettings,
    feeds: FeedSettings,
) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["live"])
    answers: dict[int | str, dict[str, Any]] = openapi.answers(
        {200: ("Events.", openapi.lines(SSE, "text/event-stream"))},
        400,
        404,
        413,
        422,
        429,
        502,
        503,
    )

    async def _stream(ref: str, query: LiveQuery, after: str | None) -> Response:
        streams.streams.check()
        library = await libraries.get(ref)
        prepared = await live.prepare(library, query)
        live.check_room(library)
        await live.resolve(after)

        async def talk(inbound: Inbound, outbound: Outbound) -> None:
            # Between the checks and here the server may have begun to stop, or the last place
            # been taken: the stream then ends at once, and the client comes again.
            with suppress(ShuttingDown, Overloaded):
                await streams.sse(library, prepared, after, EventOutlet(outbound, feeds.stall))

        return Conversation(talk, media_type="text/event-stream")

    @router.post(
        "/libraries/{library}/search/live",
        summary="Search, and hear what changes",
        description=DESCRIPTION,
        openapi_extra=openapi.body(LiveQuery, EXAMPLE),
        responses=answers,
    )
    async def post(
        library: str, request: Request, after: After = None, last_event_id: LastEventId = None
    ) -> Response:
        body = await read_body(request, limits.body_bytes)
        query = decode(body, LiveQuery, InvalidQuery)
        return await _stream(library, query, last_event_id or after)

    @router.get(
        "/libraries/{library}/search/live",
        summary="Search, and hear what changes (for EventSource)",
        description=DESCRIPTION,
        responses=answers,
    )
    async def get(
        library: str,
        query: Annotated[str | None, Query(description="The text to search for.")] = None,
        vector: Annotated[str | None, Query(description="Or a vector, as a JSON list.")] = None,
        mode: Annotated[str | None, Query(description="`vector`.")] = None,
        k: Annotated[int | None, Query(description="How many hits; 10 when not given.")] = None,
        filter: Annotated[str | None, Query(description="A filter, as JSON.")] = None,
        score_threshold: Annotated[float | None, Query()] = None,
        group_by: Annotated[str | None, Query(description="`document`: its best chunk.")] = None,
        include: Annotated[str | None, Query(description="`vector`, `distance`.")] = None,
        coalesce_ms: Annotated[
            int, Query(description="The least time between two cursors, in milliseconds.")
        ] = 0,
        after: After = None,
        last_event_id: LastEventId = None,
    ) -> Response:
        if group_by not in (None, "document"):
            raise InvalidQuery("`group_by` is `document`, or left out", parameter="group_by")
        asked = LiveQuery(
            query=query,
            vector=None if vector is None else _parsed(vector, list[float], "vector"),
            mode=mode,
            k=k,
            filter=None if filter is None else _parsed(filter, dict[str, Any], "filter"),
            score_threshold=score_threshold,
            group_by="document" if group_by else None,
            include=[] if include is None else include.split(","),
            coalesce_ms=coalesce_ms,
        )
        return await _stream(library, asked, last_event_id or after)

    @router.get(
        "/live/statistics",
        summary="How the live queries are doing",
        description="Counted in the process that answers, since it started.",
        responses=openapi.answers({200: ("Figures.", {})}),
    )
    async def statistics() -> Response:
        return wire.json_response({**live.snapshot(), "alerts": alerts.snapshot()})

    return router


def _parsed(text: str, kind: type[Any], parameter: str) -> Any:
    try:
        return decode(text.encode(), kind, InvalidQuery)
    except InvalidQuery as error:
        raise InvalidQuery(error.detail, parameter=parameter) from error
