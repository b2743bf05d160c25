"""The store contract, continued: the commands and reads of jobs, schedules and workers.

A job is a row; each of its transitions is in the log by the same transaction. Whoever runs a job
holds it under a lease and names the lease in all that it writes, so that a worker that was taken
for dead changes nothing any more. As with every command, what fails changes nothing.

What changes carry is in `job_data.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import msgspec

from headwater.model import (
    Job,
    JobStatus,
    Missed,
    Progress,
    Schedule,
    Worker,
    WorkerMode,
    WorkerRole,
)

UNSET = msgspec.UNSET
Unset: TypeAlias = msgspec.UnsetType


# ── Jobs come, and go ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be queued. It is not begun before `not_before_us`; 0 is as soon as it may."""

    id: str
    type: str
    library_id: str | None
    params: dict[str, Any]
    priority: int
    not_before_us: int
    max_attempts: int
    idempotency_key: str | None = None
    schedule_id: str | None = None


@dataclass(frozen=True, slots=True)
class EnqueueJobs:
    """→ `list[Enqueued | HeadwaterError]`, one per job, in order. Change `job.queued` for each.

    One whose type has a job of that idempotency key already gives that job, and no change;
    `IdempotencyMismatch` when it was submitted with another library or other parameters. At most
    `most` jobs wait: one more is `TooManyJobs`.
    """

    jobs: Sequence[NewJob]
    most: int


@dataclass(frozen=True, slots=True)
class Enqueued:
    """`created` is False for a job that was there already."""

    job: Job
    created: bool


@dataclass(frozen=True, slots=True)
class CancelJob:
    """→ `Job`. Change `job.cancelled` when it was waiting.

    A running one is asked to stop: change `job.progress` with `cancel_requested`, once. Raises
    `JobNotFound`; `JobFinished` when it has ended, except when it was cancelled.
    """

    id: str


@dataclass(frozen=True, slots=True)
class RetryJob:
    """→ `Job`, queued again with all its attempts and what it saved. Change `job.queued`.

    Raises `JobNotFound`; `JobNotFinished` unless it has failed or was cancelled.
    """

    id: str


@dataclass(frozen=True, slots=True)
class ReplayDead:
    """→ `int`: how many dead jobs were queued again, as by `RetryJob`.

    At most `limit`, oldest first; of one type when it is given.
    """

    type: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class ForgetJobs:
    """→ `list[str]`: the ids of at most `limit` finished jobs whose rows were removed.

    Those that ended before `before_us`; failed ones before `failed_before_us`. No change row.
    """

    before_us: int
    failed_before_us: int
    limit: int


# ── Under a lease ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ClaimJobs:
    """→ `Claimed`. Change `job.started` for each job.

    The first `limit` of `types` that wait: highest priority, then earliest `not_before`, then
    oldest; at most `heavy_limit` of the types that are `heavy`. They are the process's until
    `until_us`.
    """

    process: str
    types: Collection[str]
    limit: int
    until_us: int
    heavy: Collection[str] = ()
    heavy_limit: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """What was claimed, with `params` and `saved`; and when the next job's time comes."""

    jobs: list[Job]
    next_us: int | None


@dataclass(frozen=True, slots=True)
class RenewLeases:
    """→ `None`. The process answers for its jobs, and its word counts, until then. No change."""

    process: str
    until_us: int


@dataclass(frozen=True, slots=True)
class HoldLease:
    """→ `None`. Raises `LeaseLost` unless the job runs under that lease. No change row."""

    id: str
    lease: int


@dataclass(frozen=True, slots=True)
class SaveJob:
    """→ `Position | None`. Change `job.progress` when it is to `tell`. Raises `LeaseLost`.

    `saved` is kept for the next attempt; None leaves what is there.
    """

    id: str
    lease: int
    progress: Progress
    saved: dict[str, Any] | None = None
    tell: bool = True

    def having(self, saved: dict[str, Any]) -> SaveJob:
        return replace(self, saved=saved)


@dataclass(frozen=True, slots=True)
class CompleteJob:
    """→ `Job`. Change `job.completed`. Raises `LeaseLost`."""

    id: str
    lease: int
    progress: Progress
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FailJob:
    """→ `Job`. It waits until `retry_us` when that is given and it has attempts left: `job.queued`.

    Else change `job.failed`, and the job is `dead` when `retry_us` was given. Raises `LeaseLost`.
    """

    id: str
    lease: int
    progress: Progress
    error: dict[str, Any]
    retry_us: int | None


@dataclass(frozen=True, slots=True)
class StopJob:
    """→ `Job`. It has stopped in the middle: change `job.cancelled` when that was asked of it.

    Else it is given back: change `job.queued`, and the attempt does not count. Raises `LeaseLost`.
    """

    id: str
    lease: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class ReapJobs:
    """→ `list[str]`: the jobs that were taken from workers that are gone.

    Those of processes that are `dead`, or whose lease ran out before now. Each waits again
    (`job.queued`): at once the first time, then `backoff_us` after its last attempt, doubled each
    time up to `backoff_max_us`. One without attempts left has failed and is dead; one that was
    asked to stop is cancelled. An attempt that saved something new does not count, up to a bound.
    The rows of those workers are removed.
    """

    dead: Collection[str]
    backoff_us: int
    backoff_max_us: int


