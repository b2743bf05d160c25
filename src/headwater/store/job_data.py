"""How jobs, schedules and workers look in changes, and so wherever clients meet them.

One place for these shapes: the store writes them into changes, and whoever shows a job must show
it alike.
"""

from __future__ import annotations

from typing import Any

from headwater.clock import rfc3339
from headwater.model import Job, Progress, Schedule, Worker


def progress_data(progress: Progress) -> dict[str, Any]:
    """`percentage` and `eta_seconds` as far as they can be known."""
    current, total, rate = progress.current, progress.total, progress.rate
    percentage = eta = None
    if total is not None:
        percentage = 100.0 if total <= 0 else round(min(100.0, 100 * current / total), 2)
        if rate:
            eta = round(max(0, total - current) / rate, 1)
    return {
        "current": current,
        "total": total,
        "percentage": percentage,
        "message": progress.message,
        "rate": None if rate is None else round(rate, 2),
        "eta_seconds": eta,
    }


def job_data(job: Job, **more: Any) -> dict[str, Any]:
    """What every change of a job says, and what each kind of change says besides."""
    data: dict[str, Any] = {
        "job_id": job.id,
        "type": job.type,
        "status": job.status,
        "library_id": job.library_id,
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "progress": progress_data(job.progress),
    }
    if job.worker is not None:
        data["worker"] = job.worker
    if job.schedule_id is not None:
        data["schedule_id"] = job.schedule_id
    if job.error is not None:
        data["error"] = job.error
    if job.cancel_requested:
        data["cancel_requested"] = True
    return data | more


def schedule_data(schedule: Schedule) -> dict[str, Any]:
    return {
        "schedule_id": schedule.id,
        "name": schedule.name,
        "type": schedule.type,
        "library_id": schedule.library_id,
        "params": schedule.params,
        "priority": schedule.priority,
        "max_attempts": schedule.max_attempts,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "every_seconds": None if schedule.every_us is None else schedule.every_us / 1_000_000,
        "missed": schedule.missed,
        "paused": schedule.paused,
        "next_at": None if schedule.paused else rfc3339(schedule.next_us),
        "last_at": None if schedule.last_us is None else rfc3339(schedule.last_us),
        "last_job_id": schedule.last_job_id,
        "fired": schedule.fired,
        "created_at": rfc3339(schedule.created_us),
        "updated_at": rfc3339(schedule.updated_us),
    }


def worker_data(worker: Worker) -> dict[str, Any]:
    """`state` is what has become of its mode: `pausing` while what it took goes on."""
    state = {
        "run": "running",
        "pause": "pausing" if worker.running else "paused",
        "drain": "draining" if worker.running else "drained",
    }[worker.mode]
    return {
        "process": worker.process,
        "role": worker.role,
        "pid": worker.pid,
        "size": worker.size,
        "types": worker.types,
        "mode": worker.mode,
        "state": state,
        "running": worker.running,
        "started_at": rfc3339(worker.started_us),
    }
