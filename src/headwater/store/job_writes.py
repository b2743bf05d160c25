"""Writing jobs from outside: submitting, cancelling, trying again, forgetting.

Each handler writes its rows and tells its changes in the caller's transaction; see
`job_commands.py` for what each promises. `enqueue` is for commands of other nouns that have a job
to be done with what they write.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.errors import (
    HeadwaterError,
    IdempotencyMismatch,
    JobFinished,
    JobNotFinished,
    JobNotFound,
    TooManyJobs,
)
from headwater.model import Job, Position, Progress
from headwater.store.job_commands import (
    CancelJob,
    Enqueued,
    EnqueueJobs,
    ForgetJobs,
    NewJob,
    ReplayDead,
    RetryJob,
)
from headwater.store.job_data import job_data
from headwater.store.job_rows import JOB_COLUMNS, job_of, job_with
from headwater.store.records import canonical, encode
from headwater.store.transaction import Transaction
from headwater.store.upkeep import fail_batches_of_job

_INSERT = (
    "INSERT INTO jobs (id, type, library_id, status, due, dead, cancel_requested, advanced, rank, "
    "not_before_us, attempt, max_attempts, lease, lease_until_us, idempotency_key, schedule_id, "
    "created_us, updated_us, position, current, params) "
    "VALUES (?, ?, ?, 'queued', ?, 0, 0, 0, ?, ?, 0, ?, 0, 0, ?, ?, ?, ?, ?, 0, ?)"
)
_ENDED = ("completed", "failed", "cancelled")


def enqueue_jobs(tx: Transaction, command: EnqueueJobs) -> list[Enqueued | HeadwaterError]:
    room = _room(tx, command.most)
    results: list[Enqueued | HeadwaterError] = []
    for new in command.jobs:
        known = before(tx, new)
        if known is not None:
            results.append(known)
        elif room <= 0:
            results.append(_full(command.most))
        else:
            results.append(Enqueued(enqueue(tx, new), True))
            room -= 1
    return results


def enqueue(tx: Transaction, new: NewJob, reason: str = "submitted") -> Job:
    """Queue a job, with its change, in this transaction."""
    not_before_us = max(new.not_before_us, tx.at_us)
    position = tx.position + 1
    due = not_before_us <= tx.at_us
    row = tx.db.execute(
        _INSERT,
        [
            new.id,
            new.type,
            new.library_id,
            int(due),
            -new.priority,
            not_before_us,
            new.max_attempts,
            new.idempotency_key,
            new.schedule_id,
            tx.at_us,
            tx.at_us,
            position,
            canonical(new.params),
        ],
    ).lastrowid
    assert row is not None
    if tx.waiting_jobs is not None:
        tx.waiting_jobs += 1
    job = Job(
        row=row,
        id=new.id,
        type=new.type,
        library_id=new.library_id,
        params=new.params,
        status="queued",
        priority=new.priority,
        not_before_us=not_before_us,
        attempt=0,
        max_attempts=new.max_attempts,
        created_us=tx.at_us,
        updated_us=tx.at_us,
        position=position,
        idempotency_key=new.idempotency_key,
        schedule_id=new.schedule_id,
    )
    tell(tx, "job.queued", job, reason=reason)
    return job


def require_room(tx: Transaction, wanted: int, most: int) -> None:
    """Raises `TooManyJobs` when so many more may not wait."""
    if _room(tx, most) < wanted:
        raise _full(most)


def tell(tx: Transaction, kind: str, job: Job, **more: Any) -> Position:
    """The change of a job, whose row already names this position."""
    return tx.change(kind, job.library_id, job.id, encode(job_data(job, **more)))


def _room(tx: Transaction, most: int) -> int:
    if tx.waiting_jobs is None:
        # Once a transaction: with 100,000 that wait it takes a millisecond.
        (tx.waiting_jobs,) = tx.db.execute(
            "SELECT count(*) FROM jobs WHERE status = 'queued'"
        ).fetchone()
    return most - int(tx.waiting_jobs)


def _full(most: int) -> TooManyJobs:
    return TooManyJobs(
        f"{most} jobs wait, which is the limit; try again when some are done, or add workers",
        limit=most,
    )


def before(tx: Transaction, new: NewJob) -> Enqueued | HeadwaterError | None:
    """The job that has this one's idempotency key already."""
    if new.idempotency_key is None:
        return None
    row = tx.db.execute(
        f"SELECT {JOB_COLUMNS} FROM jobs WHERE type = ? AND idempotency_key = ?",
        [new.type, new.idempotency_key],
    ).fetchone()
    if row is None:
        return None
    job = job_of(row)
    if job.library_id != new.library_id or canonical(job.params) != canonical(new.params):
        return IdempotencyMismatch(
            f"the idempotency key {new.idempotency_key[:80]!r} was used for another {new.type} "
            f"job, {job.id}; use a new key",
            job_id=job.id,
        )
    return Enqueued(job, False)


# ── Cancelling, trying again, forgetting ────────────────────────────────────────────────────────


