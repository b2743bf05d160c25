"""`/v1/libraries`: make, list, look at, change and delete libraries."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.paging import next_token, read_token
from headwater.changes import Log
from headwater.errors import InvalidLibrary
from headwater.search.base import SearchEngine
from headwater.service.libraries import Libraries
from headwater.settings import LimitSettings

EXAMPLE = {"name": "notes", "description": "What I wrote down"}


def library_routes(
    log: Log, libraries: Libraries, engine: SearchEngine, limits: LimitSettings
) -> APIRouter:
    router = APIRouter(prefix="/v1/libraries", tags=["libraries"])

    @router.post(
        "",
        status_code=201,
        summary="Create a library",
        openapi_extra=openapi.body(wire.NewLibrary, EXAMPLE),
        responses=openapi.answers(
            {201: ("Created.", openapi.json(wire.LibraryJson))}, 409, 422, 502, 503
        ),
    )
    async def create(request: Request) -> Response:
        given = decode(await read_body(request, limits.body_bytes), wire.NewLibrary, InvalidLibrary)
        library = await libraries.create(
            given.name,
            description=given.description,
            embedder=given.embedder,
            dimension=given.dimension,
            metric=given.metric,
            chunk_size=given.chunk_size,
            chunk_overlap=given.chunk_overlap,
            metadata=given.metadata,
            language=given.language,
            quantization=given.quantization,
        )
        return wire.json_response(
            wire.library_json(library, log.store.log_id),
            201,
            {"location": f"/v1/libraries/{library.id}"},
        )

    @router.get(
        "",
        summary="List libraries",
        responses=openapi.answers({200: ("A page.", openapi.json(wire.LibraryPage))}, 400, 422),
    )
    async def page(
        limit: int = Query(100, ge=1, le=limits.page_items),
        after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    ) -> Response:
        found = await libraries.page(read_token(after), limit + 1)
        shown = found[:limit]
        return wire.json_response(
            wire.LibraryPage(
                [wire.library_json(library, log.store.log_id) for library in shown],
                next_token(shown[-1].number) if len(found) > limit else None,
            )
        )

    @router.get(
        "/{library}",
        summary="One library with its figures",
        responses=openapi.answers({200: ("The library.", openapi.json(wire.LibraryJson))}, 404),
    )
    async def get(library: str) -> Response:
        found = await libraries.fresh(library)
        shown = wire.library_json(found, log.store.log_id)
        shown.index = next(
            (
                wire.index_json(status, log.store.log_id)
                for status in engine.status()
                if status.library_id == found.id
            ),
            None,
        )
        return wire.json_response(shown)

    @router.patch(
        "/{library}",
        summary="Change name, description, metadata or chunking",
        description="`metadata` replaces what was there. Chunking concerns later writes only.",
        openapi_extra=openapi.body(wire.LibraryPatch, {"description": "New words"}),
        responses=openapi.answers(
            {200: ("The library.", openapi.json(wire.LibraryJson))}, 404, 409, 422
        ),
    )
    async def patch(library: str, request: Request) -> Response:
        given = decode(
            await read_body(request, limits.body_bytes), wire.LibraryPatch, InvalidLibrary
        )
        updated = await libraries.update(
            library,
            name=given.name,
            description=given.description,
            metadata=given.metadata,
            chunk_size=given.chunk_size,
            chunk_overlap=given.chunk_overlap,
        )
        return wire.json_response(wire.library_json(updated, log.store.log_id))

    @router.delete(
        "/{library}",
        summary="Delete a library and everything in it",
        description="Gone for every reader at once; the space is given back in the background.",
        responses=openapi.answers({200: ("Deleted.", openapi.json(wire.Deleted))}, 404),
    )
    async def delete(library: str) -> Response:
        deleted, position = await libraries.delete(library)
        return wire.json_response(wire.Deleted(deleted.id, str(log.cursor(position))))

    return router
