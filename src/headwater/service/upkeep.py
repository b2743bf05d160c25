"""What the server does when nobody asks: sweep deleted libraries, trim the log, end what was left.

Done by the keeper of the data folder; in the other processes it waits to take over. Each piece is
a small command between everybody else's, so that nobody waits for it; all of it can be interrupted
anywhere and goes on at the next start.
"""

from __future__ import annotations

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import Unavailable
from headwater.model import Committed
from headwater.settings import LogSettings
from headwater.store import DataFolder
from headwater.store.base import TrimLog
from headwater.store.batch_commands import FailOpenBatches
from headwater.store.library_commands import SweepLibraries
from headwater.store.regeneration_commands import SettleVectors

SWEEP_DOCUMENTS = 200
TRIM_CHANGES = 2_000
SETTLE_VECTORS = 500
TAKE_OVER_S = 1.0
"""How often a process looks whether the keeper is gone."""

_LEAVES_ROWS = frozenset({"library.deleted", "library.regenerated", "job.failed", "job.cancelled"})

log_line = structlog.get_logger(__name__)


class Upkeep:
    """Sweeping, trimming, ending. Loop only."""

    def __init__(self, log: Log, folder: DataFolder, clock: Clock, settings: LogSettings) -> None:
        self._log = log
        self._folder = folder
        self._clock = clock
        self._settings = settings
        self._deleted = anyio.Event()
        self._deleted.set()  # a sweep may have been cut off by the last stop
        log.on_news(self._notice)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        if self._folder.claim():
            await self._fail_left_batches()
        task_status.started()
        while not self._claimed():  # noqa: ASYNC110 - a lock file rings no bell
            await anyio.sleep(TAKE_OVER_S)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sweep)
            tasks.start_soon(self._trim)

    def _claimed(self) -> bool:
        try:
            return self._folder.claim()
        except OSError as error:  # such as no file to spare: there will be
            log_line.warning("keeper.not_looked_for", detail=str(error))
            return False

    def _notice(self, committed: Committed | None) -> None:
        if committed is None or any(change.type in _LEAVES_ROWS for change in committed.changes):
            self._deleted.set()

    async def _sweep(self) -> None:
        while True:
            await self._deleted.wait()
            self._deleted = anyio.Event()
            try:
                while await self._log.store.write(SweepLibraries(SWEEP_DOCUMENTS)):
                    await anyio.lowlevel.checkpoint()
                while await self._log.store.write(SettleVectors(SETTLE_VECTORS)):
                    await anyio.lowlevel.checkpoint()
            except Unavailable as error:
                log_line.warning("sweep.failed", detail=error.detail)
                await anyio.sleep(self._settings.trim_every.total_seconds())
                self._deleted.set()

    async def _trim(self) -> None:
        settings = self._settings
        while True:
            try:
                await self._trim_once()
                await self._fail_left_batches()
            except (Unavailable, OSError) as error:
                log_line.warning("trim.failed", detail=str(error))
            await anyio.sleep(settings.trim_every.total_seconds())

    async def _fail_left_batches(self) -> None:
        """Tell of the streams whose process died under them."""
        # In this order: whoever has one open was alive before, so a new process is never missed.
        owners = await self._log.store.read(lambda reader: reader.batch_processes())
        if dead := owners - self._folder.alive():
            reason = "the server stopped before the stream ended"
            await self._log.store.write(FailOpenBatches(reason, dead))

    async def _trim_once(self) -> None:
        before_us = self._clock.now_us() - round(
            self._settings.retention_age.total_seconds() * 1_000_000
        )
        reached = -1
        while True:
            trimmed: int = await self._log.store.write(
                TrimLog(before_us, self._settings.retention_changes, TRIM_CHANGES)
            )
            if trimmed == reached:
                return
            reached = trimmed
