"""`/v1/jobs/{id}/download` and `/errors`: the files that jobs leave.

What an export has made is there for a time, what went wrong in an import as long as the job.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from headwater.api import openapi
from headwater.api.download import Download
from headwater.errors import FileExpired, FileMissing
from headwater.model import Job
from headwater.service.export_files import MEDIA_TYPES
from headwater.service.job_types.batch_export import EXPORT
from headwater.service.job_types.batch_import import ERRORS
from headwater.service.jobs import Jobs
from headwater.threads import Pool

_PACKED = {"gz": "application/gzip", "zst": "application/zstd"}
"""What a compressed file is: it is given as it is, not as an encoding of what is inside."""


def job_file_routes(jobs: Jobs, *, stall: timedelta) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    pool = Pool("downloads", 4)

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
                media_type=_PACKED.get(suffix.rpartition(".")[2], MEDIA_TYPES[made["format"]]),
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

    # For clients that ask how long a file is before they get it in parts.
    for path, endpoint in (("/{id}/download", download), ("/{id}/errors", errors)):
        router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return router


def _made(job: Job) -> dict[str, Any]:
    """What the export has made. Raises `FileMissing`."""
    if job.type != "batch_export":
        raise FileMissing(f"a {job.type} job leaves no file to be downloaded")
    if job.status != "completed" or job.result is None:
        raise FileMissing(
            f"the export is {job.status}; its file is there once it is completed", job_id=job.id
        )
    return job.result
