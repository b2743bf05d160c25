"""Writing schedules: what fires is decided elsewhere, that only one fires is decided here."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.errors import ScheduleExists, ScheduleNotFound, TooManyJobs
from headwater.model import Job, Position, Schedule
from headwater.store.job_commands import (
    ChangeSchedule,
    CreateSchedule,
    DeleteSchedule,
    FireSchedule,
)
from headwater.store.job_data import schedule_data
from headwater.store.job_rows import schedule_named
from headwater.store.job_writes import before, enqueue, require_room
from headwater.store.records import canonical, encode
from headwater.store.transaction import Transaction

_INSERT = (
    "INSERT INTO schedules (id, name, type, library_id, params, priority, max_attempts, cron, "
    "timezone, every_us, missed, paused, next_us, fired, created_us, updated_us) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)"
)


def create_schedule(tx: Transaction, command: CreateSchedule) -> Schedule:
    if schedule_named(tx.db, command.name) is not None:
        raise ScheduleExists(
            f"there is a schedule {command.name!r} already; choose another name, or delete it",
            name=command.name,
        )
    (count,) = tx.db.execute("SELECT count(*) FROM schedules").fetchone()
    if count >= command.most:
        raise TooManyJobs(
            f"there are {count} schedules, which is the limit; delete one that is not needed",
            limit=command.most,
        )
    tx.db.execute(
        _INSERT,
        [
            command.id,
            command.name,
            command.type,
            command.library_id,
            canonical(command.params),
            command.priority,
            command.max_attempts,
            command.cron,
            command.timezone,
            command.every_us,
            command.missed,
            int(command.paused),
            command.next_us,
            tx.at_us,
            tx.at_us,
        ],
    )
    schedule = _schedule(tx, command.id)
    _tell(tx, "schedule.created", schedule)
    return schedule


def change_schedule(tx: Transaction, command: ChangeSchedule) -> Schedule:
    schedule = _schedule(tx, command.id)
    if schedule.paused == command.paused:
        return schedule
    tx.db.execute(
        "UPDATE schedules SET paused = ?, next_us = ?, updated_us = ? WHERE row = ?",
        [int(command.paused), command.next_us, tx.at_us, schedule.row],
    )
    schedule = _schedule(tx, command.id)
    _tell(tx, "schedule.updated", schedule)
    return schedule


def delete_schedule(tx: Transaction, command: DeleteSchedule) -> Position:
    schedule = _schedule(tx, command.id)
    tx.db.execute("DELETE FROM schedules WHERE row = ?", [schedule.row])
    return _tell(tx, "schedule.deleted", schedule)


def fire_schedule(tx: Transaction, command: FireSchedule) -> list[Job] | None:
    schedule = schedule_named(tx.db, command.id)
    if command.due_us is None:
        schedule = _schedule(tx, command.id)
    elif schedule is None or schedule.paused or schedule.next_us != command.due_us:
        return None
    require_room(tx, len(command.jobs), command.most)
    jobs = [enqueue(tx, new, "schedule") for new in command.jobs if before(tx, new) is None]
    fired: dict[str, Any] = {"fired": schedule.fired + len(jobs)}
    if jobs:
        fired |= {"last_us": tx.at_us, "last_job_id": jobs[-1].id}
    if command.due_us is not None:
        fired["next_us"] = command.next_us
    tx.db.execute(
        f"UPDATE schedules SET {', '.join(f'{name} = ?' for name in fired)} WHERE row = ?",
        [*fired.values(), schedule.row],
    )
    if command.due_us is None:
        _tell(tx, "schedule.updated", msgspec.structs.replace(schedule, **fired))
    return jobs


def drop_schedules(tx: Transaction, library_id: str) -> None:
    """With their library; each is told."""
    rows = tx.db.execute(
        "SELECT id FROM schedules WHERE library_id = ? ORDER BY row", [library_id]
    ).fetchall()
    for (id,) in rows:
        delete_schedule(tx, DeleteSchedule(id))


def _schedule(tx: Transaction, ref: str) -> Schedule:
    schedule = schedule_named(tx.db, ref)
    if schedule is None:
        raise ScheduleNotFound(
            f"there is no schedule {ref[:80]!r} (any more); GET /v1/schedules lists them"
        )
    return schedule


def _tell(tx: Transaction, kind: str, schedule: Schedule) -> Position:
    """Without the parameters, which may be large."""
    data = schedule_data(schedule)
    del data["params"]
    return tx.change(kind, schedule.library_id, schedule.id, encode(data))
