"""`/v1/jobs`: submit long work, watch it, cancel it, try it again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.job_events import JobEvents
from headwater.api.job_wire import (
    JobBatch,
    JobBatchAnswer,
    JobInput,
    JobJson,
    JobOutcome,
    JobPage,
    JobTypes,
    Replay,
    Replayed,
)
from headwater.api.paging import next_token, read_token
from headwater.changes import Log
from headwater.errors import HeadwaterError, InvalidJob, TooManyItems
from headwater.model import Job
from headwater.service.ingest import error_json
from headwater.service.jobs import Jobs, job_json
from headwater.settings import JobSettings, LimitSettings
from headwater.store.job_commands import Enqueued

EXAMPLE = {
    "type": "batch_delete",
    "library": "notes",
    "params": {"filter": {"year": {"$lt": 2020}}},
    "idempotency_key": "tidy-2026-11",
}
SSE = (
    'retry: 1000\nevent: ready\ndata: {"cursor":"k3f9q2.88122"}\n\n'
    'event: job\ndata: {"job_id":"0192…","status":"running","progress":{"current":50,"total":200,'
    '"percentage":25.0,"message":"deleting","rate":100.0,"eta_seconds":1.5}}\n\n'
    'id: k3f9q2.88130\nevent: job.completed\ndata: {"id":"k3f9q2.88130","type":"job.completed",'
    '"library_id":"0192…","timestamp":"2026-11-28T12:00:00.000000Z","data":{"job_id":"0192…"}}\n\n'
    'event: goodbye\ndata: {"cursor":"k3f9q2.88130","reason":"ended"}\n\n'
)

Status = Annotated[
    str | None, Query(description="Comma-separated: queued, running, completed, failed, cancelled.")
]
Type = Annotated[str | None, Query(description="Comma-separated types.")]
After = Annotated[str | None, Query(description="`next` of the page before.")]


def job_routes(
    log: Log, jobs: Jobs, events: JobEvents, settings: JobSettings, limits: LimitSettings
) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    one = {200: ("The job.", openapi.json(JobJson))}

    def answer(job: Job, status: int = 200) -> Response:
        return wire.json_response(
            job_json(job, log.store.log_id), status, {"location": f"/v1/jobs/{job.id}"}
        )

    def page_of(found: list[Job], limit: int) -> Response:
        shown = found[:limit]
        return wire.json_response(
            {
                "jobs": [job_json(job, log.store.log_id, whole=False) for job in shown],
                "next": next_token(shown[-1].row) if len(found) > limit else None,
            }
        )

    @router.post(
        "",
        summary="Submit a job",
        description=(
            "It is durable when this answers, and begun as soon as a worker is free, in the order "
            "of `priority`. With an `idempotency_key` a second submission gives the first job."
        ),
        openapi_extra=openapi.body(JobInput, EXAMPLE),
        responses=openapi.answers(
            {
                202: ("Queued; `Location` is where it is.", openapi.json(JobJson)),
                200: ("It was there already.", openapi.json(JobJson)),
            },
            404,
            409,
            422,
            429,
            503,
        ),
        status_code=202,
    )
    async def submit(request: Request) -> Response:
        given = decode(await read_body(request, limits.body_bytes), JobInput, InvalidJob)
        found = await jobs.submit(given.submission())
        return answer(found.job, 202 if found.created else 200)

    @router.post(
        "/batch",
        summary="Submit many jobs at once",
        description="In one transaction. One that is wrong does not hold up the others.",
        openapi_extra=openapi.body(JobBatch, {"jobs": [EXAMPLE]}),
        responses=openapi.answers(
            {202: ("An outcome for each.", openapi.json(JobBatchAnswer))}, 413, 422, 503
        ),
        status_code=202,
    )
    async def submit_batch(request: Request) -> Response:
        given = decode(await read_body(request, limits.body_bytes), JobBatch, InvalidJob)
        if len(given.jobs) > settings.batch:
            raise TooManyItems(
                f"{len(given.jobs)} jobs are more than {settings.batch}; send them in several",
                limit=settings.batch,
            )
        found = await jobs.submit_many([job.submission() for job in given.jobs])
        queued = [one for one in found if isinstance(one, Enqueued)]
        created = sum(one.created for one in queued)
        return wire.json_response(
            JobBatchAnswer(
                [_outcome(one) for one in found],
                created,
                len(queued) - created,
                len(found) - len(queued),
                str(log.cursor(max((one.job.position for one in queued), default=log.head))),
            ),
            202,
        )

    @router.get(
        "",
        summary="List jobs, the newest first",
        responses=openapi.answers({200: ("A page.", openapi.json(JobPage))}, 400, 404, 422),
    )
    async def page(
        status: Status = None,
        type: Type = None,
        library: Annotated[str | None, Query(description="Of this library.")] = None,
        schedule: Annotated[
            str | None, Query(description="Of this schedule, by id or name.")
        ] = None,
        limit: int = Query(100, ge=1, le=limits.page_items),
        after: After = None,
    ) -> Response:
        found = await jobs.page(
            after=read_token(after),
            limit=limit + 1,
            statuses=_names(status),
            types=_names(type),
            library=library,
            schedule=schedule,
        )
        return page_of(found, limit)

    @router.get(
        "/types",
        summary="What types of jobs there are",
        responses=openapi.answers({200: ("Their names.", openapi.json(JobTypes))}),
    )
    async def types() -> Response:
        return wire.json_response(JobTypes(jobs.registry.names))

    @router.get(
        "/statistics",
        summary="How the jobs are doing",
        description="Of all processes on this store; durations are of the jobs completed last.",
        responses=openapi.answers({200: ("Figures.", {})}),
    )
    async def statistics() -> Response:
        return wire.json_response(await jobs.statistics())

    @router.get(
        "/dead",
        summary="List the jobs that failed and have no attempts left",
        responses=openapi.answers({200: ("A page.", openapi.json(JobPage))}, 400, 422),
    )
    async def dead(
        type: Type = None,
        limit: int = Query(100, ge=1, le=limits.page_items),
        after: After = None,
    ) -> Response:
        found = await jobs.page(
            after=read_token(after), limit=limit + 1, types=_names(type), dead=True
        )
        return page_of(found, limit)

    @router.post(
        "/dead/replay",
        summary="Try all dead jobs again",
        description="Those of one `type`, or all. Each goes on from what it saved.",
        openapi_extra=openapi.body(Replay, {"type": "batch_import"}, required=False),
        responses=openapi.answers({200: ("How many.", openapi.json(Replayed))}, 422, 503),
    )
    async def replay(request: Request) -> Response:
        body = await read_body(request, limits.body_bytes)
        given = decode(body, Replay, InvalidJob) if body else Replay()
        return wire.json_response(Replayed(await jobs.replay(given.type)))

    @router.get("/{id}", summary="Look at a job", responses=openapi.answers(one, 404))
    async def get(id: str) -> Response:
        return answer(await jobs.get(id))

    @router.get(
        "/{id}/events",
        summary="Hear a job until it has ended",
        description=(
            "Server-sent events: `ready`, then `job` with the whole of it as it is now, then each "
            "of its changes, as in `/v1/events/stream`; `goodbye` with the reason `ended` after "
            "the last. Resume with `Last-Event-ID` or `after`."
        ),
        responses=openapi.answers(
            {200: ("Events.", openapi.lines(SSE, "text/event-stream"))}, 400, 404, 410, 422, 429
        ),
    )
    async def hear(
        id: str,
        after: Annotated[str | None, Query(description="A cursor, or `beginning`.")] = None,
        last_event_id: Annotated[str | None, Header(description="As `after`; wins.")] = None,
    ) -> Response:
        return await events.answer(id, last_event_id or after)

    cancelling = openapi.answers(
        {
            200: ("It waited, and is cancelled.", openapi.json(JobJson)),
            202: ("It runs, and was told to stop.", openapi.json(JobJson)),
        },
        404,
        409,
        503,
    )

    async def _cancel(id: str) -> Response:
        job = await jobs.cancel(id)
        return answer(job, 202 if job.status == "running" else 200)

    @router.post("/{id}/cancel", summary="Cancel a job", responses=cancelling)
    async def cancel(id: str) -> Response:
        return await _cancel(id)

    @router.delete(
        "/{id}", summary="Cancel a job", description="As `cancel`.", responses=cancelling
    )
    async def delete(id: str) -> Response:
        return await _cancel(id)

    @router.post(
        "/{id}/retry",
        summary="Try a failed or cancelled job again",
        description="With all its attempts; it goes on from what it saved.",
        responses=openapi.answers({202: ("It waits again.", openapi.json(JobJson))}, 404, 409, 503),
        status_code=202,
    )
    async def retry(id: str) -> Response:
        return answer(await jobs.retry(id), 202)

    return router


def _outcome(found: Enqueued | HeadwaterError) -> JobOutcome:
    if isinstance(found, HeadwaterError):
        return JobOutcome("failed", error={**found.fields, **error_json(found)})
    return JobOutcome("queued" if found.created else "existing", found.job.id)


def _names(text: str | None) -> list[str] | None:
    """A comma-separated list; None for all."""
    if text is None:
        return None
    return [name for piece in text.split(",") if (name := piece.strip())]
