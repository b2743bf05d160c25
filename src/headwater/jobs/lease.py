"""Leases: this process's word for its jobs renewed, and jobs taken from those who are gone.

That a process of this data folder has ended the operating system says at once; one that is silent,
or on another machine, is gone when its lease is. Every process that runs jobs looks, so that no one
of them is needed.
"""

from __future__ import annotations

from datetime import timedelta

import anyio
import anyio.abc
import structlog

from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import Unavailable
from headwater.jobs.runner import JobRunner
from headwater.settings import JobSettings
from headwater.store import DataFolder
from headwater.store.job_commands import ReapJobs, RenewLeases

log_line = structlog.get_logger(__name__)


class Leases:
    """Loop only. The runner's word is renewed as long as this runs."""

    def __init__(
        self,
        log: Log,
        folder: DataFolder,
        runner: JobRunner,
        clock: Clock,
        settings: JobSettings,
    ) -> None:
        self._log = log
        self._folder = folder
        self._runner = runner
        self._clock = clock
        self._settings = settings

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew)
            tasks.start_soon(self._reap)
            task_status.started()

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self._settings.lease.total_seconds() / 4)
            try:
                until_us = self._runner.until_us()
                await self._log.store.write(RenewLeases(self._runner.process, until_us))
            except Unavailable as error:
                log_line.warning("jobs.lease_not_renewed", detail=error.detail)

    async def _reap(self) -> None:
        while True:
            try:
                await self._reap_once()
            except (Unavailable, OSError) as error:  # also when there is no file to spare
                log_line.warning("jobs.not_reaped", detail=str(error))
            await anyio.sleep(self._settings.reap_every.total_seconds())

    async def _reap_once(self) -> None:
        # In this order: whoever holds a job was alive before, so a new process is never missed.
        holders = await self._log.store.read(lambda reader: reader.job_holders())
        others = holders.keys() - {self._runner.process}
        dead = others - self._folder.alive() if others else set()
        now_us = self._clock.now_us()
        if dead or any(until_us < now_us for until_us in holders.values()):
            command = ReapJobs(dead, _us(self._settings.backoff), _us(self._settings.backoff_max))
            reaped: list[str] = await self._log.store.write(command)
            log_line.info("jobs.taken_over", jobs=len(reaped), processes=sorted(dead))


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
