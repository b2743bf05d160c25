"""`/v1/libraries/{library}/search/live`: a search that stays open, as server-sent events."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.search_parameters import decoded, filter_of, names
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


class LiveParameters(BaseModel):
    """A live query as query parameters. None: not given. A name that is not here is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str | None = Field(None, description="The text to search for.")
    vector: str | None = Field(None, description="Or a vector, as a JSON list.")
    mode: str | None = Field(None, description="`vector`.")
    k: int | None = Field(None, description="How many hits; 10 when not given.")
    filter: str | None = Field(None, description="A filter, as JSON.")
    score_threshold: float | None = Field(None, description="Only what scores so much at least.")
    group_by: Literal["document"] | None = Field(None, description="Its best chunk.")
    include: str | None = Field(None, description="`vector`, `distance`, separated by commas.")
    coalesce_ms: int = Field(0, description="The least time between two cursors, in milliseconds.")
    after: str | None = Field(None, description="A cursor that an earlier live query told.")

    def query_of(self) -> LiveQuery:
        """Raises `InvalidQuery`, `InvalidFilter`."""
        return LiveQuery(
            query=self.query,
            vector=None if self.vector is None else decoded("vector", self.vector, list[float]),
            mode=self.mode,
            k=self.k,
            filter=None if self.filter is None else filter_of(self.filter),
            score_threshold=self.score_threshold,
            group_by=self.group_by,
            include=[] if self.include is None else names(self.include),
            coalesce_ms=self.coalesce_ms,
        )


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
        asked: Annotated[LiveParameters, Query()],
        last_event_id: LastEventId = None,
    ) -> Response:
        return await _stream(library, asked.query_of(), last_event_id or asked.after)

    @router.get(
        "/live/statistics",
        summary="How the live queries are doing",
        description="Counted in the process that answers, since it started.",
        responses=openapi.answers({200: ("Figures.", {})}),
    )
    async def statistics() -> Response:
        return wire.json_response({**live.snapshot(), "alerts": alerts.snapshot()})

    return router
