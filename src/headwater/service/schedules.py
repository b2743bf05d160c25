"""Schedules and workers as callers know them.

A schedule submits jobs by the clock; its job is checked when it is made, as any job is when it is
submitted. Workers are the processes that run jobs; what is asked of them is a row they all read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import InvalidJob, InvalidSchedule, ScheduleNotFound, WorkerNotFound
from headwater.jobs.schedule import NEVER_US, Timing
from headwater.jobs.scheduler import job_of
from headwater.model import Job, Missed, Position, Schedule, Worker, WorkerMode
from headwater.service.jobs import Jobs, time_us
from headwater.settings import JobSettings
from headwater.store.job_commands import (
    UNSET,
    ChangeSchedule,
    ChangeWorkers,
    CreateSchedule,
    DeleteSchedule,
    FireSchedule,
    Unset,
)

MOST_PLACES = 64
_NAME = re.compile(r"[^\s/\x00-\x1f\x7f]([^/\x00-\x1f\x7f]{0,126}[^\s/\x00-\x1f\x7f])?")


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """Exactly one of `cron` and `every_seconds`. `first_at` is the first firing of an interval."""

    name: str
    type: str
    library: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    cron: str | None = None
    timezone: str = "UTC"
    every_seconds: float | None = None
    first_at: str | None = None
    missed: Missed = "once"
    paused: bool = False
    priority: int = 0
    max_attempts: int | None = None


class Schedules:
    """Loop only."""

    def __init__(self, log: Log, jobs: Jobs, clock: Clock, settings: JobSettings) -> None:
        self._log = log
        self._jobs = jobs
        self._clock = clock
        self._settings = settings

    async def create(self, new: NewSchedule) -> Schedule:
        """Raises `InvalidSchedule`, `ScheduleExists`, and what submitting its job would raise."""
        if not _NAME.fullmatch(new.name):
            raise InvalidSchedule(
                "`name` has 1 to 128 characters, no slash, and no space at either end"
            )
        checked = await self._jobs.check(
            new.type, new.library, new.params, new.priority, new.max_attempts
        )
        now_us = self._clock.now_us()
        every_us = None
        if new.every_seconds is not None:
            # What is far out of range stays so, and is refused with the rest.
            every_us = round(1_000_000 * max(-1.0, min(new.every_seconds, 1e9)))
        first_us = now_us + (every_us or 0)
        if new.first_at is not None:
            if every_us is None:
                raise InvalidSchedule("`first_at` goes with `every_seconds`; cron says it itself")
            first_us = time_us(new.first_at, "first_at")
        timing = Timing(new.cron, new.timezone, every_us, first_us)
        schedule: Schedule = await self._log.store.write(
            CreateSchedule(
                id=self._clock.uuid7(),
                name=new.name,
                type=checked.type,
                library_id=checked.library_id,
                params=checked.params,
                priority=checked.priority,
                max_attempts=checked.max_attempts,
                cron=new.cron,
                timezone=new.timezone,
                every_us=every_us,
                missed=new.missed,
                paused=new.paused,
                next_us=timing.next(now_us) if every_us is None else first_us,
                most=self._settings.schedules,
            )
        )
        return schedule

    async def get(self, ref: str) -> Schedule:
        """By id or name. Raises `ScheduleNotFound`."""
        schedule = await self._log.store.read(lambda reader: reader.schedule(ref))
        if schedule is None:
            raise ScheduleNotFound(
                f"there is no schedule {ref[:80]!r} (any more); GET /v1/schedules lists them"
            )
        return schedule

    async def page(self, after: int, limit: int) -> list[Schedule]:
        return await self._log.store.read(lambda reader: reader.schedules(after=after, limit=limit))

    async def delete(self, ref: str) -> tuple[Schedule, Position]:
        schedule = await self.get(ref)
        return schedule, await self._log.store.write(DeleteSchedule(schedule.id))

    async def pause(self, ref: str) -> Schedule:
        schedule = await self.get(ref)
        return await self._change(schedule, True, schedule.next_us)

    async def resume(self, ref: str) -> Schedule:
        """Its next turn is the first from now on: what passed while it was paused is not missed."""
        schedule = await self.get(ref)
        next_us = schedule.next_us
        if next_us != NEVER_US:
            now_us = self._clock.now_us()
            next_us = next_us if next_us > now_us else Timing.of(schedule).next(now_us)
        return await self._change(schedule, False, next_us)

    async def _change(self, schedule: Schedule, paused: bool, next_us: int) -> Schedule:
        changed: Schedule = await self._log.store.write(
            ChangeSchedule(schedule.id, paused, next_us)
        )
        return changed

    async def run_now(self, ref: str) -> Job:
        """Submit its job at once, paused or not; its turns stay as they are.

        Raises `TooManyJobs`.
        """
        schedule = await self.get(ref)
        job = job_of(schedule, self._jobs.new_id(), None)
        fired: list[Job] = await self._log.store.write(
            FireSchedule(schedule.id, None, 0, [job], self._settings.max_queued)
        )
        return fired[0]


class Workers:
    """The processes that run jobs, in this one and beside it. Loop only."""

    def __init__(self, log: Log, jobs: Jobs) -> None:
        self._log = log
        self._jobs = jobs

    async def all(self) -> list[Worker]:
        return await self._log.store.read(lambda reader: reader.workers())

    async def get(self, process: str) -> Worker:
        """Raises `WorkerNotFound`."""
        for worker in await self.all():
            if worker.process == process:
                return worker
        raise WorkerNotFound(
            f"there is no worker process {process[:80]!r} (any more); GET /v1/workers lists them"
        )

    async def change(
        self,
        process: str | None,
        *,
        size: int | Unset | None = UNSET,
        types: Sequence[str] | Unset | None = UNSET,
        mode: WorkerMode | Unset = UNSET,
    ) -> list[Worker]:
        """Of one process, or of all. Raises `InvalidJob`, `WorkerNotFound`."""
        if isinstance(size, int) and not 0 <= size <= MOST_PLACES:
            raise InvalidJob(f"must be from 0 to {MOST_PLACES}", path="size")
        wanted: list[str] | Unset | None = UNSET
        if types is None:
            wanted = None
        elif not isinstance(types, Unset):
            wanted = list(dict.fromkeys(types))
            for at, type in enumerate(wanted):
                if type != "*" and type not in self._jobs.registry.names:
                    raise InvalidJob(
                        f"there is no job type {type[:80]!r}; one of "
                        f"{', '.join(self._jobs.registry.names)}, or `*`",
                        path=f"types[{at}]",
                    )
        changed: list[Worker] = await self._log.store.write(
            ChangeWorkers(process, size, wanted, mode)
        )
        return changed
