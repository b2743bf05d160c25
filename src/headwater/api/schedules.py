"""`/v1/schedules`: jobs submitted by the clock."""

from __future__ import annotations

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.job_wire import (
    JobJson,
    ScheduleDeleted,
    ScheduleInput,
    ScheduleJson,
    SchedulePage,
)
from headwater.api.paging import next_token, read_token
from headwater.changes import Log
from headwater.errors import InvalidSchedule
from headwater.model import Schedule
from headwater.service.jobs import job_json
from headwater.service.schedules import Schedules
from headwater.settings import LimitSettings
from headwater.store.job_data import schedule_data

EXAMPLE = {
    "name": "tidy-notes",
    "type": "batch_delete",
    "library": "notes",
    "params": {"filter": {"year": {"$lt": 2020}}},
    "cron": "0 3 * * mon-fri",
    "timezone": "Europe/Berlin",
}


def schedule_routes(log: Log, schedules: Schedules, limits: LimitSettings) -> APIRouter:
    router = APIRouter(prefix="/v1/schedules", tags=["jobs"])
    one = {200: ("The schedule.", openapi.json(ScheduleJson))}

    def answer(schedule: Schedule, status: int = 200) -> Response:
        where = {"location": f"/v1/schedules/{schedule.id}"}
        return wire.json_response(schedule_data(schedule), status, where)

    @router.post(
        "",
        summary="Make a schedule",
        description=(
            "By a `cron` expression in a `timezone`, or every `every_seconds`. `missed` says what "
            "becomes of firings that nobody was there for: `skip`, `once` or `all` of them."
        ),
        openapi_extra=openapi.body(ScheduleInput, EXAMPLE),
        responses=openapi.answers(
            {201: ("Made; `Location` is where it is.", openapi.json(ScheduleJson))},
            404,
            409,
            422,
            429,
            503,
        ),
        status_code=201,
    )
    async def create(request: Request) -> Response:
        body = await read_body(request, limits.body_bytes)
        given = decode(body, ScheduleInput, InvalidSchedule)
        return answer(await schedules.create(given.schedule()), 201)

    @router.get(
        "",
        summary="List schedules",
        responses=openapi.answers({200: ("A page.", openapi.json(SchedulePage))}, 400, 422),
    )
    async def page(
        limit: int = Query(100, ge=1, le=limits.page_items),
        after: str | None = Query(None, description="`next` of the page before."),
    ) -> Response:
        found = await schedules.page(read_token(after), limit + 1)
        shown = found[:limit]
        return wire.json_response(
            {
                "schedules": [schedule_data(schedule) for schedule in shown],
                "next": next_token(shown[-1].row) if len(found) > limit else None,
            }
        )

    @router.get(
        "/{schedule}",
        summary="Look at a schedule",
        description="By id or name.",
        responses=openapi.answers(one, 404),
    )
    async def get(schedule: str) -> Response:
        return answer(await schedules.get(schedule))

    @router.delete(
        "/{schedule}",
        summary="Delete a schedule",
        description="What it has submitted stays.",
        responses=openapi.answers({200: ("Deleted.", openapi.json(ScheduleDeleted))}, 404, 503),
    )
    async def delete(schedule: str) -> Response:
        found, position = await schedules.delete(schedule)
        return wire.json_response(ScheduleDeleted(found.id, str(log.cursor(position))))

    @router.post(
        "/{schedule}/pause",
        summary="Pause a schedule",
        responses=openapi.answers(one, 404, 503),
    )
    async def pause(schedule: str) -> Response:
        return answer(await schedules.pause(schedule))

    @router.post(
        "/{schedule}/resume",
        summary="Let a paused schedule go on",
        description="From now on: what passed while it was paused is not made up for.",
        responses=openapi.answers(one, 404, 503),
    )
    async def resume(schedule: str) -> Response:
        return answer(await schedules.resume(schedule))

    @router.post(
        "/{schedule}/run",
        summary="Submit a schedule's job now",
        description="Paused or not; its turns stay as they are.",
        responses=openapi.answers(
            {202: ("The job; `Location` is where it is.", openapi.json(JobJson))}, 404, 429, 503
        ),
        status_code=202,
    )
    async def run(schedule: str) -> Response:
        job = await schedules.run_now(schedule)
        return wire.json_response(
            job_json(job, log.store.log_id), 202, {"location": f"/v1/jobs/{job.id}"}
        )

    return router
