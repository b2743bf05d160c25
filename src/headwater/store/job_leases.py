"""Writing jobs from inside: claimed, saved, ended by whoever holds them, taken from the dead.

The lease is a number that rises with each claim of a job. A write that names an older one comes
from a worker that was taken for dead: `LeaseLost`, and nothing has changed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.errors import LeaseLost
from headwater.model import Job, Position, Progress
from headwater.store.job_commands import (
    Claimed,
    ClaimJobs,
    CompleteJob,
    FailJob,
    HoldLease,
    ReapJobs,
    RenewLeases,
    SaveJob,
    StopJob,
)
from headwater.store.job_rows import (
    JOB_COLUMNS,
    SHORT_COLUMNS,
    first_waiting,
    job_of,
    next_delayed,
)
from headwater.store.job_writes import end_cancelled, queue_again, tell
from headwater.store.records import canonical, encode
from headwater.store.transaction import Transaction
from headwater.store.upkeep import fail_batches_of_job

_DUE_AT_ONCE = 10_000
"""Jobs whose time has come that are put in line by one claim."""

MOST_LEASES = 100
"""A job that saves something new each time is claimed so often before its losses count."""

LOST = {
    "code": "worker_lost",
    "detail": "the process that ran the job ended or stopped answering",
    "retryable": True,
}


def claim_jobs(tx: Transaction, command: ClaimJobs) -> Claimed:
    tx.db.execute(
        "UPDATE jobs SET due = 1 WHERE row IN (SELECT row FROM jobs WHERE status = 'queued' "
        "AND due = 0 AND not_before_us <= ? ORDER BY not_before_us LIMIT ?)",
        [tx.clock.now_us(), _DUE_AT_ONCE],
    )
    jobs: list[Job] = []
    heavy = command.heavy_limit
    for row, type in first_waiting(tx.db, command.types, command.limit):
        if len(jobs) == command.limit:
            break
        if type in command.heavy:
            if not heavy:
                continue
            heavy -= 1
        claimed = tx.db.execute(
            "UPDATE jobs SET status = 'running', due = 0, advanced = 0, attempt = attempt + 1, "
            "lease = lease + 1, lease_until_us = ?, worker = ?, started_us = ?, updated_us = ?, "
            f"position = ? WHERE row = ? RETURNING {JOB_COLUMNS}",
            [command.until_us, command.process, tx.at_us, tx.at_us, tx.position + 1, row],
        ).fetchone()
        job = job_of(claimed)
        tell(tx, "job.started", job)
        jobs.append(job)
    return Claimed(jobs, next_delayed(tx.db))


def renew_leases(tx: Transaction, command: RenewLeases) -> None:
    values = [command.until_us, command.process]
    tx.db.execute(
        "UPDATE jobs SET lease_until_us = ? WHERE status = 'running' AND worker = ?", values
    )
    tx.db.execute("UPDATE workers SET until_us = ? WHERE process = ?", values)


def hold_lease(tx: Transaction, command: HoldLease) -> None:
    found = tx.db.execute(
        "SELECT 1 FROM jobs WHERE id = ? AND lease = ? AND status = 'running'",
        [command.id, command.lease],
    ).fetchone()
    if found is None:
        raise _lost()


def save_job(tx: Transaction, command: SaveJob) -> Position | None:
    job = _held(tx, command)
    saved = None if command.saved is None else canonical(command.saved)
    progress = command.progress
    position = tx.position + 1 if command.tell else job.position
    tx.db.execute(
        "UPDATE jobs SET current = ?, total = ?, message = ?, rate = ?, updated_us = ?, "
        "position = ?, advanced = max(advanced, coalesce(? IS NOT saved AND ? IS NOT NULL, 0)), "
        "saved = coalesce(?, saved) WHERE row = ?",
        [
            progress.current,
            progress.total,
            progress.message,
            progress.rate,
            tx.at_us,
            position,
            saved,
            saved,
            saved,
            job.row,
        ],
    )
    if not command.tell:
        return None
    job = msgspec.structs.replace(job, progress=progress, updated_us=tx.at_us, position=position)
    return tell(tx, "job.progress", job)


def complete_job(tx: Transaction, command: CompleteJob) -> Job:
    job = _held(tx, command)
    return _end(tx, job, command.progress, "completed", result=command.result)


def fail_job(tx: Transaction, command: FailJob) -> Job:
    job = _held(tx, command)
    if command.retry_us is not None and job.attempt < job.max_attempts:
        if job.cancel_requested:
            return end_cancelled(tx, job, command.progress)
        return queue_again(
            tx,
            job,
            "retry",
            attempt=job.attempt,
            error=command.error,
            not_before_us=command.retry_us,
            progress=command.progress,
        )
    dead = command.retry_us is not None
    return _end(tx, job, command.progress, "failed", error=command.error, dead=dead)


def stop_job(tx: Transaction, command: StopJob) -> Job:
    job = _held(tx, command)
    if job.cancel_requested:
        return end_cancelled(tx, job, command.progress)
    return queue_again(
        tx,
        job,
        "returned",
        attempt=job.attempt - 1,
        error=job.error,
        not_before_us=job.not_before_us,
        progress=command.progress,
    )


def reap_jobs(tx: Transaction, command: ReapJobs) -> list[str]:
    # By the clock that leases are given by: the log's time stands still while that is behind.
    now_us = tx.clock.now_us()
    lost = [
        (job_of(row[:-1]), bool(row[-1]))
        for row in tx.db.execute(
            f"SELECT {SHORT_COLUMNS}, advanced FROM jobs WHERE status = 'running' ORDER BY row"
        ).fetchall()
    ]
    reaped = []
    for job, advanced in lost:
        if job.worker in command.dead or job.lease_until_us < now_us:
            _take(tx, job, advanced, command)
            reaped.append(job.id)
    for process, until_us in tx.db.execute("SELECT process, until_us FROM workers").fetchall():
        if process in command.dead or until_us < now_us:
            tx.db.execute("DELETE FROM workers WHERE process = ?", [process])
    return reaped


def _take(tx: Transaction, job: Job, advanced: bool, command: ReapJobs) -> None:
    """Take a job from a worker that is gone."""
    if job.cancel_requested:
        end_cancelled(tx, job)
        return
    attempt = job.attempt
    if advanced and job.lease < MOST_LEASES:
        attempt -= 1  # it was not the job that brought the process down, or not at the same place
    elif attempt >= job.max_attempts:
        _end(tx, job, job.progress, "failed", error=LOST, dead=True)
        return
    wait_us = 0
    if attempt > 1:
        wait_us = min(command.backoff_us << min(attempt - 2, 40), command.backoff_max_us)
    queue_again(tx, job, "lost", attempt=attempt, error=LOST, not_before_us=tx.at_us + wait_us)


def _end(
    tx: Transaction,
    job: Job,
    progress: Progress,
    status: Any,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    dead: bool = False,
) -> Job:
    job = msgspec.structs.replace(
        job,
        status=status,
        dead=dead,
        cancel_requested=False,
        progress=msgspec.structs.replace(progress, rate=None),
        result=result,
        error=error,
        updated_us=tx.at_us,
        finished_us=tx.at_us,
        position=tx.position + 1,
    )
    tx.db.execute(
        "UPDATE jobs SET status = ?, dead = ?, cancel_requested = 0, lease_until_us = 0, "
        "current = ?, total = ?, message = ?, rate = NULL, result = ?, error = ?, "
        "updated_us = ?, finished_us = ?, position = ? WHERE row = ?",
        [
            status,
            int(dead),
            progress.current,
            progress.total,
            progress.message,
            None if result is None else encode(result),
            None if error is None else encode(error),
            tx.at_us,
            tx.at_us,
            job.position,
            job.row,
        ],
    )
    more: dict[str, Any] = {} if result is None else {"result": result}
    if status == "failed":
        more["dead"] = dead
    tell(tx, f"job.{status}", job, **more)
    fail_batches_of_job(tx, job.id, "the job failed before the batch ended")
    return job


def _held(tx: Transaction, command: SaveJob | CompleteJob | FailJob | StopJob) -> Job:
    row = tx.db.execute(
        f"SELECT {SHORT_COLUMNS} FROM jobs WHERE id = ? AND lease = ? AND status = 'running'",
        [command.id, command.lease],
    ).fetchone()
    if row is None:
        raise _lost()
    return job_of(row)


def _lost() -> LeaseLost:
    return LeaseLost("the job is not this worker's any more: its lease ran out, or it has ended")
