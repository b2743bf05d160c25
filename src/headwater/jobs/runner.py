"""The pool that runs jobs: claims them as places come free, and ends them as they end.

One for each process that runs jobs. It wakes by the log's hooks, and looks at its own news now and
then, as a bell may be lost. What it may do (size, types, mode) is a row that anybody may change
while it runs. It must never leave a job `running` that it does not run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
import structlog

from headwater.changes import Log
from headwater.clock import Clock, chance
from headwater.errors import HeadwaterError, JobFailed, LeaseLost, ShuttingDown, Unavailable
from headwater.jobs.base import JobCancelled, Result
from headwater.jobs.context import RunningJob, storable
from headwater.jobs.registry import Registry
from headwater.model import Committed, Progress, Worker, WorkerRole
from headwater.settings import JobSettings
from headwater.store.job_commands import (
    Claimed,
    ClaimJobs,
    CompleteJob,
    FailJob,
    JobNews,
    RegisterWorker,
    RemoveWorker,
    StopJob,
)
from headwater.threads import Crew

_THREADS = 64
_LOOK_EVERY_S = 0.015
"""Other processes' commits are looked into no more often than this."""
_STORE_AGAIN_S = 0.5
_STORE_AGAIN_MAX_S = 5.0
_ASKED = b'"cancel_requested":true'

log_line = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


