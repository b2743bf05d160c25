"""What is written beside libraries and documents: open batches, announcements, the log's own trim.

Also `newest_before`, which both trimming and reading by time need.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select, update

from headwater.model import Position
from headwater.store import schema
from headwater.store.alert_rows import place_of
from headwater.store.base import Announce, TrimLog
from headwater.store.batch_commands import BeginBatch, EndBatch, FailOpenBatches, job_owner
from headwater.store.migrate import new_log_id
from headwater.store.records import encode
from headwater.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class RenewIdentity:
    """→ `str`: the log's new id. The store's own command, behind `restore_identity`."""


_batches = schema.batches.c
_BEGIN = schema.compiled(
    insert(schema.batches).values(
        batch_id=bindparam("batch_id"),
        owner=bindparam("owner"),
        library_id=bindparam("library_id"),
        begun_us=bindparam("begun_us"),
    )
)
_OPEN = schema.compiled(
    select(_batches.row, _batches.library_id)
    .where(_batches.batch_id == bindparam("batch_id"))
    .order_by(_batches.row)
)
_ALL_OPEN = schema.compiled(
    select(_batches.row, _batches.batch_id, _batches.library_id, _batches.owner).order_by(
        _batches.row
    )
)
_CLOSE = schema.compiled(delete(schema.batches).where(_batches.row == bindparam("row")))
_SET_META = schema.compiled(
    update(schema.meta)
    .where(schema.meta.c.key == bindparam("name"))
    .values(value=bindparam("new_value"))
)


def begin_batch(tx: Transaction, command: BeginBatch) -> Position:
    library = tx.library(command.number)
    if (
        command.once
        and tx.db.execute(
            "SELECT 1 FROM batches WHERE batch_id = ? AND owner = ?",
            [command.batch_id, command.owner],
        ).fetchone()
    ):
        return tx.position
    tx.db.execute(
        _BEGIN,
        {
            "batch_id": command.batch_id,
            "owner": command.owner,
            "library_id": library.id,
            "begun_us": tx.at_us,
        },
    )
    data = encode({"batch_id": command.batch_id})
    return tx.change("batch.started", library.id, command.batch_id, data)


def end_batch(tx: Transaction, command: EndBatch) -> Position:
    found = tx.db.execute(_OPEN, {"batch_id": command.batch_id}).fetchone()
    if found is None:
        return tx.position
    row, library_id = found
    return _end(tx, row, command.batch_id, library_id, command.counts, command.error)


def fail_open_batches(tx: Transaction, command: FailOpenBatches) -> int:
    left = [row for row in tx.db.execute(_ALL_OPEN).fetchall() if row[3] in command.owners]
    for row, batch_id, library_id, _ in left:
        _end(tx, row, batch_id, library_id, {}, command.error)
    return len(left)


def batch_processes(db: sqlite3.Connection) -> set[str]:
    owners = {owner for (owner,) in db.execute("SELECT DISTINCT owner FROM batches").fetchall()}
    return {owner for owner in owners if not owner.startswith(job_owner(""))}


def fail_batches_of_job(tx: Transaction, job_id: str, error: str) -> None:
    """The job has ended: what it left open has failed."""
    for row, batch_id, library_id in tx.db.execute(
        "SELECT row, batch_id, library_id FROM batches WHERE owner = ? ORDER BY row",
        [job_owner(job_id)],
    ).fetchall():
        _end(tx, row, batch_id, library_id, {}, error)


def _end(
    tx: Transaction,
    row: int,
    batch_id: str,
    library_id: str,
    counts: dict[str, int],
    error: str | None,
) -> Position:
    tx.db.execute(_CLOSE, {"row": row})
    data = {"batch_id": batch_id, **counts}
    if error is None:
        return tx.change("batch.completed", library_id, batch_id, encode(data))
    return tx.change("batch.failed", library_id, batch_id, encode({**data, "error": error}))


def announce(tx: Transaction, command: Announce) -> Position:
    library = tx.library(command.number)
    return tx.change(command.type, library.id, None, encode(command.data))


def trim_log(tx: Transaction, command: TrimLog) -> Position:
    oldest, newest = tx.db.execute("SELECT min(position), max(position) FROM changes").fetchone()
    (value,) = tx.db.execute("SELECT value FROM meta WHERE key = 'trimmed'").fetchone()
    trimmed = int(value)
    if newest is None:
        return trimmed
    # Positions have no gaps in this store: the keys of what was rolled back are given out again.
    through = max(newest_before(tx.db, command.before_us) or 0, newest - command.keep)
    through = min(through, newest - 1, oldest + command.limit - 1)
    matched = place_of(tx.db)
    if matched is not None and tx.db.execute("SELECT 1 FROM alerts LIMIT 1").fetchone():
        through = min(through, matched.position)
    if through < oldest:
        return trimmed
    tx.db.execute("DELETE FROM changes WHERE position <= ?", [through])
    tx.db.execute(_SET_META, {"name": "trimmed", "new_value": str(through)})
    return int(through)


def renew_identity(tx: Transaction, _: RenewIdentity) -> str:
    log_id = new_log_id(tx.clock)
    tx.db.execute(_SET_META, {"name": "log_id", "new_value": log_id})
    return log_id


def newest_before(db: sqlite3.Connection, at_us: int) -> Position | None:
    """The newest position with a time below `at_us`; by halving, as time rises with position."""
    low, high = db.execute("SELECT min(position), max(position) FROM changes").fetchone()
    found: Position | None = None
    while low is not None and low <= high:
        middle = (low + high + 1) // 2
        position, time = db.execute(
            "SELECT position, at_us FROM changes WHERE position <= ? "
            "ORDER BY position DESC LIMIT 1",
            [middle],
        ).fetchone()
        if time < at_us:
            found, low = position, middle + 1
        else:
            high = position - 1
    return found
