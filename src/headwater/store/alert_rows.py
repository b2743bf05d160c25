"""Reading alerts: rows to values, and what of an alert is told in the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

import msgspec
import numpy as np

from headwater.model import Alert
from headwater.store.alert_commands import Place
from headwater.store.connection import in_lists, listed
from headwater.store.records import encode

_SELECT = (
    "SELECT a.row, a.id, a.library, l.id, a.name, a.query, a.vector, a.score_threshold, a.filter, "
    "a.metadata, a.version, a.created_us, a.updated_us, a.position "
    "FROM alerts a CROSS JOIN libraries l WHERE l.number = a.library AND l.deleted_us IS NULL "
)


def alert_named(db: sqlite3.Connection, library: int, id: str) -> Alert | None:
    found = db.execute(f"{_SELECT} AND a.library = ? AND a.id = ?", [library, id]).fetchone()
    return None if found is None else alert_of(found)


def alerts_after(
    db: sqlite3.Connection, after: int, limit: int, library: int | None
) -> list[Alert]:
    where, values = "AND a.row > ? ", [after]
    if library is not None:
        where += "AND a.library = ? "
        values.append(library)
    rows = db.execute(f"{_SELECT} {where} ORDER BY a.row LIMIT ?", [*values, limit]).fetchall()
    return [alert_of(row) for row in rows]


def alerts_by_id(db: sqlite3.Connection, ids: Collection[str]) -> dict[str, Alert]:
    found: dict[str, Alert] = {}
    for part in in_lists(list(ids)):
        marks, values = listed(part)
        for row in db.execute(f"{_SELECT} AND a.id IN ({marks})", values).fetchall():
            found[row[1]] = alert_of(row)
    return found


def alerts_by_row(db: sqlite3.Connection, rows: Collection[int]) -> dict[int, Alert]:
    found: dict[int, Alert] = {}
    for part in in_lists(list(rows)):
        marks, values = listed(part)
        for row in db.execute(f"{_SELECT} AND a.row IN ({marks})", values).fetchall():
            found[row[0]] = alert_of(row)
    return found


def place_of(db: sqlite3.Connection) -> Place | None:
    """How far the matching is; None when there was never an alert."""
    found = db.execute("SELECT value FROM meta WHERE key = 'alerts'").fetchone()
    if found is None:
        return None
    position, _, row = found[0].partition(".")
    return Place(int(position), int(row))


def alert_of(row: tuple[Any, ...]) -> Alert:
    """From the columns of `_SELECT`."""
    values = list(row)
    values[6] = np.frombuffer(values[6], np.float32)
    return Alert(*values)


def alert_data(alert: Alert) -> bytes:
    """What `alert.created`, `.updated` and `.deleted` carry."""
    return encode(
        {
            "alert_id": alert.id,
            "name": alert.name,
            "query": alert.query,
            "score_threshold": alert.score_threshold,
            "filter": None if alert.filter is None else msgspec.Raw(alert.filter),
            "version": alert.version,
            "metadata": msgspec.Raw(alert.metadata),
        }
    )
