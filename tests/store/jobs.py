"""Jobs put into a store, claimed and looked at, for the contracts of jobs."""

from __future__ import annotations

from typing import Any

from store.backend import Opened
from store.reading import data, whole_log

from headwater.model import Job
from headwater.store.job_commands import (
    Claimed,
    ClaimJobs,
    Enqueued,
    EnqueueJobs,
    NewJob,
)

FAR_US = 1 << 60
ERROR = {"code": "disk_full", "detail": "no room", "retryable": True}


def new(id: str, **fields: Any) -> NewJob:
    given: dict[str, Any] = {
        "type": "count",
        "library_id": None,
        "params": {"to": 3},
        "priority": 0,
        "not_before_us": 0,
        "max_attempts": 2,
    }
    return NewJob(id, **given | fields)


async def submit(opened: Opened, *jobs: NewJob) -> list[Job]:
    found: list[Enqueued] = await opened.store.write(EnqueueJobs(jobs, 100))
    return [one.job for one in found]


async def claim(
    opened: Opened,
    limit: int = 1,
    process: str = "one",
    types: tuple[str, ...] = ("count",),
    until_us: int = FAR_US,
) -> list[Job]:
    claimed: Claimed = await opened.store.write(ClaimJobs(process, types, limit, until_us))
    return claimed.jobs


async def stored(opened: Opened, id: str) -> Job:
    job = await opened.store.read(lambda reader: reader.job(id))
    assert job is not None
    return job


async def told(opened: Opened, id: str) -> list[str]:
    """What was told of a job, with the reasons for which it was queued."""
    return [
        change.type + (f" {data(change)['reason']}" if change.type == "job.queued" else "")
        for change in await whole_log(opened)
        if change.subject == id
    ]
