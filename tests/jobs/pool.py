"""A process's part in jobs without a server around it: store, log, runner, leases, scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
from jobs.types import handlers
from store.backend import HandClock

from headwater.app import started
from headwater.changes import Log
from headwater.jobs.lease import Leases
from headwater.jobs.registry import Registry
from headwater.jobs.runner import JobRunner
from headwater.jobs.scheduler import Scheduler
from headwater.model import Job, JobStatus
from headwater.settings import JobSettings, StoreSettings
from headwater.store import DataFolder, SqliteStore
from headwater.store.job_commands import CancelJob, Enqueued, EnqueueJobs, NewJob

ENDED: frozenset[JobStatus] = frozenset({"completed", "failed", "cancelled"})


@dataclass
class Pool:
    log: Log
    clock: HandClock
    runner: JobRunner
    settings: JobSettings
    folder: Path

    async def submit(self, type: str, n: int = 1, **fields: Any) -> list[str]:
        """Queue `n` jobs; fields of `NewJob`, anything else is a parameter."""
        own = {"library_id", "priority", "not_before_us", "max_attempts", "idempotency_key"}
        given: dict[str, Any] = {
            "type": type,
            "library_id": None,
            "priority": 0,
            "not_before_us": 0,
            "max_attempts": 3,
            "params": {name: value for name, value in fields.items() if name not in own},
        } | {name: value for name, value in fields.items() if name in own}
        jobs = [NewJob(self.clock.uuid7(), **given) for _ in range(n)]
        found: list[Enqueued] = await self.log.store.write(EnqueueJobs(jobs, 100_000))
        return [one.job.id for one in found]

    async def cancel(self, id: str) -> Job:
        job: Job = await self.log.store.write(CancelJob(id))
        return job

    async def job(self, id: str) -> Job:
        job = await self.log.store.read(lambda reader: reader.job(id))
        assert job is not None
        return job

    async def until(self, id: str, *statuses: JobStatus, message: str | None = None) -> Job:
        """The job as soon as it has one of `statuses`, or has said `message`."""
        return await self.when(
            id,
            lambda job: (
                job.status in statuses or (message is not None and job.progress.message == message)
            ),
        )

    async def when(self, id: str, meets: Callable[[Job], bool]) -> Job:
        """The job as soon as it `meets` that."""
        with anyio.fail_after(30):
            while True:
                position = self.log.head
                job = await self.job(id)
                if meets(job):
                    return job
                await self.log.bell.wait_past(position)

    async def ended(self, ids: Sequence[str]) -> list[Job]:
        return [await self.until(id, *ENDED) for id in ids]


@asynccontextmanager
async def pool(
    folder: Path,
    *more: Any,
    name: str = "one",
    store: dict[str, Any] | None = None,
    runs: bool = True,
    clock: HandClock | None = None,
    **settings: Any,
) -> AsyncIterator[Pool]:
    """With `runs` False nothing is claimed: jobs are only submitted and looked at."""
    clock = clock or HandClock()
    log = Log(1 << 22)
    kept = SqliteStore(
        folder,
        StoreSettings.model_validate({"durability": "normal"} | (store or {})),
        clock,
        on_commit=log.publish,
        on_foreign=log.hear,
    )
    data = DataFolder(folder)
    chosen = JobSettings.model_validate(
        {"backoff": timedelta(milliseconds=20), "reap_every": timedelta(milliseconds=50)} | settings
    )
    registry = Registry(handlers(*more))
    runner = JobRunner(log, registry, clock, chosen, folder / "jobs", name, "server")
    leases = Leases(log, data, runner, clock, chosen)
    scheduler = Scheduler(log, clock, chosen)
    if runs:
        data.enter(name)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(started(kept.run))
        log.attach(kept, await kept.read(lambda reader: reader.head()))
        if runs:
            await stack.enter_async_context(started(leases.run))
            await stack.enter_async_context(started(runner.run))
            await stack.enter_async_context(started(scheduler.run))
        yield Pool(log, clock, runner, chosen, folder / "jobs")
    data.release()
