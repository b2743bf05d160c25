"""`/v1/jobs/batch-import` and the others: jobs by their type.

The fields of a type stand beside those that all jobs have. An import may also be sent as a file.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import check_encoding, decode, decoded, read_body
from headwater.api.job_type_wire import (
    DeleteInput,
    ExportInput,
    ImportInput,
    IndexInput,
    RegenerateInput,
    TypedInput,
)
from headwater.api.job_wire import JobJson
from headwater.changes import Log
from headwater.errors import HeadwaterError, InvalidJob
from headwater.service.export_files import MEDIA_TYPES
from headwater.service.job_types.batch_import import SENT
from headwater.service.jobs import Jobs, Submission, job_json
from headwater.service.sources import Format
from headwater.service.uploads import Uploads
from headwater.settings import LimitSettings
from headwater.store.job_commands import Enqueued

BY_MEDIA_TYPE: dict[str, Format] = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "text/tab-separated-values": "csv",
    "application/vnd.apache.parquet": "parquet",
}
PARQUET = MEDIA_TYPES["parquet"]

_UNTOLD = ("", "application/json", "application/x-www-form-urlencoded")
"""A body of nothing better than these is JSON when it stands alone: the last is curl's `-d`."""

_FILE_PARAMETERS = frozenset(
    {
        *("library", "format", "delimiter", "encoding", "batch_id", "max_errors"),
        *(f"{role}_column" for role in ("text", "id", "title", "vector", "metadata")),
        *("priority", "not_before", "max_attempts", "idempotency_key"),
    }
)

_COMMON = frozenset(TypedInput.__struct_fields__)

_EXAMPLE = {"library": "notes", "documents": [{"id": "n-1", "text": "Call Ada."}]}


class _Typed(NamedTuple):
    """A type whose route takes a JSON body and nothing else."""

    name: str
    shape: type[TypedInput]
    summary: str
    description: str
    example: dict[str, Any]


_TYPED = (
    _Typed(
        "batch_export",
        ExportInput,
        "Export a library as a job",
        "NDJSON, CSV or Parquet, of one moment; also with chunks and vectors. The file is at "
        "`/v1/jobs/{id}/download` for a time.",
        {"library": "notes", "format": "parquet", "include": ["vectors"]},
    ),
    _Typed(
        "batch_delete",
        DeleteInput,
        "Delete documents as a job",
        "Those that meet `filter` (`{}`: all), or those named by `ids`.",
        {"library": "notes", "filter": {"year": {"$lt": 2020}}},
    ),
    _Typed(
        "index_rebuild",
        IndexInput,
        "Make a library's indexes anew as a job",
        "From the store, in every process; searches go on with the old ones.",
        {"library": "notes"},
    ),
    _Typed(
        "index_optimize",
        IndexInput,
        "Put a library's indexes in order as a job",
        "Merge what can be merged, drop what is deleted.",
        {"library": "notes"},
    ),
    _Typed(
        "regenerate_embeddings",
        RegenerateInput,
        "Make a library's vectors anew as a job",
        "By another `embedder` or `dimension`, or the same: beside the valid ones, which they "
        "replace all at once. Searches and writes go on.",
        {"library": "notes", "embedder": "static"},
    ),
)


