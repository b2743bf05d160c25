"""`/v1/libraries/{library}/documents/delete`: many documents, by a filter or by their ids."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.documents import Wait
from headwater.api.paging import next_token, read_token
from headwater.changes import Log
from headwater.errors import InvalidInput, TooManyItems
from headwater.filters import parse
from headwater.service.deletion import Deletions
from headwater.service.drafts import check_id
from headwater.service.libraries import Libraries
from headwater.settings import LimitSettings

LIMIT = 10_000
EXAMPLE = {"filter": {"year": {"$lt": 2000}}, "dry_run": True}


def delete_routes(
    log: Log, libraries: Libraries, deletions: Deletions, limits: LimitSettings
) -> APIRouter:
    router = APIRouter(prefix="/v1/libraries/{library}/documents", tags=["documents"])

    @router.post(
        "/delete",
        summary="Delete many documents",
        description=(
            "Those that meet `filter` (`{}`: all), or those named by `ids`. Each is a "
            "`document.deleted` event of its own. One request deletes up to `limit` documents and "
            "looks at a bounded number: while `more` is true, send the same with `after` set to "
            "`next`."
        ),
        openapi_extra=openapi.body(wire.DeleteMany, EXAMPLE),
        responses=openapi.answers(
            {200: ("Done.", openapi.json(wire.DeletedMany))}, 400, 404, 413, 422, 503
        ),
    )
    async def delete(library: str, request: Request, wait: Wait = "searchable") -> Response:
        given = decode(await read_body(request, limits.body_bytes), wire.DeleteMany)
        found = await libraries.get(library)
        searchable = wait == "searchable"
        if (given.filter is None) == (given.ids is None):
            raise InvalidInput("give exactly one of `filter` and `ids`; `{}` filters nothing out")
        if given.ids is not None:
            if given.limit is not None or given.after is not None:
                raise InvalidInput("`limit` and `after` go with `filter`; name fewer `ids`")
            if len(given.ids) > limits.batch_documents:
                raise TooManyItems(
                    f"{len(given.ids)} ids in one request, the limit is "
                    f"{limits.batch_documents}; send several requests",
                    limit=limits.batch_documents,
                )
            ids = [check_id(id) for id in given.ids]
            done = await deletions.named(found, ids, dry_run=given.dry_run, searchable=searchable)
        else:
            limit = LIMIT if given.limit is None else given.limit
            if not 1 <= limit <= LIMIT:
                raise InvalidInput(f"`limit` is {limit}; it may be 1 to {LIMIT}")
            done = await deletions.matching(
                found,
                parse(given.filter),
                after_row=read_token(given.after),
                limit=limit,
                dry_run=given.dry_run,
                searchable=searchable,
            )
        return wire.json_response(
            wire.DeletedMany(
                deleted=done.deleted,
                matched=done.matched,
                more=done.next_row is not None,
                next=None if done.next_row is None else next_token(done.next_row),
                cursor=str(log.cursor(done.position)),
            )
        )

    return router
