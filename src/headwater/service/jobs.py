"""Jobs as callers know them: submitted, looked at, cancelled, tried again.

What runs them is in `jobs/`; what each type does in `service/job_types/`. A job that was submitted
is in the store, whether anybody runs it or not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from headwater.changes import Log
from headwater.clock import EPOCH, Clock, rfc3339
from headwater.errors import HeadwaterError, InvalidJob, JobNotFound
from headwater.jobs import Registry
from headwater.model import Job, JobStatus, Library
from headwater.service.libraries import Libraries
from headwater.settings import JobSettings
from headwater.store.base import Reader
from headwater.store.job_commands import (
    CancelJob,
    Enqueued,
    EnqueueJobs,
    NewJob,
    ReplayDead,
    RetryJob,
)
from headwater.store.job_data import job_data

STATUSES: tuple[JobStatus, ...] = ("queued", "running", "completed", "failed", "cancelled")
ENDED: frozenset[JobStatus] = frozenset({"completed", "failed", "cancelled"})
MOST_PRIORITY = 100
MOST_ATTEMPTS = 100
_KEY_CHARS = 200
_REPLAY_AT_ONCE = 500

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to be submitted. `library` is an id or name; `not_before` RFC 3339 with its zone."""

    type: str
    library: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    not_before: str | None = None
    max_attempts: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What of a job its type has found good."""

    type: str
    library_id: str | None
    params: dict[str, Any]
    priority: int
    max_attempts: int


class Jobs:
    """Loop only. `folder` holds a folder for each job that needs one."""

    def __init__(
        self,
        log: Log,
        registry: Registry,
        libraries: Libraries,
        clock: Clock,
        settings: JobSettings,
        folder: Path,
    ) -> None:
        self.registry = registry
        self._log = log
        self._libraries = libraries
        self._clock = clock
        self._settings = settings
        self._folder = folder

    def new_id(self) -> str:
        """For a caller that puts files into a job's folder before it submits it."""
        return self._clock.uuid7()

    def folder_of(self, id: str) -> Path:
        """Where the job's files are, or will be."""
        return self._folder / id

    async def submit(self, submission: Submission, *, id: str | None = None) -> Enqueued:
        """Queue it. Raises `InvalidJob`, `LibraryNotFound`, `TooManyJobs`, `IdempotencyMismatch`,
        and what the type's own check raises."""
        (found,) = await self._enqueue([await self._new(submission, id or self.new_id())])
        if isinstance(found, HeadwaterError):
            raise found
        return found

    async def submit_many(
        self, submissions: Sequence[Submission]
    ) -> list[Enqueued | HeadwaterError]:
        """Queue them in one transaction, those that are good; one answer for each, in order."""
        results: list[Enqueued | HeadwaterError | None] = []
        good: list[NewJob] = []
        for submission in submissions:
            try:
                good.append(await self._new(submission, self.new_id()))
                results.append(None)
            except HeadwaterError as error:
                results.append(error)
        queued = iter(await self._enqueue(good) if good else [])
        return [next(queued) if result is None else result for result in results]

    async def check(
        self,
        type: str,
        library: str | None,
        params: dict[str, Any],
        priority: int,
        max_attempts: int | None,
    ) -> Checked:
        """Everything about a job but when it is to run. Raises as `submit`."""
        handler = await self.registry.find(type)
        attempts = self._settings.max_attempts if max_attempts is None else max_attempts
        if not 1 <= attempts <= MOST_ATTEMPTS:
            raise InvalidJob(f"must be from 1 to {MOST_ATTEMPTS}", path="max_attempts")
        if abs(priority) > MOST_PRIORITY:
            raise InvalidJob(
                f"must be from {-MOST_PRIORITY} to {MOST_PRIORITY}; the highest goes first",
                path="priority",
            )
        found: Library | None = None
        if library is not None:
            found = await self._libraries.get(library)
        elif handler.needs_library:
            raise InvalidJob(f"a {type} job needs a `library`, by id or name", path="library")
        params = await handler.check(params, found)
        size = len(_encode(params))
        if size > self._settings.params_bytes:
            raise InvalidJob(
                f"the parameters have {size} bytes, over the limit of "
                f"{self._settings.params_bytes}; send a file instead where the type takes one",
                path="params",
            )
        return Checked(type, None if found is None else found.id, params, priority, attempts)

    async def _new(self, submission: Submission, id: str) -> NewJob:
        checked = await self.check(
            submission.type,
            submission.library,
            submission.params,
            submission.priority,
            submission.max_attempts,
        )
        key = submission.idempotency_key
        if key is not None and not 1 <= len(key) <= _KEY_CHARS:
            raise InvalidJob(f"must have 1 to {_KEY_CHARS} characters", path="idempotency_key")
        return NewJob(
            id=id,
            type=checked.type,
            library_id=checked.library_id,
            params=checked.params,
            priority=checked.priority,
            not_before_us=0 if submission.not_before is None else time_us(submission.not_before),
            max_attempts=checked.max_attempts,
            idempotency_key=key,
        )

    async def _enqueue(self, jobs: list[NewJob]) -> list[Enqueued | HeadwaterError]:
        found: list[Enqueued | HeadwaterError] = await self._log.store.write(
            EnqueueJobs(jobs, self._settings.max_queued)
        )
        return found

    async def get(self, id: str) -> Job:
        """All of a job. Raises `JobNotFound`."""
        job = await self._log.store.read(lambda reader: reader.job(id))
        if job is None:
            raise JobNotFound(
                f"there is no job {id[:80]!r} (any more); GET /v1/jobs lists them", job_id=id[:80]
            )
        return job

    async def page(
        self,
        *,
        after: int,
        limit: int,
        statuses: Collection[str] | None = None,
        types: Collection[str] | None = None,
        library: str | None = None,
        schedule: str | None = None,
        dead: bool | None = None,
    ) -> list[Job]:
        """The newest first, below row `after`; without what may be large of each.

        Those of a `schedule` that is deleted are found by its id, of others also by its name.
        Raises `InvalidJob` for a status that there is not, `LibraryNotFound`.
        """
        for status in statuses or ():
            if status not in STATUSES:
                raise InvalidJob(
                    f"{status[:40]!r} is no status; one of {', '.join(STATUSES)}", path="status"
                )
        library_id = None if library is None else (await self._libraries.get(library)).id

        def read(reader: Reader) -> list[Job]:
            found = None if schedule is None else reader.schedule(schedule)
            return reader.jobs(
                after=after,
                limit=limit,
                statuses=statuses,
                types=types,
                library_id=library_id,
                schedule_id=schedule if found is None else found.id,
                dead=dead,
            )

        return await self._log.store.read(read)

    async def cancel(self, id: str) -> Job:
        """Raises `JobNotFound`, `JobFinished`. A running one is still running on return."""
        job: Job = await self._log.store.write(CancelJob(id))
        return job

    async def retry(self, id: str) -> Job:
        """Raises `JobNotFound`, `JobNotFinished`."""
        job: Job = await self._log.store.write(RetryJob(id))
        return job

    async def replay(self, type: str | None) -> int:
        """Queue the dead jobs again, those of a type or all; how many that were."""
        replayed = 0
        while True:
            some: int = await self._log.store.write(ReplayDead(type, _REPLAY_AT_ONCE))
            replayed += some
            if some < _REPLAY_AT_ONCE:
                return replayed

    async def statistics(self) -> dict[str, Any]:
        """The figures of `/v1/jobs/statistics`, of all processes on this store."""

        figures, workers = await self._log.store.read(
            lambda reader: (reader.job_figures(), reader.workers())
        )
        totals: dict[str, int] = dict.fromkeys(STATUSES, 0)
        for counts in figures.counts.values():
            for status, count in counts.items():
                totals[status] += count
        now_us = self._clock.now_us()
        oldest_us = figures.oldest_us
        return {
            **totals,
            "dead": figures.dead,
            "delayed": figures.delayed,
            "oldest_waiting_seconds": (
                None if oldest_us is None else max(0, now_us - oldest_us) / 1_000_000
            ),
            "by_type": {
                type: dict.fromkeys(STATUSES, 0) | dict(counts)
                for type, counts in sorted(figures.counts.items())
            },
            "waited_ms": _quantiles(figures.waited_ms),
            "ran_ms": _quantiles(figures.ran_ms),
            "workers": len(workers),
            "places": sum(worker.size for worker in workers if worker.mode == "run"),
        }