def cancel_job(tx: Transaction, command: CancelJob) -> Job:
    job = _job(tx, command.id)
    if job.status == "queued":
        return end_cancelled(tx, job)
    if job.status == "cancelled" or (job.status == "running" and job.cancel_requested):
        return job
    if job.status != "running":
        raise JobFinished(f"the job has {job.status}; there is nothing left to cancel")
    job = msgspec.structs.replace(
        job, cancel_requested=True, updated_us=tx.at_us, position=tx.position + 1
    )
    tx.db.execute(
        "UPDATE jobs SET cancel_requested = 1, updated_us = ?, position = ? WHERE row = ?",
        [job.updated_us, job.position, job.row],
    )
    tell(tx, "job.progress", job)
    return job


def end_cancelled(tx: Transaction, job: Job, progress: Progress | None = None) -> Job:
    """The job is cancelled, whatever it was."""
    job = msgspec.structs.replace(
        job,
        status="cancelled",
        cancel_requested=False,
        progress=progress or job.progress,
        updated_us=tx.at_us,
        finished_us=tx.at_us,
        position=tx.position + 1,
    )
    tx.db.execute(
        "UPDATE jobs SET status = 'cancelled', due = 0, cancel_requested = 0, lease_until_us = 0, "
        "current = ?, total = ?, message = ?, rate = NULL, updated_us = ?, "
        "finished_us = ?, position = ? WHERE row = ?",
        [
            job.progress.current,
            job.progress.total,
            job.progress.message,
            tx.at_us,
            tx.at_us,
            job.position,
            job.row,
        ],
    )
    tell(tx, "job.cancelled", job)
    fail_batches_of_job(tx, job.id, "the job was cancelled before the batch ended")
    return job


def retry_job(tx: Transaction, command: RetryJob) -> Job:
    job = _job(tx, command.id)
    if job.status not in ("failed", "cancelled"):
        raise JobNotFinished(
            f"the job is {job.status}; only one that has failed or was cancelled is tried again"
        )
    return _replay(tx, job)


def replay_dead(tx: Transaction, command: ReplayDead) -> int:
    where, values = ("", []) if command.type is None else (" AND type = ?", [command.type])
    rows = tx.db.execute(
        f"SELECT {JOB_COLUMNS} FROM jobs WHERE status = 'failed' AND dead = 1{where} "
        "ORDER BY row LIMIT ?",
        [*values, command.limit],
    ).fetchall()
    for row in rows:
        _replay(tx, job_of(row))
    return len(rows)


def _replay(tx: Transaction, job: Job) -> Job:
    return queue_again(tx, job, "replayed", attempt=0, error=None, not_before_us=tx.at_us)


def queue_again(
    tx: Transaction,
    job: Job,
    reason: str,
    *,
    attempt: int,
    error: dict[str, Any] | None,
    not_before_us: int,
    progress: Progress | None = None,
) -> Job:
    """The job waits again, for `reason`."""
    progress = progress or job.progress
    job = msgspec.structs.replace(
        job,
        status="queued",
        dead=False,
        cancel_requested=False,
        worker=None,
        lease_until_us=0,
        attempt=attempt,
        error=error,
        not_before_us=max(not_before_us, tx.at_us),
        progress=msgspec.structs.replace(progress, rate=None),
        result=None,
        finished_us=None,
        updated_us=tx.at_us,
        position=tx.position + 1,
    )
    tx.db.execute(
        "UPDATE jobs SET status = 'queued', dead = 0, cancel_requested = 0, worker = NULL, "
        "lease_until_us = 0, attempt = ?, error = ?, not_before_us = ?, due = ?, current = ?, "
        "total = ?, message = ?, rate = NULL, result = NULL, finished_us = NULL, updated_us = ?, "
        "position = ? WHERE row = ?",
        [
            attempt,
            None if error is None else encode(error),
            job.not_before_us,
            int(job.not_before_us <= tx.at_us),
            progress.current,
            progress.total,
            progress.message,
            tx.at_us,
            job.position,
            job.row,
        ],
    )
    tell(tx, "job.queued", job, reason=reason)
    return job


def forget_jobs(tx: Transaction, command: ForgetJobs) -> list[str]:
    found: list[tuple[int, str]] = []
    for status in _ENDED:
        before_us = command.failed_before_us if status == "failed" else command.before_us
        found += tx.db.execute(
            "SELECT row, id FROM jobs WHERE status = ? AND finished_us < ? "
            "ORDER BY finished_us LIMIT ?",
            [status, before_us, command.limit - len(found)],
        ).fetchall()
    for row, _ in found:
        tx.db.execute("DELETE FROM jobs WHERE row = ?", [row])
    return [id for _, id in found]


def _job(tx: Transaction, id: str) -> Job:
    job = job_with(tx.db, id)
    if job is None:
        raise JobNotFound(
            f"there is no job {id[:80]!r} (any more); GET /v1/jobs lists them", job_id=id
        )
    return job
