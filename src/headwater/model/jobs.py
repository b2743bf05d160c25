"""Jobs, the schedules that submit them, the workers that run them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from headwater.model.log import Position

JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
WorkerRole = Literal["server", "worker"]
WorkerMode = Literal["run", "pause", "drain"]
Missed = Literal["skip", "once", "all"]
"""What a schedule does about firings that nobody was there for."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How far a job is. `rate` is what it does of `total` in a second."""

    current: int = 0
    total: int | None = None
    message: str | None = None
    rate: float | None = None


class Job(msgspec.Struct, frozen=True):
    """Long work in the background. `row` is the store's key and rises in order of submission.

    `attempt` counts the attempts begun, `lease` the times it was ever claimed: what a worker writes
    with an older one is refused. `worker` is the process that has it, until `lease_until_us` and on
    as long as it renews its lease. `dead` is one that failed and has no attempts left.
    """

    row: int
    id: str
    type: str
    library_id: str | None
    params: dict[str, Any]
    status: JobStatus
    priority: int
    not_before_us: int
    attempt: int
    max_attempts: int
    created_us: int
    updated_us: int
    position: Position
    lease: int = 0
    lease_until_us: int = 0
    worker: str | None = None
    dead: bool = False
    cancel_requested: bool = False
    idempotency_key: str | None = None
    schedule_id: str | None = None
    progress: Progress = Progress()
    saved: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    """`code`, `detail` and `retryable` of the last failure."""
    started_us: int | None = None
    """When its last attempt began."""
    finished_us: int | None = None


class Schedule(msgspec.Struct, frozen=True):
    """Jobs that are submitted by the clock: by a cron expression in a time zone, or an interval."""

    row: int
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
    last_us: int | None
    last_job_id: str | None
    fired: int
    created_us: int
    updated_us: int


class Worker(msgspec.Struct, frozen=True):
    """A process that runs jobs: a server's pool, or a `headwater worker`.

    `size` is how many it runs at once, `types` those it takes, `*` for all. In mode `pause` it
    takes no more, in mode `drain` it gives back what it has, too. `until_us` is when its word runs
    out.
    """

    process: str
    role: WorkerRole
    pid: int
    size: int
    types: list[str]
    mode: WorkerMode
    started_us: int
    until_us: int
    running: int = 0
