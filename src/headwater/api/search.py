"""`/v1/libraries/{library}/search`: one search, several, or one as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headwater.api import answers, openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.direct import Handler
from headwater.api.search_parameters import SearchParameters
from headwater.api.streaming import Conversation, Inbound, Outbound, last_words
from headwater.clock import Clock
from headwater.errors import HeadwaterError, InvalidQuery, TooManyItems
from headwater.service.hits import Hit
from headwater.service.ingest import error_json
from headwater.service.libraries import Libraries
from headwater.service.query import Query as SearchQuery
from headwater.service.search import Answer, Search
from headwater.settings import FeedSettings, LimitSettings
from headwater.threads import Pool

EXAMPLE = {"query": "what moves the sea?", "k": 3}
HIT = {
    "rank": 1,
    "chunk_id": "note-1#0",
    "document_id": "note-1",
    "title": "Tides",
    "text": "The moon pulls the sea, and the sea follows.",
    "score": 0.71,
    "metadata": {"tags": ["sea"], "year": 2026},
}
ANSWER = {"results": [HIT], "cursor": "k3f9q2.88123", "took_ms": 0.8}
STREAM = (
    '{"type":"hit","rank":1,"chunk_id":"note-1#0","document_id":"note-1","title":"Tides",'
    '"text":"The moon pulls the sea…","score":0.71,"metadata":{}}\n'
    '{"type":"done","count":1,"exact":true,"cursor":"k3f9q2.88123","took_ms":0.9}\n'
)

_encode = msgspec.json.Encoder().encode


def _lines(hits: Sequence[Hit], query: SearchQuery) -> bytes:
    return b"".join(
        [b'{"type":"hit",' + _encode(answers.hit_of(hit, query))[1:] + b"\n" for hit in hits]
    )


def search_routes(
    search: Search,
    libraries: Libraries,
    limits: LimitSettings,
    feeds: FeedSettings,
    clock: Clock,
) -> tuple[APIRouter, Handler]:
    """The routes, and the handler of the first for whoever has a shorter way to it."""
    router = APIRouter(prefix="/v1/libraries/{library}/search", tags=["search"])
    pool = Pool("answers", 1)

    async def one(library: str, request: Request) -> Response:
        started_s = clock.monotonic()
        query = decode(await read_body(request, limits.body_bytes), SearchQuery, InvalidQuery)
        return await answered(library, query, started_s)

    async def answered(library: str, query: SearchQuery, started_s: float) -> Response:
        answer = await search.search(await libraries.get(library), query)
        if answers.hits_in(answer) > answers.LARGE:
            return await pool.call(_whole, answer, query, started_s)
        return _whole(answer, query, started_s)

    async def asked(
        library: str, request: Request, given: Annotated[SearchParameters, Query()]
    ) -> Response:
        started_s = clock.monotonic()
        return await answered(library, await wished(request, given), started_s)

    async def wished(request: Request, given: SearchParameters) -> SearchQuery:
        """What the body asks for, if there is one, and the query parameters over it."""
        body = await read_body(request, limits.body_bytes)
        wish = decode(body, SearchQuery, InvalidQuery) if body.strip() else SearchQuery()
        return given.over(wish)

    router.post(
        "",
        summary="Search",
        description=(
            "By `query` (text) or `vector`. `score_threshold` drops what scores lower, "
            "`min_cursor` waits until that write is searchable, `exact` compares every vector, "
            "`include` adds `vector` and `distance`. Give the search as a JSON body, or as query "
            "parameters, which win over it."
        ),
        openapi_extra=openapi.body(SearchQuery, EXAMPLE, required=False),
        responses=openapi.answers(
            {200: ("The best hits, best first.", {"application/json": {"example": ANSWER}})},
            400,
            404,
            409,
            410,
            413,
            422,
            429,
            502,
            503,
        ),
    )(asked)

    @router.post(
        "/batch",
        summary="Several searches at once",
        openapi_extra=openapi.body(wire.SearchBatch, {"queries": [EXAMPLE]}),
        responses=openapi.answers(
            {
                200: (
                    "An answer or error per query, in order.",
                    {"application/json": {"example": {"answers": [ANSWER], "took_ms": 1.2}}},
                )
            },
            400,
            404,
            409,
            413,
            422,
            502,
            503,
        ),
    )
    async def batch(library: str, request: Request) -> Response:
        started_s = clock.monotonic()
        body = await read_body(request, limits.body_bytes)
        given = decode(body, wire.SearchBatch, InvalidQuery)
        if len(given.queries) > limits.batch_queries:
            raise TooManyItems(
                f"{len(given.queries)} queries in one batch, the limit is {limits.batch_queries}",
                limit=limits.batch_queries,
            )
        asked = (query.k for query in given.queries if 1 <= query.k <= limits.k)
        if (hits := sum(asked)) > limits.k:
            raise TooManyItems(
                f"the queries of a batch ask for {hits} hits together, the limit is {limits.k}; "
                "send several batches, or take large answers as streams",
                limit=limits.k,
            )
        found = await libraries.get(library)
        answered = await search.search_all(found, given.queries)

        def together() -> Response:
            shown = [
                {"error": error_json(answer)}
                if isinstance(answer, HeadwaterError)
                else _shown(answer, query, started_s)
                for query, answer in zip(given.queries, answered, strict=True)
            ]
            return wire.json_response({"answers": shown, "took_ms": _since(started_s)})

        if sum(answers.hits_in(answer) for answer in answered) > answers.LARGE:
            return await pool.call(together)
        return together()

    @router.post(
        "/stream",
        summary="Search, hits as a stream",
        description=(
            "Hits in rank order, one a line, texts fetched as they are sent; the last line is "
            "`done`. Give the search as query parameters or as a JSON body as for `search`."
        ),
        openapi_extra=openapi.body(SearchQuery, EXAMPLE, required=False),
        responses=openapi.answers(
            {200: ("Hits.", openapi.lines(STREAM))}, 400, 404, 409, 410, 422, 429, 502, 503
        ),
    )
    async def stream(
        library: str,
        request: Request,
        given: Annotated[SearchParameters, Query()],
    ) -> Response:
        started_s = clock.monotonic()
        wish = await wished(request, given)
        answer, pages = await search.stream(await libraries.get(library), wish)

        async def talk(inbound: Inbound, outbound: Outbound) -> None:
            async with last_words(outbound, feeds.stall):
                count = 0
                async for hits in pages:
                    count += len(hits)
                    if "vector" in wish.include:  # 200 of 2,048 numbers take 60 ms
                        lines = await pool.call(_lines, hits, wish)
                    else:
                        lines = _lines(hits, wish)
                    await outbound.send(lines, stall=feeds.stall)
                done: dict[str, Any] = {
                    "type": "done",
                    "count": count,
                    "exact": answer.exact,
                    **answers.rest(answer, str(search.cursor(answer.position)), _since(started_s)),
                }
                await outbound.send(_encode(done) + b"\n", stall=feeds.stall)

        return Conversation(talk, media_type=openapi.NDJSON)

    def _since(started_s: float) -> float:
        return round((clock.monotonic() - started_s) * 1000, 3)

    def _whole(answer: Answer, query: SearchQuery, started_s: float) -> Response:
        return wire.json_response(_shown(answer, query, started_s))

    def _shown(answer: Answer, query: SearchQuery, started_s: float) -> dict[str, Any]:
        return {
            "results": answers.results(answer, query),
            **answers.rest(answer, str(search.cursor(answer.position)), _since(started_s)),
        }

    return router, one
