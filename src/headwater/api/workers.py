"""`/v1/workers`: the processes that run jobs, read and set while they run."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from headwater.api import openapi, wire
from headwater.api.body import decode, read_body
from headwater.api.job_wire import WorkerChange, WorkerJson, WorkerList
from headwater.errors import InvalidJob
from headwater.model import Worker
from headwater.service.schedules import Workers
from headwater.settings import LimitSettings
from headwater.store.job_data import worker_data

EXAMPLE = {"size": 8, "mode": "run"}
DESCRIPTION = (
    "`size`: jobs at once. `types`: which, `*` for all. `mode`: `run`; `pause`: take no more, what "
    "runs goes on; `drain`: take no more and give back what runs, for others to go on with. What "
    "is left out stays; null is what the process was started with."
)


def worker_routes(workers: Workers, limits: LimitSettings) -> APIRouter:
    router = APIRouter(prefix="/v1/workers", tags=["jobs"])
    many = {200: ("The workers.", openapi.json(WorkerList))}
    one = {200: ("The worker.", openapi.json(WorkerJson))}

    def listing(found: list[Worker]) -> Response:
        return wire.json_response({"workers": [worker_data(worker) for worker in found]})

    async def given(request: Request) -> WorkerChange:
        return decode(await read_body(request, limits.body_bytes), WorkerChange, InvalidJob)

    @router.get(
        "",
        summary="List the processes that run jobs",
        description="Servers and `headwater worker` processes on this store, as they stand now.",
        responses=openapi.answers(many),
    )
    async def all() -> Response:
        return listing(await workers.all())

    @router.put(
        "",
        summary="Set all workers",
        description=(
            f"{DESCRIPTION} `size` and `types` are those of servers, also of those that start "
            "later; `mode` is everybody's."
        ),
        openapi_extra=openapi.body(WorkerChange, EXAMPLE),
        responses=openapi.answers(many, 422, 503),
    )
    async def change_all(request: Request) -> Response:
        change = await given(request)
        await workers.change(None, size=change.size, types=change.types, mode=change.mode)
        return listing(await workers.all())

    @router.get("/{process}", summary="Look at a worker", responses=openapi.answers(one, 404))
    async def get(process: str) -> Response:
        return wire.json_response(worker_data(await workers.get(process)))

    @router.put(
        "/{process}",
        summary="Set one worker",
        description=f"{DESCRIPTION} For as long as that process lives.",
        openapi_extra=openapi.body(WorkerChange, EXAMPLE),
        responses=openapi.answers(one, 404, 422, 503),
    )
    async def change_one(process: str, request: Request) -> Response:
        change = await given(request)
        (worker,) = await workers.change(
            process, size=change.size, types=change.types, mode=change.mode
        )
        return wire.json_response(worker_data(worker))

    return router