def job_type_routes(
    log: Log,
    jobs: Jobs,
    uploads: Uploads,
    limits: LimitSettings,
) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    def answered(found: Enqueued) -> Response:
        return wire.json_response(
            job_json(found.job, log.store.log_id),
            202 if found.created else 200,
            {"location": f"/v1/jobs/{found.job.id}"},
        )

    def queued(*problems: int) -> dict[int | str, dict[str, Any]]:
        return openapi.answers(
            {
                202: ("Queued; `Location` is where it is.", openapi.json(JobJson)),
                200: ("It was there already.", openapi.json(JobJson)),
            },
            *problems,
            404,
            409,
            422,
            429,
            503,
        )

    def described(*bodies: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        return {"requestBody": {"required": True, "content": dict(bodies)}}

    @router.post(
        "/batch-import",
        summary="Import documents as a job",
        description=(
            "A JSON body has `documents`, or the `path` of a file inside "
            "`HEADWATER_TRANSFER__IMPORT_FOLDER`. A body of NDJSON, CSV or Parquet is kept as a "
            "file, whatever its size, and imported by the job; its options are parameters. Lines "
            "that fail are at `/v1/jobs/{id}/errors`."
        ),
        openapi_extra=described(
            (
                "application/json",
                {"schema": openapi.ref(ImportInput), "example": _EXAMPLE},
            ),
            (openapi.NDJSON, {"schema": {"type": "string"}}),
            ("text/csv", {"schema": {"type": "string"}}),
            (PARQUET, {"schema": {"type": "string", "format": "binary"}}),
        ),
        responses=queued(400, 413, 415, 507),
        status_code=202,
    )
    async def batch_import(
        request: Request,
        library: Annotated[str | None, Query(description="Name or id; for a file.")] = None,
        format: Annotated[
            Format | None, Query(description="Of the file; else as its media type says.")
        ] = None,
        text_column: Annotated[str | None, Query(description="Column with the text.")] = None,
        id_column: Annotated[str | None, Query(description="Column with the id.")] = None,
        title_column: Annotated[str | None, Query(description="Column with the title.")] = None,
        vector_column: Annotated[str | None, Query(description="Column with a vector.")] = None,
        metadata_column: Annotated[str | None, Query(description="Column with JSON.")] = None,
        delimiter: Annotated[str | None, Query(description="Of CSV.")] = None,
        encoding: Annotated[str | None, Query(description="Of CSV.")] = None,
        batch_id: Annotated[str | None, Query(description="Your name for this batch.")] = None,
        max_errors: Annotated[int | None, Query(description="More fail the job.")] = None,
        priority: Annotated[int, Query(description="The highest goes first.")] = 0,
        not_before: Annotated[str | None, Query(description="RFC 3339.")] = None,
        max_attempts: Annotated[int | None, Query(description="Attempts.")] = None,
        idempotency_key: Annotated[str | None, Query(description="One job per key.")] = None,
    ) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        asked = request.query_params
        if unknown := asked.keys() - _FILE_PARAMETERS:
            raise InvalidJob(
                f"there is no parameter {min(unknown)[:80]!r}; a file's are "
                f"{', '.join(sorted(_FILE_PARAMETERS))}",
                path=min(unknown)[:80],
            )
        if kind in _UNTOLD and not asked:
            given = await _given(request, "batch_import", ImportInput, limits)
            return answered(await jobs.submit(given))
        found = format or BY_MEDIA_TYPE.get(kind)
        if found is None:
            raise InvalidJob(
                f"a file of {kind[:80]!r} is not understood; say its `format`: ndjson, csv or "
                "parquet. A JSON body has `library` and all else inside, not as parameters",
                path="format",
            )
        tabs = kind == "text/tab-separated-values" or delimiter == "\t"
        name = f"{SENT}.{found}"
        params = {
            "file": name,
            "format": found,
            "columns": {
                role: column
                for role, column in (
                    ("text", text_column),
                    ("id", id_column),
                    ("title", title_column),
                    ("vector", vector_column),
                    ("metadata", metadata_column),
                )
                if column is not None
            },
            "delimiter": "\t" if tabs else delimiter,
            "batch_id": batch_id,
            "max_errors": max_errors,
        }
        if encoding is not None:
            params["encoding"] = encoding
        submission = Submission(
            "batch_import",
            library,
            params,
            priority,
            not_before,
            max_attempts,
            idempotency_key,
        )
        packing = request.headers.get("content-encoding", "")
        check_encoding(packing)
        # Before a byte is taken: a body that leads nowhere need not be sent.
        await jobs.check("batch_import", library, params, priority, max_attempts)
        id = jobs.new_id()
        await uploads.keep(decoded(request.stream(), packing), jobs.folder_of(id), name)
        try:
            made = await jobs.submit(submission, id=id)
        except HeadwaterError:
            # Not when cut off: the job may be there by then. A file that has none goes in a day.
            await uploads.remove(jobs.folder_of(id))
            raise
        if made.job.id != id:
            await uploads.remove(jobs.folder_of(id))
        return answered(made)

    def typed_route(typed: _Typed) -> None:
        async def submit(request: Request) -> Response:
            given = await _given(request, typed.name, typed.shape, limits)
            return answered(await jobs.submit(given))

        router.add_api_route(
            "/" + typed.name.replace("_", "-"),
            submit,
            methods=["POST"],
            name=typed.name,
            summary=typed.summary,
            description=typed.description,
            openapi_extra=openapi.body(typed.shape, typed.example),
            responses=queued(400, 413),
            status_code=202,
        )

    for typed in _TYPED:
        typed_route(typed)
    return router


async def _given(
    request: Request, type: str, shape: type[TypedInput], limits: LimitSettings
) -> Submission:
    """The job that a JSON body describes. Raises `InvalidJob`, `InvalidJson`, `BodyTooLarge`."""
    given = decode(await read_body(request, limits.body_bytes), shape, InvalidJob)
    fields: dict[str, Any] = msgspec.to_builtins(given)
    params = {
        name: value for name, value in fields.items() if name not in _COMMON and value is not None
    }
    common = {name: value for name, value in fields.items() if name in _COMMON}
    return Submission(type, params=params, **common)
