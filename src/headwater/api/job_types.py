"""`/v1/jobs/batch-import` and the others: jobs by their type, files in and out."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import check_encoding, decode, decoded, read_body
from headwater.api.download import Download
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
from headwater.clock import Clock
from headwater.errors import FileExpired, FileMissing, InvalidJob
from headwater.model import Job
from headwater.service.export_files import MEDIA_TYPES
from headwater.service.job_types.batch_export import EXPORT
from headwater.service.job_types.batch_import import ERRORS, SENT
from headwater.service.jobs import Jobs, Submission, job_json
from headwater.service.sources import Format
from headwater.service.uploads import Uploads
from headwater.settings import LimitSettings
from headwater.threads import Pool

BY_MEDIA_TYPE: dict[str, Format] = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "text/tab-separated-values": "csv",
    "application/vnd.apache.parquet": "parquet",
}
PARQUET = MEDIA_TYPES["parquet"]


_COMMON = frozenset(TypedInput.__struct_fields__)

EXAMPLES: dict[str, dict[str, Any]] = {
    "batch_import": {"library": "notes", "documents": [{"id": "n-1", "text": "Call Ada."}]},
    "batch_export": {"library": "notes", "format": "parquet", "include": ["vectors"]},
    "batch_delete": {"library": "notes", "filter": {"year": {"$lt": 2020}}},
    "index_rebuild": {"library": "notes"},
    "index_optimize": {"library": "notes"},
    "regenerate_embeddings": {"library": "notes", "embedder": "static"},
}


def job_type_routes(
    log: Log,
    jobs: Jobs,
    uploads: Uploads,
    clock: Clock,
    limits: LimitSettings,
    *,
    stall: timedelta,
) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    pool = Pool("downloads", 4)

    async def submitted(submission: Submission, id: str | None = None) -> Response:
        found = await jobs.submit(submission, id=id)
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
                {"schema": openapi.ref(ImportInput), "example": EXAMPLES["batch_import"]},
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
        if kind in ("", "application/json") and format is None:
            return await submitted(await _given(request, "batch_import", ImportInput, limits))
        found = format or BY_MEDIA_TYPE.get(kind)
        if found is None:
            raise InvalidJob(
                f"a body of {kind[:80]!r} is not understood; say its `format`: ndjson, csv or "
                "parquet",
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
        except BaseException:
            await uploads.remove(jobs.folder_of(id))
            raise
        if made.job.id != id:
            await uploads.remove(jobs.folder_of(id))
        return wire.json_response(
            job_json(made.job, log.store.log_id),
            202 if made.created else 200,
            {"location": f"/v1/jobs/{made.job.id}"},
        )

    @router.post(
        "/batch-export",
        summary="Export a library as a job",
        description=(
            "NDJSON, CSV or Parquet, of one moment; also with chunks and vectors. The file is at "
            "`/v1/jobs/{id}/download` for a time."
        ),
        openapi_extra=openapi.body(ExportInput, EXAMPLES["batch_export"]),
        responses=queued(400, 413),
        status_code=202,
    )
    async def batch_export(request: Request) -> Response:
        return await submitted(await _given(request, "batch_export", ExportInput, limits))

    @router.post(
        "/batch-delete",
        summary="Delete documents as a job",
        description="Those that meet `filter` (`{}`: all), or those named by `ids`.",
        openapi_extra=openapi.body(DeleteInput, EXAMPLES["batch_delete"]),
        responses=queued(400, 413),
        status_code=202,
    )
    async def batch_delete(request: Request) -> Response:
        return await submitted(await _given(request, "batch_delete", DeleteInput, limits))

    @router.post(
        "/index-rebuild",
        summary="Make a library's indexes anew as a job",
        description="From the store, in every process; searches go on with the old ones.",
        openapi_extra=openapi.body(IndexInput, EXAMPLES["index_rebuild"]),
        responses=queued(400, 413),
        status_code=202,
    )
    async def index_rebuild(request: Request) -> Response:
        return await submitted(await _given(request, "index_rebuild", IndexInput, limits))

    @router.post(
        "/index-optimize",
        summary="Put a library's indexes in order as a job",
        description="Merge what can be merged, drop what is deleted.",
        openapi_extra=openapi.body(IndexInput, EXAMPLES["index_optimize"]),
        responses=queued(400, 413),
        status_code=202,
    )
    async def index_optimize(request: Request) -> Response:
        return await submitted(await _given(request, "index_optimize", IndexInput, limits))

    @router.post(
        "/regenerate-embeddings",
        summary="Make a library's vectors anew as a job",
        description=(
            "By another `embedder` or `dimension`, or the same: beside the valid ones, which they "
            "replace all at once. Searches and writes go on."
        ),
        openapi_extra=openapi.body(RegenerateInput, EXAMPLES["regenerate_embeddings"]),
        responses=queued(400, 413),
        status_code=202,
    )
    async def regenerate_embeddings(request: Request) -> Response:
        return await submitted(
            await _given(request, "regenerate_embeddings", RegenerateInput, limits)
        )

    @router.get(
        "/{id}/download",
        summary="Download the file of an export",
        description="Ranges are given (`Range`, `If-Range`); the `ETag` is that of the content.",
        responses=openapi.answers(
            {
                200: ("The file.", {"application/octet-stream": {}}),
                206: ("A range of it.", {"application/octet-stream": {}}),
            },
            404,
            410,
            416,
        ),
    )
    async def download(id: str, request: Request) -> Response:
        job = await jobs.get(id)
        made = _made(job)
        suffix = made["file"].partition(".")[2]
        path = jobs.folder_of(job.id) / f"{EXPORT}.{suffix}"
        if not await pool.call(path.exists):
            raise FileExpired(
                f"the file was kept until {made['expires_at']}; export again", job_id=job.id
            )
        return await pool.call(
            lambda: Download(
                path,
                headers=request.headers,
                etag=f'"{made["sha256"][:32]}"',
                name=made["file"],
                media_type=MEDIA_TYPES[made["format"]],
                pool=pool,
                stall=stall,
            )
        )

    @router.get(
        "/{id}/errors",
        summary="Download the errors of an import",
        description="NDJSON: `line`, `id`, `error` of each line that failed so far.",
        responses=openapi.answers(
            {
                200: (
                    "The errors.",
                    openapi.lines(
                        '{"line":3,"id":null,"error":{"code":"invalid_json",'
                        '"detail":"not a JSON object: …","retryable":false}}\n'
                    ),
                )
            },
            404,
        ),
    )
    async def errors(id: str, request: Request) -> Response:
        job = await jobs.get(id)
        if job.type != "batch_import":
            raise FileMissing(f"a {job.type} job has no errors of lines; look at its `error`")
        size = (job.saved or {}).get("error_bytes", 0)
        path = jobs.folder_of(job.id) / ERRORS
        if not size or not await pool.call(path.exists):
            return Response(b"", media_type=openapi.NDJSON)
        return await pool.call(
            lambda: Download(
                path,
                headers=request.headers,
                etag=f'"{job.id}-{size}"',
                name=f"{job.id}-{ERRORS}",
                media_type=openapi.NDJSON,
                pool=pool,
                stall=stall,
                size=size,
            )
        )

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


def _made(job: Job) -> dict[str, Any]:
    """What the export has made. Raises `FileMissing`."""
    if job.type != "batch_export":
        raise FileMissing(f"a {job.type} job leaves no file to be downloaded")
    if job.status != "completed" or job.result is None:
        raise FileMissing(
            f"the export is {job.status}; its file is there once it is completed", job_id=job.id
        )
    return job.result