# ── Schedules ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CreateSchedule:
    """→ `Schedule`. Change `schedule.created`. Raises `ScheduleExists`, `TooManyJobs`."""

    id: str
    name: str
    type: str
    library_id: str | None
    params: dict[str, Any]
    priority: int
    max_attempts: int
    cron: str | None
    timezone: str
    every_us: int | None
    missed: Missed
    paused: bool
    next_us: int
    most: int


@dataclass(frozen=True, slots=True)
class ChangeSchedule:
    """→ `Schedule`. Change `schedule.updated`, none when nothing differs. Raises
    `ScheduleNotFound`."""

    id: str
    paused: bool
    next_us: int


@dataclass(frozen=True, slots=True)
class DeleteSchedule:
    """→ `Position`. Change `schedule.deleted`. Its jobs stay. Raises `ScheduleNotFound`."""

    id: str


@dataclass(frozen=True, slots=True)
class FireSchedule:
    """→ `list[Job] | None`: None when the schedule does not wait for `due_us` any more.

    So of several processes one fires. The jobs are queued (`job.queued`) in the same transaction
    in which the schedule begins to wait for `next_us`. `due_us` None fires it by hand, and leaves
    what it waits for. A job whose idempotency key is taken is there already, and not queued again.
    Raises `ScheduleNotFound` then; `TooManyJobs`.
    """

    id: str
    due_us: int | None
    next_us: int
    jobs: Sequence[NewJob]
    most: int


# ── Workers ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RegisterWorker:
    """→ `Worker`. A server's gets what was last set for all of them, if anything. No change."""

    process: str
    role: WorkerRole
    pid: int
    size: int
    types: list[str]
    until_us: int


@dataclass(frozen=True, slots=True)
class ChangeWorkers:
    """→ `list[Worker]`: those that were meant. Change `worker.updated`.

    One process, or all; `size` and `types` of all are those of the servers only, `mode` is that of
    the others too, and all is kept for servers to come. `size` or `types` None is what the
    process was started with. Raises `WorkerNotFound`.
    """

    process: str | None
    size: int | Unset | None = UNSET
    types: list[str] | Unset | None = UNSET
    mode: WorkerMode | Unset = UNSET


@dataclass(frozen=True, slots=True)
class RemoveWorker:
    """→ `None`. The process runs no jobs any more. No change row."""

    process: str


JobCommand: TypeAlias = (
    EnqueueJobs
    | CancelJob
    | RetryJob
    | ReplayDead
    | ForgetJobs
    | ClaimJobs
    | RenewLeases
    | HoldLease
    | SaveJob
    | CompleteJob
    | FailJob
    | StopJob
    | ReapJobs
    | CreateSchedule
    | ChangeSchedule
    | DeleteSchedule
    | FireSchedule
    | RegisterWorker
    | ChangeWorkers
    | RemoveWorker
)


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────

Order: TypeAlias = Literal["newest", "oldest"]


@dataclass(frozen=True, slots=True)
class JobNews:
    """What a process that runs jobs has to know: what it holds, what is asked of it.

    `held` are its running jobs by id, with their leases; `cancelled` those of them that are to
    stop. `due` says whether a job waits that it may claim; `next_us` when the next one's time
    comes. `worker` is None when its row was removed.
    """

    worker: Worker | None
    held: dict[str, int]
    cancelled: set[str]
    due: bool
    next_us: int | None


@dataclass(frozen=True, slots=True)
class JobFigures:
    """`counts` by type and status. `oldest_us` is when the oldest job that could run now was due.

    `waited_ms` and `ran_ms` are of the jobs that ended last, up to 500 of them.
    """

    counts: Mapping[str, Mapping[JobStatus, int]]
    dead: int
    delayed: int
    oldest_us: int | None
    waited_ms: list[float]
    ran_ms: list[float]


class JobReader(ABC):
    """The part of `Reader` that is about jobs."""

    @abstractmethod
    def job(self, id: str) -> Job | None:
        """With all that is kept of it."""

    @abstractmethod
    def jobs(
        self,
        *,
        after: int,
        limit: int,
        order: Order = "newest",
        statuses: Collection[str] | None = None,
        types: Collection[str] | None = None,
        library_id: str | None = None,
        schedule_id: str | None = None,
        dead: bool | None = None,
    ) -> list[Job]:
        """By falling `row`, those below `after` (0: all); by rising `row` when oldest come first.

        Without `params`, `result` and `saved`, which may be large.
        """

    @abstractmethod
    def job_news(self, process: str, types: Collection[str], now_us: int) -> JobNews:
        """What the process has to know of its jobs, and of those of `types` that wait."""

    @abstractmethod
    def job_holders(self) -> dict[str, int]:
        """The processes that run jobs, or say that they would, and until when (µs) they said so."""

    @abstractmethod
    def job_figures(self) -> JobFigures: ...

    @abstractmethod
    def job_ids(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that there are."""

    @abstractmethod
    def schedule(self, ref: str) -> Schedule | None:
        """By id or by name."""

    @abstractmethod
    def schedules(self, *, after: int, limit: int) -> list[Schedule]:
        """By rising `row`, those with `row` > `after`."""

    @abstractmethod
    def schedules_due(
        self, now_us: int, limit: int, *, after: tuple[int, int] = (0, 0)
    ) -> tuple[list[Schedule], int | None]:
        """Those whose time has come, earliest first, and when the next one's does.

        A page of them: those behind the one of that `next_us` and `row`.
        """

    @abstractmethod
    def workers(self) -> list[Worker]:
        """In the order they were started, with how many jobs they run."""
