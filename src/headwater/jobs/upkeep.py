"""Forgets jobs that ended long ago, and removes the folders that no job has any more.

Done by the keeper of the data folder. A folder whose job was never submitted (its upload broke off)
goes once it has not been touched for a day.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.abc
import structlog

from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import Unavailable
from headwater.settings import JobSettings
from headwater.store import DataFolder
from headwater.store.base import Reader
from headwater.store.job_commands import ForgetJobs
from headwater.threads import Pool

EVERY_S = 60.0
FORGET_AT_ONCE = 500
UNTOUCHED_S = 86_400.0

log_line = structlog.get_logger(__name__)


class JobUpkeep:
    """Loop only. `folder` is where the jobs' own folders are."""

    def __init__(
        self,
        log: Log,
        data: DataFolder,
        folder: Path,
        clock: Clock,
        settings: JobSettings,
        pool: Pool,
    ) -> None:
        self._log = log
        self._data = data
        self._folder = folder
        self._clock = clock
        self._settings = settings
        self._pool = pool

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        while True:
            if self._data.keeps:
                try:
                    await self.forget()
                    await self.sweep()
                except (Unavailable, OSError) as error:
                    log_line.warning("jobs.not_forgotten", detail=str(error))
            await anyio.sleep(EVERY_S)

    async def forget(self) -> None:
        """Remove the rows and folders of jobs that have been kept long enough."""
        settings, now_us = self._settings, self._clock.now_us()
        while True:
            gone: list[str] = await self._log.store.write(
                ForgetJobs(
                    now_us - _us(settings.keep), now_us - _us(settings.keep_failed), FORGET_AT_ONCE
                )
            )
            if not gone:
                return
            await self._pool.call(self._remove, gone)

    async def sweep(self) -> None:
        """Remove folders that belong to no job."""
        old = await self._pool.call(self._untouched, self._clock.now_us() / 1_000_000)
        for at in range(0, len(old), FORGET_AT_ONCE):
            ids = old[at : at + FORGET_AT_ONCE]
            there = await self._log.store.read(_there(ids))
            await self._pool.call(self._remove, [id for id in ids if id not in there])

    def _untouched(self, now_s: float) -> list[str]:
        if not self._folder.is_dir():
            return []
        return [
            entry.name
            for entry in self._folder.iterdir()
            if now_s - entry.stat().st_mtime > UNTOUCHED_S
            # A file that is still being sent touches itself alone.
            and all(now_s - file.stat().st_mtime > UNTOUCHED_S for file in entry.iterdir())
        ]

    def _remove(self, ids: list[str]) -> None:
        for id in ids:
            shutil.rmtree(self._folder / id, ignore_errors=True)


def _there(ids: list[str]) -> Callable[[Reader], set[str]]:
    return lambda reader: reader.job_ids(ids)


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
