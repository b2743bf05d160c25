"""`/v1/libraries/{library}/documents`: one document, a page of them, or a small batch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.direct import Handler
from headwater.api.paging import next_token, read_token
from headwater.changes import Log
from headwater.errors import InvalidDocument, InvalidInput, InvalidQuery, TooManyItems
from headwater.filters import parse_json
from headwater.model import Written
from headwater.service.documents import Documents
from headwater.service.drafts import DocumentInput, Refusal, check_id
from headwater.service.drafts import decode as decode_document
from headwater.service.embedding import OnFailure
from headwater.service.ingest import error_json
from headwater.service.libraries import Libraries
from headwater.service.render import document_json
from headwater.settings import LimitSettings
from headwater.threads import Pool

EXAMPLE = {
    "id": "note-1",
    "title": "Tides",
    "text": "The moon pulls the sea, and the sea follows.",
    "tags": ["sea"],
    "metadata": {"year": 2026},
}
WROTE = {
    "id": "note-1",
    "status": "created",
    "version": 1,
    "num_chunks": 1,
    "created_at": "2026-11-24T12:00:00.000000Z",
    "updated_at": "2026-11-24T12:00:00.000000Z",
    "cursor": "k3f9q2.88123",
}

Wait = Annotated[
    Literal["searchable", "durable"],
    Query(description="What the answer waits for: found by searches here, or only on disk."),
]
OnEmbeddingFailure = Annotated[
    OnFailure,
    Query(
        description="What becomes of a document that its embedder gives no vectors now: kept and "
        "embedded later, or refused with the embedder's error."
    ),
]
IfMatch = Annotated[str | None, Header(description="The version that must be the present one.")]
_ETAG = re.compile(r'\s*(?:W/)?("?)([0-9]{1,18})\1\s*')


class _Id(PathConvertor):
    """The rest of the path, line breaks too: `path` ends at one, and names another document."""

    regex = "(?s:.*)"


register_url_convertor("id", _Id())


def parse_include(text: str | None, known: frozenset[str]) -> frozenset[str]:
    """A comma-separated `include`. Raises `InvalidQuery` for a name that is not known."""
    names = frozenset(filter(None, (name.strip() for name in (text or "").split(","))))
    if unknown := names - known:
        raise InvalidQuery(
            f"`include` knows {', '.join(sorted(known))}, not {', '.join(sorted(unknown))}",
            parameter="include",
        )
    return names


_LARGE_BYTES = 1 << 20
"""An answer with more is put together in a thread."""

CHUNK_INCLUDES = frozenset({"chunks", "vectors"})


def document_routes(
    log: Log, libraries: Libraries, documents: Documents, limits: LimitSettings
) -> tuple[APIRouter, Handler]:
    """The routes, and the handler of the first for whoever has a shorter way to it."""
    router = APIRouter(prefix="/v1/libraries/{library}/documents", tags=["documents"])
    pool = Pool("answers", 1)

    async def create(
        library: str,
        request: Request,
        wait: Wait = "searchable",
        on_embedding_failure: OnEmbeddingFailure = "pending",
    ) -> Response:
        body = await read_body(request, limits.body_bytes)
        written = await documents.put(
            await libraries.get(library),
            decode_document(body),
            size_bytes=len(body),
            must_be_new=True,
            searchable=wait == "searchable",
            on_failure=on_embedding_failure,
        )
        return _wrote(written, log)

    router.post(
        "",
        status_code=201,
        summary="Add a document",
        openapi_extra=openapi.body(DocumentInput, EXAMPLE),
        responses=openapi.answers(
            {201: ("Created.", openapi.json(wire.WriteAnswer, WROTE))},
            400,
            404,
            409,
            413,
            422,
            429,
            502,
            503,
        ),
    )(create)

    @router.post(
        "/batch",
        summary="Add or replace several documents",
        description="In order; each has its own result, and one that fails harms no other.",
        openapi_extra=openapi.body(wire.BatchInput, {"documents": [EXAMPLE]}),
        responses=openapi.answers(
            {200: ("A result per document.", openapi.json(wire.BatchAnswer))},
            400,
            404,
            413,
            422,
            503,
        ),
    )
    async def batch(
        library: str,
        request: Request,
        wait: Wait = "searchable",
        on_embedding_failure: OnEmbeddingFailure = "pending",
    ) -> Response:
        given = decode(await read_body(request, limits.body_bytes), wire.Batch, InvalidDocument)
        if len(given.documents) > limits.batch_documents:
            raise TooManyItems(
                f"{len(given.documents)} documents in one batch, the limit is "
                f"{limits.batch_documents}; send them as a stream",
                limit=limits.batch_documents,
            )
        bodies = [bytes(raw) for raw in given.documents]
        results = await documents.put_batch(
            await libraries.get(library),
            bodies,
            searchable=wait == "searchable",
            on_failure=on_embedding_failure,
        )
        return wire.json_response(_batch_answer(results, log))

    @router.post(
        "/embed",
        status_code=202,
        summary="Embed the pending documents now",
        description="All documents of the library that wait for their vectors are tried again at "
        "once, those that the embedder refused too. They are listed with "
        "`status=pending_embedding`; each is a `document.embedded` event when it is done.",
        responses=openapi.answers({202: ("Begun.", openapi.json(wire.Redriven))}, 404, 503),
    )
    async def embed(library: str) -> Response:
        pending = await documents.embed_pending(await libraries.get(library))
        return wire.json_response(wire.Redriven(pending), 202)

    @router.get(
        "",
        summary="List documents",
        description="In order of first insertion, without their text unless asked for.",
        responses=openapi.answers({200: ("A page.", {})}, 400, 404, 422),
    )
    async def page(
        library: str,
        limit: int = Query(100, ge=1, le=limits.page_items),
        after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
        include: Annotated[str | None, Query(description="`text`, `chunks`, `vectors`.")] = None,
        status: Annotated[
            Literal["pending_embedding"] | None,
            Query(description="Only documents that wait for their vectors, and why."),
        ] = None,
        filter: Annotated[
            str | None,
            Query(
                description="A filter on metadata, as JSON. A page may be short, even empty, "
                "although `next` says that more follow."
            ),
        ] = None,
    ) -> Response:
        wanted = parse_include(include, CHUNK_INCLUDES | {"text"})
        found = await documents.page(
            await libraries.get(library),
            read_token(after),
            limit,
            chunks=bool(wanted),
            vectors="vectors" in wanted,
            pending=status is not None,
            filter=None if filter is None else parse_json(filter),
        )

        def shown() -> Response:
            return wire.json_response(
                {
                    "documents": [
                        document_json(
                            item.document, item.chunks if wanted else None, log.store.log_id, wanted
                        )
                        for item in found.documents
                    ],
                    "next": None if found.next_row is None else next_token(found.next_row),
                }
            )

        return await pool.call(shown) if found.size_bytes > _LARGE_BYTES else shown()

    @router.get(
        "/{document:id}",
        summary="One document",
        responses=openapi.answers({200: ("The document.", {})}, 404, 422),
    )
    @router.head("/{document:id}", include_in_schema=False)
    async def get(
        library: str,
        document: str,
        include: Annotated[str | None, Query(description="`chunks`, `vectors`.")] = None,
    ) -> Response:
        wanted = parse_include(include, CHUNK_INCLUDES)
        found = await documents.get(
            await libraries.get(library), check_id(document), vectors="vectors" in wanted
        )

        def shown() -> Response:
            made = document_json(found.document, found.chunks, log.store.log_id, wanted)
            return wire.json_response(made, headers=_etag(found.document.version))

        return await pool.call(shown) if found.size_bytes > _LARGE_BYTES else shown()

    @router.put(
        "/{document:id}",
        summary="Add or replace a document",
        openapi_extra=openapi.body(DocumentInput, EXAMPLE),
        responses=openapi.answers(
            {
                200: ("Replaced, or unchanged.", openapi.json(wire.WriteAnswer, WROTE)),
                201: ("Created.", openapi.json(wire.WriteAnswer, WROTE)),
            },
            400,
            404,
            409,
            412,
            413,
            422,
            429,
            502,
            503,
        ),
    )
    async def put(
        library: str,
        document: str,
        request: Request,
        wait: Wait = "searchable",
        on_embedding_failure: OnEmbeddingFailure = "pending",
        if_match: IfMatch = None,
        if_none_match: Annotated[str | None, Header(description="`*`: only create.")] = None,
    ) -> Response:
        if if_none_match not in (None, "*"):
            raise InvalidInput("`If-None-Match` may only be `*`: create, do not replace")
        body = await read_body(request, limits.body_bytes)
        given = decode_document(body)
        if given.id not in (None, document):
            raise InvalidDocument(
                f"the body's id {given.id!r} is not the path's {document!r}; leave it out"
            )
        given.id = document
        written = await documents.put(
            await libraries.get(library),
            given,
            size_bytes=len(body),
            must_be_new=if_none_match == "*",
            if_version=_version(if_match),
            searchable=wait == "searchable",
            on_failure=on_embedding_failure,
        )
        return _wrote(written, log)

    @router.patch(
        "/{document:id}",
        summary="Change title or metadata",
        description="`metadata` is a JSON merge patch (RFC 7396). Chunks and vectors stay.",
        openapi_extra=openapi.body(wire.DocumentPatch, {"metadata": {"year": None}}),
        responses=openapi.answers(
            {200: ("Changed, or unchanged.", openapi.json(wire.WriteAnswer, WROTE))},
            400,
            404,
            412,
            422,
        ),
    )
    async def patch(
        library: str,
        document: str,
        request: Request,
        wait: Wait = "searchable",
        if_match: IfMatch = None,
    ) -> Response:
        body = await read_body(request, limits.body_bytes)
        given = decode(body, wire.DocumentPatch, InvalidDocument)
        written = await documents.patch(
            await libraries.get(library),
            check_id(document),
            title=given.title,
            metadata=given.metadata,
            if_version=_version(if_match),
            searchable=wait == "searchable",
        )
        return _wrote(written, log)

    @router.delete(
        "/{document:id}",
        summary="Delete a document",
        responses=openapi.answers({200: ("Deleted.", openapi.json(wire.Deleted))}, 404, 412),
    )
    async def delete(
        library: str, document: str, wait: Wait = "searchable", if_match: IfMatch = None
    ) -> Response:
        position = await documents.delete(
            await libraries.get(library),
            check_id(document),
            if_version=_version(if_match),
            searchable=wait == "searchable",
        )
        return wire.json_response(wire.Deleted(document, str(log.cursor(position))))

    return router, create


def _batch_answer(results: list[Written | Refusal], log: Log) -> wire.BatchAnswer:
    answer = wire.BatchAnswer([], 0, 0, 0, 0, "")
    position = 0
    for index, result in enumerate(results):
        if isinstance(result, Refusal):
            answer.failed += 1
            answer.results.append(
                {
                    "index": index,
                    "id": result.id,
                    "status": "failed",
                    "error": error_json(result.error),
                }
            )
        else:
            setattr(answer, result.status, getattr(answer, result.status) + 1)
            position = max(position, result.position)
            shown = msgspec.to_builtins(wire.write_answer(result, log.store.log_id))
            answer.results.append({"index": index, **shown})
    answer.cursor = str(log.cursor(position or log.head))
    return answer


def _wrote(written: Written, log: Log) -> Response:
    return wire.json_response(
        wire.write_answer(written, log.store.log_id),
        201 if written.status == "created" else 200,
        _etag(written.version),
    )


def _etag(version: int) -> dict[str, str]:
    return {"etag": f'"{version}"'}


def _version(if_match: str | None) -> int | None:
    """The version in an `If-Match`; None without one. Raises `InvalidInput`."""
    if if_match is None:
        return None
    match = _ETAG.fullmatch(if_match)
    if match is None:
        raise InvalidInput(
            f'`If-Match` is a version as in the ETag, such as "3"; this is {if_match[:80]!r}'
        )
    return int(match[2])