def job_json(job: Job, log_id: str, *, whole: bool = True) -> dict[str, Any]:
    """A job as it is shown; without `params` and `result` in listings."""
    shown = {
        "worker": None,
        "schedule_id": None,
        "error": None,
        "cancel_requested": False,
        **job_data(job),
        "dead": job.dead,
        "idempotency_key": job.idempotency_key,
        "created_at": rfc3339(job.created_us),
        "not_before": rfc3339(job.not_before_us),
        "started_at": None if job.started_us is None else rfc3339(job.started_us),
        "finished_at": None if job.finished_us is None else rfc3339(job.finished_us),
        "updated_at": rfc3339(job.updated_us),
        "waited_ms": _ms(job.not_before_us, job.started_us),
        "ran_ms": _ms(job.started_us, job.finished_us),
        "cursor": f"{log_id}.{job.position}",
    }
    if whole:
        shown |= {"params": job.params, "result": job.result}
    return shown


def time_us(text: str, path: str = "not_before") -> int:
    """Microseconds since the epoch of an RFC 3339 time. Raises `InvalidJob` at `path`."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise InvalidJob(
            f"{text[:40]!r} is no time with a zone; as in `2026-11-28T03:00:00Z`",
            path=path,
        ) from error


def _ms(from_us: int | None, to_us: int | None) -> float | None:
    if from_us is None or to_us is None:
        return None
    return max(0, to_us - from_us) / 1000


def _quantiles(values: list[float]) -> dict[str, float] | None:
    """The middle one, that which one in twenty exceeds, and the largest."""
    if not values:
        return None
    ranked = sorted(values)
    return {
        "p50": ranked[len(ranked) // 2],
        "p95": ranked[min(len(ranked) - 1, len(ranked) * 95 // 100)],
        "max": ranked[-1],
    }
