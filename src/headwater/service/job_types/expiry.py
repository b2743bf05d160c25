"""Takes away the files of exports when their time is over.

Done by the keeper of the data folder. The job stays, and says until when its file was there.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import anyio
import anyio.abc
import structlog

from headwater.clock import Clock
from headwater.service.job_types.batch_export import EXPORT
from headwater.store import DataFolder
from headwater.threads import Pool

_EVERY_S = 60.0

log_line = structlog.get_logger(__name__)


class Expiry:
    """Loop only. `folder` is where the jobs' own folders are."""

    def __init__(self, data: DataFolder, folder: Path, keep: timedelta, clock: Clock) -> None:
        self._data = data
        self._folder = folder
        self._keep_s = keep.total_seconds()
        self._clock = clock
        self._pool = Pool("export-expiry", 1)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        while True:
            if self._data.keeps:
                try:
                    await self._pool.call(self.sweep)
                except OSError as error:
                    log_line.warning("exports.not_swept", detail=str(error))
            await anyio.sleep(min(_EVERY_S, max(0.1, self._keep_s / 4)))

    def sweep(self) -> None:
        """Remove what is too old. Blocks; for a thread."""
        before_s = self._clock.now_us() / 1_000_000 - self._keep_s
        for file in self._folder.glob(f"*/{EXPORT}.*"):
            if file.stat().st_mtime < before_s:
                file.unlink(missing_ok=True)
                log_line.info("export.expired", job=file.parent.name)
