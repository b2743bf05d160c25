"""Writing workers: who runs jobs, how many at once, and what was asked of all of them.

What was set for all servers is kept in `meta`, so that it holds for servers that start later.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.errors import WorkerNotFound
from headwater.model import Worker
from headwater.store.job_commands import (
    ChangeWorkers,
    RegisterWorker,
    RemoveWorker,
    Unset,
)
from headwater.store.job_data import worker_data
from headwater.store.job_rows import workers_of
from headwater.store.records import decode, encode
from headwater.store.transaction import Transaction

_KEY = "jobs.workers"


def register_worker(tx: Transaction, command: RegisterWorker) -> Worker:
    wish = _wish(tx)
    size, types = command.size, command.types
    if command.role == "server":
        size, types = wish.get("size", size), wish.get("types", types)
    tx.db.execute(
        "INSERT OR REPLACE INTO workers (process, role, pid, size, types, mode, started_us, "
        "until_us, own) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            command.process,
            command.role,
            command.pid,
            size,
            encode(types),
            wish.get("mode", "run"),
            tx.at_us,
            command.until_us,
            encode({"size": command.size, "types": command.types}),
        ],
    )
    (worker,) = workers_of(tx.db, command.process)
    return worker


def change_workers(tx: Transaction, command: ChangeWorkers) -> list[Worker]:
    given: dict[str, Any] = {
        name: value
        for name in ("size", "types", "mode")
        if not isinstance(value := getattr(command, name), Unset)
    }
    if command.process is None:
        _set_wish(tx, {**_wish(tx), **given})
    changed = []
    for worker in workers_of(tx.db, command.process):
        (own,) = tx.db.execute(
            "SELECT own FROM workers WHERE process = ?", [worker.process]
        ).fetchone()
        mine = {
            name: decode(own)[name] if value is None else value
            for name, value in given.items()
            if name == "mode" or command.process is not None or worker.role == "server"
        }
        new = msgspec.structs.replace(worker, **mine)
        if new != worker:
            tx.db.execute(
                "UPDATE workers SET size = ?, types = ?, mode = ? WHERE process = ?",
                [new.size, encode(new.types), new.mode, new.process],
            )
            tx.change("worker.updated", None, new.process, encode(worker_data(new)))
        changed.append(new)
    if not changed and command.process is not None:
        raise WorkerNotFound(
            f"there is no worker process {command.process[:80]!r} (any more); "
            "GET /v1/workers lists them"
        )
    return changed


def remove_worker(tx: Transaction, command: RemoveWorker) -> None:
    tx.db.execute("DELETE FROM workers WHERE process = ?", [command.process])


def _wish(tx: Transaction) -> dict[str, Any]:
    """What was set for all servers; a member that is not there is each one's own."""
    row = tx.db.execute("SELECT value FROM meta WHERE key = ?", [_KEY]).fetchone()
    return {} if row is None else dict(decode(row[0]))


def _set_wish(tx: Transaction, wish: dict[str, Any]) -> None:
    kept = {name: value for name, value in wish.items() if value is not None}
    tx.db.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [_KEY, encode(kept).decode()],
    )
