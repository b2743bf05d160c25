"""Making the vectors of a library anew: begin, fill, switch, settle.

A generation's vectors are in `next_vectors`, by chunk row. While it is `filling` no read looks at
them, as the library names another; once it is `valid`, reads take them over those in `chunks`,
until they have been moved there. One that is `dropped` only waits to be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from headwater.errors import RegenerationRefused, RegenerationRunning
from headwater.model import Library
from headwater.store.connection import in_lists, listed
from headwater.store.records import library_data
from headwater.store.regeneration_commands import (
    BeginRegeneration,
    PutNextVectors,
    Regeneration,
    SettleVectors,
    SwitchGeneration,
)
from headwater.store.transaction import Transaction

NEXT_VECTOR = (
    "coalesce((SELECT n.vector FROM next_vectors n WHERE n.row = c.row "
    "AND n.generation = l.generation), c.vector)"
)
"""The valid vector of chunk `c` of library `l`, while there is any in `next_vectors`."""

_WAITS = "its library's vectors were made anew while it was written"


def begin_regeneration(tx: Transaction, command: BeginRegeneration) -> Regeneration:
    library = tx.library(command.number)
    _refuse_alerts(tx, library)
    top = library.generation
    for generation, job, embedder, identity, dimension, state, active in tx.db.execute(
        "SELECT r.generation, r.job, r.embedder, r.embedder_identity, r.dimension, r.state, "
        "EXISTS (SELECT 1 FROM jobs j WHERE j.id = r.job AND j.status IN ('queued', 'running')) "
        "FROM regenerations r WHERE r.library = ? ORDER BY r.generation",
        [library.number],
    ).fetchall():
        top = max(top, generation)
        if job == command.job_id and state != "dropped":
            return Regeneration(generation, embedder, identity, dimension, state)
        if state == "filling" and active:
            raise RegenerationRunning(
                f"job {job} makes the vectors of library {library.name!r} anew already; wait for "
                "its end, or cancel it",
                job_id=job,
            )
    made = Regeneration(
        top + 1, command.embedder, command.embedder_identity, command.dimension, "filling"
    )
    tx.db.execute(
        "INSERT INTO regenerations VALUES (?, ?, ?, ?, ?, ?, 'filling')",
        [
            library.number,
            made.generation,
            command.job_id,
            made.embedder,
            made.embedder_identity,
            made.dimension,
        ],
    )
    return made


def put_next_vectors(tx: Transaction, command: PutNextVectors) -> None:
    library = tx.library(command.number)
    _filling(tx, library, command.generation)
    matrix = np.ascontiguousarray(command.vectors, dtype=np.float32)
    values: list[tuple[Any, ...]] = [
        (row, command.generation, library.number, vector.data)
        for row, vector in zip(command.rows, matrix, strict=True)
    ]
    values += [(row, command.generation, library.number, None) for row in command.lacking]
    tx.db.executemany("INSERT OR REPLACE INTO next_vectors VALUES (?, ?, ?, ?)", values)


def switch_generation(tx: Transaction, command: SwitchGeneration) -> int:
    library = tx.library(command.number)
    embedder, identity, dimension = _filling(tx, library, command.generation)
    _refuse_alerts(tx, library)
    late = tx.db.execute(
        "SELECT row, document FROM chunks INDEXED BY chunks_library WHERE library = ? AND row > ? "
        "ORDER BY row LIMIT ?",
        [library.number, command.through_row, command.most + 1],
    ).fetchall()
    if len(late) > command.most:
        return len(late)
    lacking = (
        late
        + tx.db.execute(
            "SELECT c.row, c.document FROM next_vectors n CROSS JOIN chunks c WHERE n.library = ? "
            "AND n.generation = ? AND n.vector IS NULL AND c.row = n.row",
            [library.number, command.generation],
        ).fetchall()
    )
    _empty(tx, [row for row, _ in lacking])
    waiting = sorted({document for _, document in lacking})
    tx.db.execute("DELETE FROM pending WHERE library = ?", [library.number])
    tx.db.executemany(
        "INSERT INTO pending (document, library, since_us, attempts, due_us, code, detail, "
        "retryable) VALUES (?, ?, ?, 0, ?, 'library_regenerated', ?, 1)",
        [(row, library.number, tx.at_us, tx.at_us, _WAITS) for row in waiting],
    )
    new = msgspec.structs.replace(
        library,
        embedder=embedder,
        embedder_identity=identity,
        dimension=dimension,
        generation=command.generation,
        version=library.version + 1,
        updated_us=tx.at_us,
        position=tx.position + 1,
        pending=len(waiting),
    )
    tx.db.execute(
        "UPDATE libraries SET embedder = ?, embedder_identity = ?, dimension = ?, generation = ?, "
        "version = ?, updated_us = ?, position = ?, pending = ? WHERE number = ?",
        [
            embedder,
            identity,
            dimension,
            new.generation,
            new.version,
            tx.at_us,
            new.position,
            new.pending,
            library.number,
        ],
    )
    tx.db.execute(
        "UPDATE regenerations SET state = iif(generation = ?, 'valid', 'dropped') "
        "WHERE library = ?",
        [new.generation, library.number],
    )
    tx.forget_libraries()
    tx.change("library.regenerated", library.id, library.id, library_data(new))
    return 0


def settle_vectors(tx: Transaction, command: SettleVectors) -> bool:
    for library, generation, moves in tx.db.execute(
        "SELECT r.library, r.generation, r.state = 'valid' AND l.generation = r.generation "
        "AND l.deleted_us IS NULL FROM regenerations r LEFT JOIN libraries l "
        "ON l.number = r.library WHERE r.state <> 'filling' OR l.number IS NULL "
        "OR l.deleted_us IS NOT NULL OR NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = r.job "
        "AND j.status IN ('queued', 'running')) ORDER BY r.library, r.generation",
    ).fetchall():
        rows = tx.db.execute(
            "SELECT row FROM next_vectors WHERE library = ? AND generation = ? "
            "ORDER BY row LIMIT ?",
            [library, generation, command.limit],
        ).fetchall()
        if not rows:
            tx.db.execute(
                "DELETE FROM regenerations WHERE library = ? AND generation = ?",
                [library, generation],
            )
            continue
        span = [library, generation, rows[0][0], rows[-1][0]]
        where = "library = ? AND generation = ? AND row BETWEEN ? AND ?"
        if not moves:
            # First of all: its job may be tried again, and must not count on what goes now.
            tx.db.execute(
                "UPDATE regenerations SET state = 'dropped' WHERE library = ? AND generation = ?",
                [library, generation],
            )
        if moves:
            tx.db.execute(
                "UPDATE chunks SET vector = n.vector FROM (SELECT row AS next, vector FROM "
                f"next_vectors WHERE {where} AND vector IS NOT NULL) AS n "
                "WHERE chunks.row = n.next",
                span,
            )
        tx.db.execute(f"DELETE FROM next_vectors WHERE {where}", span)
        return True
    return False


def _filling(tx: Transaction, library: Library, generation: int) -> tuple[str, str, int]:
    """The model of a generation in the making. Raises `RegenerationRunning` when it is not."""
    found: tuple[str, str, int] | None = tx.db.execute(
        "SELECT embedder, embedder_identity, dimension FROM regenerations "
        "WHERE library = ? AND generation = ? AND state = 'filling'",
        [library.number, generation],
    ).fetchone()
    if found is None:
        raise RegenerationRunning(
            f"generation {generation} of library {library.name!r} is not in the making any more"
        )
    return found


def _refuse_alerts(tx: Transaction, library: Library) -> None:
    if tx.db.execute("SELECT 1 FROM alerts WHERE library = ?", [library.number]).fetchone():
        raise RegenerationRefused(
            f"library {library.name!r} has alerts, whose vectors the model that it has now has "
            "made; delete them, and make them again afterwards"
        )


def _empty(tx: Transaction, rows: Sequence[int]) -> None:
    for part in in_lists(rows):
        marks, values = listed(part)
        tx.db.execute(f"UPDATE chunks SET vector = NULL WHERE row IN ({marks})", values)
