"""The JSON of requests about jobs, schedules and workers, and of their answers."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from headwater.model import JobStatus, Missed, WorkerMode, WorkerRole
from headwater.service.jobs import Submission
from headwater.service.schedules import NewSchedule


class JobInput(msgspec.Struct, forbid_unknown_fields=True):
    """A job to submit. What `params` may hold is said by its type."""

    type: str
    library: str | None = None
    params: dict[str, Any] = {}
    priority: int = 0
    not_before: str | None = None
    max_attempts: int | None = None
    idempotency_key: str | None = None

    def submission(self) -> Submission:
        return Submission(**msgspec.structs.asdict(self))


class JobBatch(msgspec.Struct, forbid_unknown_fields=True):
    jobs: list[JobInput]


class ProgressJson(msgspec.Struct):
    current: int
    total: int | None
    percentage: float | None
    message: str | None
    rate: float | None
    eta_seconds: float | None


class JobJson(msgspec.Struct):
    """A job. Listings leave out `params` and `result`."""

    job_id: str
    type: str
    status: JobStatus
    library_id: str | None
    priority: int
    attempt: int
    max_attempts: int
    progress: ProgressJson
    worker: str | None
    schedule_id: str | None
    error: dict[str, Any] | None
    cancel_requested: bool
    dead: bool
    idempotency_key: str | None
    created_at: str
    not_before: str
    started_at: str | None
    finished_at: str | None
    updated_at: str
    waited_ms: float | None
    ran_ms: float | None
    cursor: str
    params: dict[str, Any] | UnsetType = UNSET
    result: dict[str, Any] | UnsetType | None = UNSET


class JobPage(msgspec.Struct):
    jobs: list[JobJson]
    next: str | None


class JobOutcome(msgspec.Struct, omit_defaults=True):
    """What became of one job of a batch: its id, or its `error`."""

    status: str
    job_id: str | None = None
    error: dict[str, Any] | None = None


class JobBatchAnswer(msgspec.Struct):
    """`queued`, `existing` and `failed` add up to the jobs sent, whose outcomes are in order."""

    results: list[JobOutcome]
    queued: int
    existing: int
    failed: int
    cursor: str


class Replay(msgspec.Struct, forbid_unknown_fields=True):
    type: str | None = None


class Replayed(msgspec.Struct):
    """How many dead jobs wait again."""

    replayed: int


class JobTypes(msgspec.Struct):
    types: list[str]


class ScheduleInput(msgspec.Struct, forbid_unknown_fields=True):
    """Exactly one of `cron` and `every_seconds`."""

    name: str
    type: str
    library: str | None = None
    params: dict[str, Any] = {}
    cron: str | None = None
    timezone: str = "UTC"
    every_seconds: float | None = None
    first_at: str | None = None
    missed: Missed = "once"
    paused: bool = False
    priority: int = 0
    max_attempts: int | None = None

    def schedule(self) -> NewSchedule:
        return NewSchedule(**msgspec.structs.asdict(self))


class ScheduleJson(msgspec.Struct):
    schedule_id: str
    name: str
    type: str
    library_id: str | None
    params: dict[str, Any]
    priority: int
    max_attempts: int
    cron: str | None
    timezone: str
    every_seconds: float | None
    missed: Missed
    paused: bool
    next_at: str | None
    last_at: str | None
    last_job_id: str | None
    fired: int
    created_at: str
    updated_at: str


class SchedulePage(msgspec.Struct):
    schedules: list[ScheduleJson]
    next: str | None


class ScheduleDeleted(msgspec.Struct):
    schedule_id: str
    cursor: str


class WorkerChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out stays; `size` and `types` null is what the process was started with."""

    size: int | UnsetType | None = UNSET
    types: list[str] | UnsetType | None = UNSET
    mode: WorkerMode | UnsetType = UNSET


class WorkerJson(msgspec.Struct):
    process: str
    role: WorkerRole
    pid: int
    size: int
    types: list[str]
    mode: WorkerMode
    state: str
    running: int
    started_at: str


class WorkerList(msgspec.Struct):
    workers: list[WorkerJson]


ALL = [
    JobInput,
    JobBatch,
    JobJson,
    JobPage,
    JobBatchAnswer,
    Replay,
    Replayed,
    JobTypes,
    ScheduleInput,
    ScheduleJson,
    SchedulePage,
    ScheduleDeleted,
    WorkerChange,
    WorkerJson,
    WorkerList,
]
