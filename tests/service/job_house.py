"""The parts of a server without its sockets, and jobs run on them that may be cut off anywhere.

A `Fault` makes the nth write of an attempt fail as if the process had died there, before or after
its commit. The attempt ends, its lease is taken, and the next begins from what was saved: whatever
is seen afterwards is what a process that died there would have left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headwater.app import Parts
from headwater.clock import SystemClock
from headwater.jobs.base import JobHandler
from headwater.jobs.context import RunningJob
from headwater.model import Job, Library, Progress
from headwater.settings import Settings
from headwater.store.base import Command
from headwater.store.job_commands import (
    Claimed,
    ClaimJobs,
    CompleteJob,
    EnqueueJobs,
    FailJob,
    NewJob,
    ReapJobs,
)
from headwater.threads import Crew

FAR_US = 1 << 60


class Died(BaseException):
    """The process is no more."""


@dataclass
class Fault:
    """Where an attempt is cut off: at its `nth` write, 1-based; `after` its commit or before."""

    nth: int
    after: bool = False
    count: int = 0


@dataclass
class JobHouse:
    parts: Parts
    crew: Crew
    fault: Fault | None = None
    clock: SystemClock = field(default_factory=SystemClock)

    async def library(self, name: str = "books", **fields: Any) -> Library:
        fields.setdefault("embedder", "none")
        fields.setdefault("dimension", 3 if fields["embedder"] == "none" else None)
        return await self.parts.libraries.create(name, **fields)

    async def put(self, library: Library, *documents: dict[str, Any]) -> None:
        bodies = [msgspec.json.encode(document) for document in documents]
        for result in await self.parts.documents.put_batch(library, bodies):
            assert not hasattr(result, "error"), result

    async def submit(
        self, handler: JobHandler, params: dict[str, Any], library: Library | None = None
    ) -> Job:
        id = self.clock.uuid7()
        checked = await handler.check(params, library)
        job = NewJob(id, handler.type, library.id if library else None, checked, 0, 0, 1_000)
        (enqueued,) = await self.parts.log.store.write(EnqueueJobs([job], 1_000))
        made: Job = enqueued.job
        return made

    def folder(self, job: Job) -> Path:
        return self.parts.settings.data / "jobs" / job.id

    async def run(self, handler: JobHandler, job: Job, fault: Fault | None = None) -> Job:
        """One attempt, to its end or to the fault; the job as it is then."""
        store = self.parts.log.store
        claimed: Claimed = await store.write(ClaimJobs("tester", {job.type}, 1, FAR_US))
        (job,) = claimed.jobs
        context = RunningJob(
            job,
            self.parts.log,
            self.crew,
            self.clock,
            self.folder(job),
            heavy=False,
            progress_every_s=0.05,
            noted=lambda: None,
        )
        self.fault = fault
        try:
            result = await handler.run(context)
        except BaseException as error:
            self.fault = None
            if _died(error):
                await store.write(ReapJobs({"tester"}, 0, 0))
            else:
                told = {"code": getattr(error, "code", "?"), "detail": str(error)}
                await store.write(FailJob(job.id, job.lease, Progress(), told, None))
                if not isinstance(error, Exception):
                    raise
        else:
            self.fault = None
            await store.write(CompleteJob(job.id, job.lease, Progress(), result))
        return await self.stored(job)

    async def finish(
        self, handler: JobHandler, job: Job, faults: Callable[[int], Fault | None]
    ) -> Job:
        """Attempts until the job has ended; `faults(attempt)` says where each is cut off."""
        attempt = 0
        while job.status == "queued":
            job = await self.run(handler, job, faults(attempt))
            attempt += 1
        return job

    async def stored(self, job: Job) -> Job:
        found = await self.parts.log.store.read(lambda reader: reader.job(job.id))
        assert found is not None
        return found

    async def documents(self, library: Library) -> dict[str, Any]:
        """What there is: title, texts, metadata and vectors by id."""

        def read(reader: Any) -> dict[str, Any]:
            documents = reader.documents(library.number, after_row=0, limit=1_000_000)
            chunks = reader.chunks(documents, vectors=True)
            return {
                document.id: (
                    document.version,
                    document.title,
                    document.metadata,
                    [chunk.text for chunk in own],
                    [None if chunk.vector is None else chunk.vector.tolist() for chunk in own],
                )
                for document, own in zip(documents, chunks, strict=True)
            }

        return await self.parts.log.store.read(read)

    async def events(self, library: Library, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        page = await self.parts.log.read(0, 100_000, library_ids={library.id})
        return [
            (change.type, msgspec.json.decode(change.data))
            for change in page.changes
            if change.type.startswith(prefix)
        ]


def _died(error: BaseException) -> bool:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return isinstance(error, Died)


@asynccontextmanager
async def job_house(folder: Path, **settings: Any) -> AsyncIterator[JobHouse]:
    # A visitor: nobody else takes or gives back jobs here.
    parts = Parts(Settings(data=folder / "data", **settings), SystemClock(), visiting=True)
    crew = Crew("jobs", 4, timedelta(seconds=3))
    home = JobHouse(parts, crew)
    write = parts.store.write

    async def writing(command: Command) -> Any:
        fault = home.fault
        if fault is None:
            return await write(command)
        fault.count += 1
        if fault.count > fault.nth or (fault.count == fault.nth and not fault.after):
            raise Died  # and whatever comes after it
        result = await write(command)
        if fault.count == fault.nth:
            raise Died
        return result

    try:
        async with parts.running():
            parts.store.write = writing  # type: ignore[method-assign]  # cut off where it says
            yield home
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    finally:
        crew.dismiss()
        parts.folder.release()


def unit(seed: int, dimension: int) -> list[float]:
    vector = np.random.default_rng(seed).normal(size=dimension)
    return [round(float(value), 4) for value in vector]
