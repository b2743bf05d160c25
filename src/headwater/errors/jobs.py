"""Jobs, their schedules, their workers and their files."""

from __future__ import annotations

from typing import Any

from headwater.errors.root import Conflict, HeadwaterError, InvalidInput, NotFound


class InvalidJob(InvalidInput):
    """`fields["path"]` is the place in the request, such as `params.ids[3]`."""

    code = "invalid_job"


class InvalidSchedule(InvalidInput):
    code = "invalid_schedule"


class PathNotAllowed(InvalidInput):
    """A path on the server that leads out of the folder that imports may read."""

    code = "path_not_allowed"


class UnreadableFile(InvalidInput):
    """A file to be imported is not what it should be."""

    code = "unreadable_file"


class JobNotFound(NotFound):
    code = "job_not_found"


class ScheduleNotFound(NotFound):
    code = "schedule_not_found"


class WorkerNotFound(NotFound):
    code = "worker_not_found"


class FileMissing(NotFound):
    code = "file_not_found"


class JobFinished(Conflict):
    """There is nothing left of the job that could be cancelled."""

    code = "job_finished"


class JobNotFinished(Conflict):
    """A job is tried again only when it has failed or was cancelled."""

    code = "job_not_finished"


class IdempotencyMismatch(Conflict):
    """The key was used for another job; `fields["job_id"]` is which."""

    code = "idempotency_mismatch"


class ScheduleExists(Conflict):
    code = "schedule_exists"


class LeaseLost(Conflict):
    """Another worker has the job by now, or nobody: what this one did of it does not count."""

    code = "lease_lost"


class SourceChanged(Conflict):
    """The file of an import is not the one that it began with."""

    code = "source_changed"


class RegenerationRunning(Conflict):
    """Another job makes the library's vectors anew."""

    code = "regeneration_running"


class RegenerationRefused(Conflict):
    """The library holds what cannot be embedded anew."""

    code = "regeneration_refused"


class FileExpired(HeadwaterError):
    code = "file_expired"


class RangeNotSatisfiable(HeadwaterError):
    """`size_bytes`: how long the file is."""

    code = "range_not_satisfiable"


class JobFailed(HeadwaterError):
    """Raised by handlers. With `retryable` the job is tried again while it has attempts left."""

    code = "job_failed"

    def __init__(self, detail: str, *, retryable: bool = False, **fields: Any) -> None:
        super().__init__(detail, **fields)
        self.retryable = retryable
