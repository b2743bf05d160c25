"""A process's part in jobs: it runs them, answers for them, fires schedules, forgets old ones.

The one thing that `app.py` starts. Servers and `headwater worker` processes have the same.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.abc

from headwater.changes import Log
from headwater.clock import Clock
from headwater.jobs.lease import Leases
from headwater.jobs.registry import Registry
from headwater.jobs.runner import JobRunner
from headwater.jobs.scheduler import Scheduler
from headwater.jobs.upkeep import JobUpkeep
from headwater.model import WorkerRole
from headwater.settings import JobSettings
from headwater.store import DataFolder
from headwater.threads import Pool


class JobProcess:
    """Loop only. `folder` is where the jobs' own folders are."""

    def __init__(
        self,
        log: Log,
        data: DataFolder,
        registry: Registry,
        clock: Clock,
        settings: JobSettings,
        folder: Path,
        process: str,
        role: WorkerRole,
        pool: Pool,
    ) -> None:
        self.runner = JobRunner(log, registry, clock, settings, folder, process, role)
        self._leases = Leases(log, data, self.runner, clock, settings)
        self._scheduler = Scheduler(log, clock, settings)
        self._upkeep = JobUpkeep(log, data, folder, clock, settings, pool)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Take part until cancelled; then give back the jobs that run."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.runner.run)
            await tasks.start(self._leases.run)
            await tasks.start(self._scheduler.run)
            await tasks.start(self._upkeep.run)
            task_status.started()
