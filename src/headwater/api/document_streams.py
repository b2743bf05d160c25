"""`/v1/libraries/{library}/documents/stream`: NDJSON in and out, at once."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headwater.api import openapi
from headwater.api.body import check_encoding, decoded
from headwater.api.documents import CHUNK_INCLUDES, OnEmbeddingFailure, Wait, parse_include
from headwater.api.streaming import Conversation, Inbound, Outbound, last_words
from headwater.clock import Clock
from headwater.errors import InvalidQuery, ShuttingDown
from headwater.feeds import OpenStreams
from headwater.filters import parse_json
from headwater.service.export import Export
from headwater.service.ingest import Ingest
from headwater.service.libraries import Libraries
from headwater.settings import FeedSettings

IN_EXAMPLE = '{"id":"doc-1","text":"First"}\n{"id":"doc-2","text":"Second"}\n'
RESULTS_EXAMPLE = (
    '{"type":"result","line":1,"id":"doc-1","status":"created","chunks":1,"cursor":"k3f9q2.2"}\n'
    '{"type":"result","line":2,"id":"doc-2","status":"created","chunks":1,"cursor":"k3f9q2.3"}\n'
    '{"type":"checkpoint","durable_through_line":2,"cursor":"k3f9q2.3"}\n'
    '{"type":"summary","received":2,"created":2,"updated":0,"unchanged":0,"failed":0,'
    '"batch_id":"0192…","cursor":"k3f9q2.4","searchable":true,"took_ms":9}\n'
)
OUT_EXAMPLE = (
    '{"type":"document","id":"doc-1","version":1,"num_chunks":1,"metadata":{},'
    '"created_at":"…","updated_at":"…","cursor":"k3f9q2.2","text":"First"}\n'
    '{"type":"checkpoint","after":"azNmOXEyLjR-MQ","documents":1}\n'
    '{"type":"summary","documents":1,"cursor":"k3f9q2.4","took_ms":3}\n'
)


def document_stream_routes(
    libraries: Libraries,
    ingest: Ingest,
    export: Export,
    streams: OpenStreams,
    feeds: FeedSettings,
    clock: Clock,
) -> APIRouter:
    router = APIRouter(prefix="/v1/libraries/{library}/documents", tags=["streams"])

    @router.post(
        "/stream",
        summary="Stream documents in",
        description=(
            "NDJSON, one document a line, also gzip or zstd encoded. Results come back while "
            "lines still go in: one per non-blank line, in order, each after its commit; "
            "`checkpoint` lines tell what is durable; a `summary` ends a stream that was not cut."
        ),
        openapi_extra={
            "requestBody": {"required": True, "content": openapi.lines(IN_EXAMPLE)},
        },
        responses=openapi.answers(
            {200: ("Results, as they come.", openapi.lines(RESULTS_EXAMPLE))},
            404,
            409,
            415,
            422,
            429,
            503,
        ),
    )
    async def stream_in(
        library: str,
        request: Request,
        response: Annotated[
            Literal["results", "errors", "summary"],
            Query(description="All results, only failed ones, or only the summary."),
        ] = "results",
        wait: Wait = "searchable",
        on_embedding_failure: OnEmbeddingFailure = "pending",
        batch_id: Annotated[
            str | None,
            Query(min_length=1, max_length=128, description="Your name for this batch."),
        ] = None,
    ) -> Response:
        encoding = request.headers.get("content-encoding", "")
        check_encoding(encoding)
        found = await libraries.get(library)
        ingest.documents.preparer(found)
        streams.check()

        async def talk(inbound: Inbound, outbound: Outbound) -> None:
            async def answer(piece: bytes) -> None:
                # While the body comes in the client may read nothing: the spool takes it.
                await outbound.send(piece, stall=feeds.stall if inbound.ended else None)

            async with last_words(outbound, feeds.stall):
                with streams.open() as scope:
                    await ingest.run(
                        found,
                        decoded(inbound.pieces(), encoding),
                        answer,
                        response=response,
                        batch_id=batch_id or clock.uuid7(),
                        searchable=wait == "searchable",
                        on_failure=on_embedding_failure,
                    )
                if scope.cancelled_caught:
                    raise ShuttingDown(
                        "the server is stopping; send again from the last checkpoint"
                    )

        return Conversation(talk, media_type=openapi.NDJSON, hears=True)

    @router.get(
        "/stream",
        summary="Stream documents out",
        description=(
            "All documents as of one moment, `checkpoint` lines to resume from, a `summary` with "
            "the cursor of that moment; with `follow=true` every later change from exactly there."
        ),
        responses=openapi.answers(
            {200: ("Documents.", openapi.lines(OUT_EXAMPLE))}, 400, 404, 410, 422, 429
        ),
    )
    async def stream_out(
        library: str,
        include: Annotated[str | None, Query(description="`chunks`, `vectors`.")] = None,
        after: Annotated[str | None, Query(description="`after` of a checkpoint.")] = None,
        follow: Annotated[bool, Query(description="Go on with changes.")] = False,
        filter: Annotated[
            str | None,
            Query(
                description="A filter on metadata, as JSON. Documents that an update takes out of "
                "it are told as `unmatched`, on resuming and following."
            ),
        ] = None,
    ) -> Response:
        wanted = parse_include(include, CHUNK_INCLUDES)
        if after == "":
            raise InvalidQuery("`after` is empty; leave it out to begin anew", parameter="after")
        condition = None if filter is None else parse_json(filter)
        resume = None if after is None else await export.resume(after)
        found = await libraries.get(library)
        streams.check()

        async def talk(inbound: Inbound, outbound: Outbound) -> None:
            async def answer(piece: bytes) -> None:
                await outbound.send(piece, stall=feeds.stall)

            async with last_words(outbound, feeds.stall):
                with streams.open() as scope:
                    position = await export.run(
                        found, answer, include=wanted, resume=resume, filter=condition
                    )
                if scope.cancelled_caught:
                    raise ShuttingDown("the server is stopping; go on from the last checkpoint")
                if follow and position is not None:
                    await export.follow(found, position, answer, condition)

        return Conversation(talk, media_type=openapi.NDJSON)

    return router
