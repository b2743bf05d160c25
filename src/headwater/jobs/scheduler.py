"""Fires the schedules: submits their jobs when the time has come.

Every process that runs jobs looks at the clock; the store lets one of them fire, in the transaction
that queues the jobs and sets the schedule's next turn. It must never fire what was paused, deleted
or fired meanwhile, nor keep one waiting for another that cannot fire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import anyio
import anyio.abc
import structlog

from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import HeadwaterError, StoreFailed
from headwater.jobs.schedule import NEVER_US, Timing, firings
from headwater.model import Committed, Schedule
from headwater.settings import JobSettings
from headwater.store.base import Reader
from headwater.store.job_commands import FireSchedule, NewJob

_AT_ONCE = 50
_AGAIN_S = 1.0
_AGAIN_MAX_S = 60.0

log_line = structlog.get_logger(__name__)


class Scheduler:
    """Loop only."""

    def __init__(self, log: Log, clock: Clock, settings: JobSettings) -> None:
        self._log = log
        self._clock = clock
        self._settings = settings
        self._changed = anyio.Event()
        self._aside: dict[str, _Aside] = {}
        """Those whose turn it is and that could not fire, by id."""
        log.on_news(self._hear)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        while True:
            self._changed = anyio.Event()
            next_us: int | None = None
            try:
                next_us = await self.fire_due()
            except HeadwaterError as error:
                log_line.warning("schedules.not_read", detail=error.detail)
            # Never longer than the poll: the clock may be set, and a bell may be lost.
            wait_s = self._settings.poll.total_seconds()
            if next_us is not None:
                wait_s = min(wait_s, (next_us - self._clock.now_us()) / 1_000_000)
            with anyio.move_on_after(max(0.001, wait_s)):
                await self._changed.wait()

    async def fire_due(self) -> int | None:
        """Fire all whose turn it is; when the next one's turn is, as far as is known.

        One that cannot fire is put aside for a while, longer each time, and the rest go on.
        """
        now_us = self._clock.now_us()
        after: tuple[int, int] = (0, 0)
        seen: set[str] = set()
        while True:
            due, next_us = await self._log.store.read(_due(now_us, after))
            for schedule in due:
                seen.add(schedule.id)
                if self._waits(schedule):
                    continue
                try:
                    await self._fire(schedule, now_us)
                except Exception as error:  # one schedule's root: the others go on
                    if isinstance(error, StoreFailed) and error.retryable:
                        raise  # it is the store that fails, not the schedule
                    self._put_aside(schedule, error)
                else:
                    self._aside.pop(schedule.id, None)
            if len(due) < _AT_ONCE:
                self._aside = {id: one for id, one in self._aside.items() if id in seen}
                return next_us
            after = (due[-1].next_us, due[-1].row)

    def _waits(self, schedule: Schedule) -> bool:
        """Whether it was put aside, and not for long enough."""
        aside = self._aside.get(schedule.id)
        return aside is not None and self._clock.monotonic() < aside.until_s

    def _put_aside(self, schedule: Schedule, error: Exception) -> None:
        before = self._aside.get(schedule.id)
        wait_s = _AGAIN_S if before is None else min(2 * before.wait_s, _AGAIN_MAX_S)
        self._aside[schedule.id] = _Aside(wait_s, self._clock.monotonic() + wait_s)
        if isinstance(error, HeadwaterError):  # the queue is full; or its zone is gone
            log_line.warning("schedule.not_fired", schedule=schedule.name, detail=error.detail)
        else:
            log_line.error("schedule.crashed", schedule=schedule.name, exc_info=error)

    async def _fire(self, schedule: Schedule, now_us: int) -> None:
        settings = self._settings
        grace_us = round(settings.grace / timedelta(microseconds=1))
        times, next_us = firings(
            Timing.of(schedule),
            schedule.next_us,
            now_us,
            schedule.missed,
            grace_us,
            settings.catch_up,
        )
        jobs = [
            job_of(schedule, self._clock.uuid7(), f"{schedule.id}@{fires_us}") for fires_us in times
        ]
        fired = await self._log.store.write(
            FireSchedule(schedule.id, schedule.next_us, next_us, jobs, settings.max_queued)
        )
        if fired is not None:
            log_line.info("schedule.fired", schedule=schedule.name, jobs=len(fired))
        if next_us == NEVER_US:
            log_line.info("schedule.over", schedule=schedule.name)

    def _hear(self, committed: Committed | None) -> None:
        """The log's hook. Other processes' changes are found by the poll."""
        if committed is not None and any(
            change.type.startswith("schedule.") for change in committed.changes
        ):
            self._changed.set()


@dataclass(frozen=True, slots=True)
class _Aside:
    wait_s: float
    until_s: float


def _due(
    now_us: int, after: tuple[int, int]
) -> Callable[[Reader], tuple[list[Schedule], int | None]]:
    return lambda reader: reader.schedules_due(now_us, _AT_ONCE, after=after)


def job_of(schedule: Schedule, id: str, key: str | None) -> NewJob:
    """The job that a schedule submits."""
    return NewJob(
        id=id,
        type=schedule.type,
        library_id=schedule.library_id,
        params=schedule.params,
        priority=schedule.priority,
        not_before_us=0,
        max_attempts=schedule.max_attempts,
        idempotency_key=key,
        schedule_id=schedule.id,
    )
