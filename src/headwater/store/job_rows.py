"""Rows of jobs, schedules and workers as values: what both sides of the store read with."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

from headwater.model import Job, Progress, Schedule, Worker
from headwater.store.connection import listed
from headwater.store.job_commands import JobFigures, JobNews, JobReader, Order
from headwater.store.records import decode

SHORT_COLUMNS = (
    "row, id, type, library_id, status, dead, cancel_requested, rank, not_before_us, attempt, "
    "max_attempts, lease, lease_until_us, worker, idempotency_key, schedule_id, created_us, "
    "updated_us, started_us, finished_us, position, current, total, message, rate, error"
)
JOB_COLUMNS = f"{SHORT_COLUMNS}, params, result, saved"
_SCHEDULE_COLUMNS = (
    "row, id, name, type, library_id, params, priority, max_attempts, cron, timezone, every_us, "
    "missed, paused, next_us, last_us, last_job_id, fired, created_us, updated_us"
)
_WORKERS = (
    "SELECT w.process, w.role, w.pid, w.size, w.types, w.mode, w.started_us, w.until_us, "
    "(SELECT count(*) FROM jobs j WHERE j.status = 'running' AND j.worker = w.process) "
    "FROM workers w"
)
_FIGURES_OF = 500


def job_of(row: tuple[Any, ...]) -> Job:
    """From `JOB_COLUMNS`, or from the short ones, which end before `params`."""
    params = result = saved = None
    if len(row) > 26:
        params, result, saved = row[26:]
    (error,) = row[25:26]
    return Job(
        row=row[0],
        id=row[1],
        type=row[2],
        library_id=row[3],
        status=row[4],
        dead=bool(row[5]),
        cancel_requested=bool(row[6]),
        priority=-row[7],
        not_before_us=row[8],
        attempt=row[9],
        max_attempts=row[10],
        lease=row[11],
        lease_until_us=row[12],
        worker=row[13],
        idempotency_key=row[14],
        schedule_id=row[15],
        created_us=row[16],
        updated_us=row[17],
        started_us=row[18],
        finished_us=row[19],
        position=row[20],
        progress=Progress(*row[21:25]),
        error=None if error is None else decode(error),
        params={} if params is None else decode(params),
        result=None if result is None else decode(result),
        saved=None if saved is None else decode(saved),
    )


def schedule_of(row: tuple[Any, ...]) -> Schedule:
    values = list(row)
    values[5] = decode(values[5])
    values[12] = bool(values[12])
    return Schedule(*values)


def worker_of(row: tuple[Any, ...]) -> Worker:
    process, role, pid, size, types, mode, started_us, until_us, running = row
    return Worker(process, role, pid, size, decode(types), mode, started_us, until_us, running)


def job_with(db: sqlite3.Connection, id: str) -> Job | None:
    row = db.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", [id]).fetchone()
    return None if row is None else job_of(row)


def schedule_named(db: sqlite3.Connection, ref: str) -> Schedule | None:
    """By name or by id; an id wins over an equal name."""
    row = db.execute(
        f"SELECT {_SCHEDULE_COLUMNS} FROM schedules WHERE id = ? OR name = ? "
        "ORDER BY id = ? DESC LIMIT 1",
        [ref, ref, ref],
    ).fetchone()
    return None if row is None else schedule_of(row)


def workers_of(db: sqlite3.Connection, process: str | None = None) -> list[Worker]:
    """All, or the one of that process."""
    where, values = ("", []) if process is None else (" WHERE w.process = ?", [process])
    rows = db.execute(f"{_WORKERS}{where} ORDER BY w.started_us, w.process", values).fetchall()
    return [worker_of(row) for row in rows]


def first_waiting(
    db: sqlite3.Connection, types: Collection[str], limit: int
) -> list[tuple[int, str]]:
    """Rows and types of the jobs that are due, in order: at least the first `limit`.

    A seek per type, whatever else waits.
    """
    if not types:
        return []
    one = (
        "SELECT * FROM (SELECT row, rank, not_before_us, type FROM jobs WHERE status = 'queued' "
        "AND due = 1 AND type = ? ORDER BY rank, not_before_us, row LIMIT ?)"
    )
    values: list[Any] = []
    for type in types:
        values += (type, limit)
    return db.execute(
        f"SELECT row, type FROM ({' UNION ALL '.join([one] * len(types))}) "
        "ORDER BY rank, not_before_us, row",
        values,
    ).fetchall()


def next_delayed(db: sqlite3.Connection) -> int | None:
    """When the first of the jobs that are not due yet will be."""
    (next_us,) = db.execute(
        "SELECT min(not_before_us) FROM jobs WHERE status = 'queued' AND due = 0"
    ).fetchone()
    return None if next_us is None else int(next_us)


class SqliteJobReader(JobReader):
    """Reads in the transaction of `_db`."""

    _db: sqlite3.Connection

    def job(self, id: str) -> Job | None:
        return job_with(self._db, id)

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
        newest = order == "newest"
        where = ["row < ?" if newest and after else "row > ?"]
        values: list[Any] = [after]
        for column, wanted in (("status", statuses), ("type", types)):
            if wanted is not None:
                marks, padded = listed(list(wanted)) if wanted else ("NULL", [])
                where.append(f"{column} IN ({marks})")
                values += padded
        for column, value in (("library_id", library_id), ("schedule_id", schedule_id)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        if dead is not None:
            where.append("status = 'failed' AND dead = ?")
            values.append(int(dead))
        rows = self._db.execute(
            f"SELECT {SHORT_COLUMNS} FROM jobs WHERE {' AND '.join(where)} "
            f"ORDER BY row {'DESC' if newest else 'ASC'} LIMIT ?",
            [*values, limit],
        ).fetchall()
        return [job_of(row) for row in rows]

    def job_news(self, process: str, types: Collection[str], now_us: int) -> JobNews:
        db = self._db
        workers = workers_of(db, process)
        held = db.execute(
            "SELECT id, lease, cancel_requested FROM jobs WHERE status = 'running' AND worker = ?",
            [process],
        ).fetchall()
        next_us = next_delayed(db)
        due = bool(first_waiting(db, types, 1)) or (next_us is not None and next_us <= now_us)
        return JobNews(
            worker=workers[0] if workers else None,
            held={id: lease for id, lease, _ in held},
            cancelled={id for id, _, asked in held if asked},
            due=due,
            next_us=next_us,
        )

    def job_holders(self) -> dict[str, int]:
        return dict(
            self._db.execute(
                "SELECT process, min(until_us) FROM (SELECT process, until_us FROM workers "
                "UNION ALL SELECT worker, lease_until_us FROM jobs WHERE status = 'running') "
                "GROUP BY process"
            ).fetchall()
        )

    def job_figures(self) -> JobFigures:
        db = self._db
        counts: dict[str, dict[Any, int]] = {}
        for type, status, count in db.execute(
            "SELECT type, status, count(*) FROM jobs GROUP BY status, type"
        ).fetchall():
            counts.setdefault(type, {})[status] = count
        (dead,) = db.execute(
            "SELECT count(*) FROM jobs WHERE status = 'failed' AND dead = 1"
        ).fetchone()
        (delayed,) = db.execute(
            "SELECT count(*) FROM jobs WHERE status = 'queued' AND due = 0"
        ).fetchone()
        (oldest_us,) = db.execute(
            "SELECT min(not_before_us) FROM jobs WHERE status = 'queued' AND due = 1"
        ).fetchone()
        ended = db.execute(
            "SELECT not_before_us, started_us, finished_us FROM jobs WHERE status = 'completed' "
            "ORDER BY finished_us DESC LIMIT ?",
            [_FIGURES_OF],
        ).fetchall()
        return JobFigures(
            counts=counts,
            dead=dead,
            delayed=delayed,
            oldest_us=oldest_us,
            waited_ms=[max(0, started - due) / 1000 for due, started, _ in ended],
            ran_ms=[(finished - started) / 1000 for _, started, finished in ended],
        )

    def job_ids(self, ids: Collection[str]) -> set[str]:
        if not ids:
            return set()
        marks, values = listed(list(ids))
        rows = self._db.execute(f"SELECT id FROM jobs WHERE id IN ({marks})", values).fetchall()
        return {id for (id,) in rows}

    def schedule(self, ref: str) -> Schedule | None:
        return schedule_named(self._db, ref)

    def schedules(self, *, after: int, limit: int) -> list[Schedule]:
        rows = self._db.execute(
            f"SELECT {_SCHEDULE_COLUMNS} FROM schedules WHERE row > ? ORDER BY row LIMIT ?",
            [after, limit],
        ).fetchall()
        return [schedule_of(row) for row in rows]

    def schedules_due(
        self, now_us: int, limit: int, *, after: tuple[int, int] = (0, 0)
    ) -> tuple[list[Schedule], int | None]:
        rows = self._db.execute(
            f"SELECT {_SCHEDULE_COLUMNS} FROM schedules WHERE paused = 0 AND next_us <= ? "
            "AND (next_us, row) > (?, ?) ORDER BY next_us, row LIMIT ?",
            [now_us, *after, limit],
        ).fetchall()
        (next_us,) = self._db.execute(
            "SELECT min(next_us) FROM schedules WHERE paused = 0 AND next_us > ?", [now_us]
        ).fetchone()
        return [schedule_of(row) for row in rows], next_us

    def workers(self) -> list[Worker]:
        return workers_of(self._db)