class JobRunner:
    """Loop only. `folder` is where the jobs' own folders are."""

    def __init__(
        self,
        log: Log,
        registry: Registry,
        clock: Clock,
        settings: JobSettings,
        folder: Path,
        process: str,
        role: WorkerRole,
        *,
        dice: Callable[[], float] = chance,
    ) -> None:
        self.registry = registry
        self.process = process
        self._log = log
        self._clock = clock
        self._settings = settings
        self._folder = folder
        self._role = role
        self._dice = dice
        self._crew = Crew("jobs", _THREADS, settings.stop)
        self._worker: Worker | None = None
        self._running: set[RunningJob] = set()
        self._ending: set[str] = set()
        self._news = anyio.Event()
        self._progress = anyio.Event()
        self._look = True
        self._claim = True
        self._more = False
        self._next_us: int | None = None
        log.on_news(self._hear)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run jobs until cancelled; then give back those that run."""
        await self.registry.look()
        await self._register()
        task_status.started()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell_progress)
                tasks.start_soon(self._dispatch, tasks)
        finally:
            self._crew.dismiss()
            with anyio.move_on_after(_STORE_AGAIN_S, shield=True), suppress(HeadwaterError):
                # Else its row goes when others see that the process has ended.
                await self._log.store.write(RemoveWorker(self.process))

    @property
    def running(self) -> int:
        """Jobs that run now in this process."""
        return len(self._running)

    def until_us(self) -> int:
        """Until when a lease runs that is given now."""
        return self._clock.now_us() + _us(self._settings.lease)

    def wake(self) -> None:
        """Look at what has changed."""
        self._look = True
        self._news.set()

    async def _register(self) -> None:
        types = [name.strip() for name in self._settings.types.split(",") if name.strip()]
        self._worker = await self._log.store.write(
            RegisterWorker(
                self.process, self._role, os.getpid(), self._settings.size, types, self.until_us()
            )
        )

    # ── Waking ──────────────────────────────────────────────────────────────────────────────────

    def _hear(self, committed: Committed | None) -> None:
        """The log's hook: what of it is for this pool."""
        if committed is None:
            self.wake()
            return
        for change in committed.changes:
            if change.type == "job.queued":
                self._claim = True
                self._news.set()
            elif change.type == "job.progress" and _ASKED in change.data:
                for context in self._running:
                    if context.job.id == change.subject:
                        context.stop()
            elif change.type == "worker.updated":
                self.wake()

    async def _dispatch(self, tasks: anyio.abc.TaskGroup) -> None:
        looked_s = -_LOOK_EVERY_S
        polled_s = self._clock.monotonic()
        while True:
            self._news = anyio.Event()
            now_s = self._clock.monotonic()
            try:
                if self._look and now_s - looked_s >= _LOOK_EVERY_S:
                    looked_s = polled_s = now_s
                    self._look = False
                    await self._take_news()
                if self._claim:
                    # Jobs that end together, and the writes of their ends, share a claim.
                    await anyio.lowlevel.checkpoint()
                types, free = self._wanted()
                if self._claim and free > 0 and types:
                    self._claim = False
                    await self._take_jobs(tasks, types, free)
                    continue
            except Unavailable as error:
                log_line.warning("jobs.store_failed", detail=error.detail)
                self._look = self._claim = True
                await anyio.sleep(_STORE_AGAIN_S)
                continue
            wait_s = polled_s + self._settings.poll.total_seconds() - self._clock.monotonic()
            if self._look:
                wait_s = min(wait_s, looked_s + _LOOK_EVERY_S - self._clock.monotonic())
            due = False
            if self._next_us is not None:
                due_s = (self._next_us - self._clock.now_us()) / 1_000_000
                due, wait_s = due_s <= wait_s, min(wait_s, due_s)
            with anyio.move_on_after(max(0.0, wait_s)) as scope:
                await self._news.wait()
            if scope.cancelled_caught:
                if due:
                    self._claim, self._next_us = True, None
                else:
                    self._look = True

    def _wanted(self) -> tuple[list[str], int]:
        """The types that may be claimed now, and how many jobs."""
        worker = self._worker
        if worker is None or worker.mode != "run":
            return [], 0
        types = [
            name for name in self.registry.names if "*" in worker.types or name in worker.types
        ]
        return types, worker.size - len(self._running)

    async def _take_news(self) -> None:
        """Learn what others have asked of this process and its jobs."""
        types, _ = self._wanted()
        now_us = self._clock.now_us()
        news: JobNews = await self._log.store.read(
            lambda reader: reader.job_news(self.process, types, now_us)
        )
        if news.worker is None:  # taken for dead meanwhile
            await self._register()
        else:
            before, self._worker = self._worker, news.worker
            if before is None or _wish(before) != _wish(news.worker):
                self._claim = True  # `due` was asked of what it might take before
        drained = self._worker is not None and self._worker.mode == "drain"
        for context in self._running:
            if news.held.get(context.job.id) != context.job.lease:
                context.stop(lost=True)
            elif drained or context.job.id in news.cancelled:
                context.stop()
        mine = {context.job.id for context in self._running} | self._ending
        for id in news.held.keys() - mine:
            # Claimed by a command whose answer never came: nobody here runs it.
            await self._give_back(id, news.held[id])
        self._claim = self._claim or news.due
        self._next_us = news.next_us

    async def _give_back(self, id: str, lease: int) -> None:
        job = await self._log.store.read(lambda reader: reader.job(id))
        if job is not None:
            await self._end(StopJob(id, lease, job.progress))

    # ── Running ─────────────────────────────────────────────────────────────────────────────────

    async def _take_jobs(self, tasks: anyio.abc.TaskGroup, types: list[str], free: int) -> None:
        heavy = [name for name in types if self.registry.heavy(name)]
        room = self._settings.heavy - sum(c.heavy for c in self._running)
        with anyio.CancelScope(shield=True):  # what has been claimed is ours, whatever happens
            claimed: Claimed = await self._log.store.write(
                ClaimJobs(self.process, types, free, self.until_us(), heavy, max(0, room))
            )
        for job in claimed.jobs:
            context = RunningJob(
                job,
                self._log,
                self._crew,
                self._clock,
                self._folder / job.id,
                heavy=self.registry.heavy(job.type),
                progress_every_s=self._settings.progress_every.total_seconds(),
                noted=self._note_progress,
            )
            before = [other for other in self._running if other.job.id == job.id]
            for other in before:
                other.stop(lost=True)
            self._running.add(context)
            tasks.start_soon(self._run, context, before)
        self._next_us = claimed.next_us
        self._more = len(claimed.jobs) == free

    async def _run(self, context: RunningJob, before: list[RunningJob]) -> None:
        """One attempt, from its claim to its end in the store.

        Attempts `before` it, lost and not yet gone, are let out of the job's folder first.
        """
        job = context.job
        failure: BaseException | None = None
        result: Result | None = None
        try:
            with context.scope:
                for other in before:
                    await other.left.wait()
                handler = await self.registry.find(job.type)
                context.heavy = handler.heavy  # a package's type was not known before
                result = self._fitting(await handler.run(context))
        except Exception as error:  # noqa: BLE001 – the job's root: it fails, nobody else does
            failure = _first(error)
        finally:
            # Also when the process stops: then the job is given back, however it was cut off.
            self._running.discard(context)
            self._ending.add(job.id)
            context.left.set()
            self._claim = self._claim or self._more or context.heavy
            self._news.set()
            try:
                if not context.lost:
                    await self._end(self._ended(context, result, failure))
            finally:
                self._ending.discard(job.id)

    def _fitting(self, result: object) -> Result:
        """What a handler gave, if it can be kept. Raises `JobFailed`."""
        size = _size_of(result)
        if size is None or not isinstance(result, dict):
            raise JobFailed(
                f"the handler gave a {type(result).__name__} that is no JSON object; it must "
                "return a dict of what JSON has"
            )
        if size > self._settings.result_bytes:
            raise JobFailed(
                f"the result has {size} bytes, over the limit of {self._settings.result_bytes}; "
                "what is large belongs into the job's folder"
            )
        return result

    def _ended(
        self, context: RunningJob, result: Result | None, failure: BaseException | None
    ) -> CompleteJob | FailJob | StopJob:
        """How the attempt ends in the store."""
        job, progress = context.job, context.current_progress()
        if result is not None:
            return CompleteJob(job.id, job.lease, progress, result)
        if failure is None or isinstance(failure, JobCancelled) or context.stopping:
            return StopJob(job.id, job.lease, progress)
        if isinstance(failure, HeadwaterError):
            error: dict[str, Any] = {
                "code": failure.code,
                "detail": storable(failure.detail),
                "retryable": failure.retryable,
            }
            if _size_of(failure.fields) is not None:
                error = failure.fields | error
        else:
            log_line.error("job.crashed", job=job.id, type=job.type, exc_info=failure)
            detail = storable(f"{type(failure).__name__}: {failure}"[:1_000])
            error = {"code": "job_crashed", "detail": detail, "retryable": True}
        retry_us = None
        if error["retryable"]:
            retry_us = self._clock.now_us() + self._backoff_us(job.attempt)
        return FailJob(job.id, job.lease, progress, error, retry_us)

    def _backoff_us(self, attempt: int) -> int:
        """Full jitter, at least half: doubled for each attempt, up to the longest."""
        settings = self._settings
        longest = min(_us(settings.backoff) << min(attempt - 1, 40), _us(settings.backoff_max))
        return round(longest * (0.5 + self._dice() / 2))

    async def _end(self, command: CompleteJob | FailJob | StopJob) -> None:
        """Write how a job ended; as long as it takes, for it is held until then.

        A process that stops tries for a moment, then leaves it to its lease. An end that the store
        will never take is written as a failure, so that the job does not run for ever.
        """
        try:
            await self._write_end(command)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(self._settings.stop.total_seconds(), shield=True):
                await self._write_end(command)
            raise

    async def _write_end(self, command: CompleteJob | FailJob | StopJob) -> None:
        wait_s = _STORE_AGAIN_S
        plain = False
        while True:
            try:
                await self._log.store.write(command)
            except LeaseLost:  # somebody else has it; or it is gone
                log_line.info("job.lease_lost", job=command.id)
            except ShuttingDown:
                log_line.warning("job.left", job=command.id)
            except HeadwaterError as error:
                log_line.warning("job.end_not_written", job=command.id, detail=error.detail)
                if error.retryable:
                    await anyio.sleep(wait_s)
                    wait_s = min(2 * wait_s, _STORE_AGAIN_MAX_S)
                    continue
                if not plain:
                    command, plain = _unwritable(command, error), True
                    continue
            return

    # ── Progress ────────────────────────────────────────────────────────────────────────────────

    def _note_progress(self) -> None:
        self._progress.set()

    async def _tell_progress(self) -> None:
        """Tell how far the jobs are that have got further, each no more often than it may."""
        while True:
            await self._progress.wait()
            self._progress = anyio.Event()
            now_s = self._clock.monotonic()
            noted = [context for context in self._running if context.dirty]
            due = [context for context in noted if context.due_s() <= now_s]
            async with anyio.create_task_group() as tasks:
                for context in due:
                    tasks.start_soon(self._tell, context)
            if later := [context.due_s() for context in noted if context not in due]:
                with anyio.move_on_after(max(0.0, min(later) - self._clock.monotonic())):
                    await self._progress.wait()
                self._progress.set()

    async def _tell(self, context: RunningJob) -> None:
        try:
            await context.tell()
        except Unavailable as error:
            log_line.warning("job.progress_not_told", detail=error.detail)


def _wish(worker: Worker) -> tuple[int, list[str], str]:
    return worker.size, worker.types, worker.mode


def _unwritable(command: CompleteJob | FailJob | StopJob, error: HeadwaterError) -> FailJob:
    """The end of a job whose own end cannot be kept."""
    detail = storable(f"how the job ended could not be kept: {error.detail}")[:1_000]
    told = {"code": JobFailed.code, "detail": detail, "retryable": False}
    return FailJob(command.id, command.lease, Progress(), told, None)


def _size_of(value: object) -> int | None:
    """Bytes it has as JSON; None when it cannot be written as that."""
    try:
        return len(_encode(value))
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return None


def _first(error: BaseException) -> BaseException:
    """The first of the errors that a handler's own tasks have raised together."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
