"""Creating, changing and deleting alerts; telling what they match."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from headwater.errors import AlertNotFound, DimensionMismatch, TooManyAlerts
from headwater.model import Alert, Library, Position, Vectors
from headwater.store import schema
from headwater.store.alert_commands import (
    UNSET,
    CreateAlert,
    DeleteAlert,
    Match,
    Place,
    TellMatches,
    UpdateAlert,
)
from headwater.store.alert_rows import alert_data, alert_named, alerts_by_row, place_of
from headwater.store.connection import Rows
from headwater.store.records import encode
from headwater.store.transaction import Transaction

_COLUMNS = schema.alerts.columns.keys()
_ALERTS = Rows("alerts", _COLUMNS)
_CHANGED = (
    "UPDATE alerts SET "
    + ", ".join(f"{name} = :{name}" for name in _COLUMNS if name not in ("row", "library", "id"))
    + " WHERE row = :row"
)


def create_alert(tx: Transaction, command: CreateAlert) -> Alert:
    library = tx.library(command.number)
    _fits(library, command.vector)
    count = _count(tx, library.number)
    if count >= command.most:
        raise TooManyAlerts(
            f"library {library.name!r} has {count} alerts, the limit is {command.most}; delete "
            "some, or raise `live.max_alerts`",
            limit=command.most,
        )
    _begin(tx)
    (last,) = tx.db.execute(
        "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'alerts'"
    ).fetchone()
    alert = Alert(
        last + 1,
        command.id,
        library.number,
        library.id,
        command.name,
        command.query,
        np.ascontiguousarray(command.vector, np.float32),
        command.score_threshold,
        command.filter,
        command.metadata,
        1,
        tx.at_us,
        tx.at_us,
        tx.position + 1,
    )
    _ALERTS.insert(tx.db, list(_row(alert).values()))
    _count_on(tx, library.number, 1)
    tx.change("alert.created", library.id, alert.id, alert_data(alert))
    return alert


def update_alert(tx: Transaction, command: UpdateAlert) -> Alert:
    old = _existing(tx, command.number, command.id)
    given = {
        name: value
        for name in ("name", "query", "vector", "score_threshold", "filter", "metadata")
        if (value := getattr(command, name)) is not UNSET
    }
    if "vector" in given:
        _fits(tx.library(command.number), given["vector"])
        given["vector"] = np.ascontiguousarray(given["vector"], np.float32)
        if given["vector"].tobytes() == old.vector.tobytes():
            del given["vector"]
    if all(getattr(old, name) == value for name, value in given.items() if name != "vector") and (
        "vector" not in given
    ):
        return old
    new = msgspec.structs.replace(
        old,
        **given,
        version=old.version + 1,
        updated_us=tx.at_us,
        position=tx.position + 1,
    )
    tx.db.execute(_CHANGED, _row(new))
    tx.change("alert.updated", new.library_id, new.id, alert_data(new))
    return new


def delete_alert(tx: Transaction, command: DeleteAlert) -> Position:
    alert = _existing(tx, command.number, command.id)
    tx.db.execute("DELETE FROM alerts WHERE row = ?", [alert.row])
    _count_on(tx, alert.library, -1)
    return tx.change("alert.deleted", alert.library_id, alert.id, alert_data(alert))


def tell_matches(tx: Transaction, command: TellMatches) -> int:
    saved = place_of(tx.db)
    if saved is not None and command.place <= saved:
        return 0
    alerts = alerts_by_row(tx.db, {match.alert for match in command.matches})
    told = 0
    for match in command.matches:
        alert = alerts.get(match.alert)
        if alert is None or (saved is not None and _place(match) <= saved):
            continue
        tx.change("alert.matched", alert.library_id, alert.id, _matched(alert, match))
        told += 1
    _save(tx, command.place)
    return told


def sweep_alerts(tx: Transaction, library: int, limit: int) -> int:
    """Take away at most `limit` of a deleted library's alerts; how many that were."""
    tx.db.execute("DELETE FROM meta WHERE key = ?", [_counter(library)])
    return tx.db.execute(
        "DELETE FROM alerts WHERE row IN (SELECT row FROM alerts WHERE library = ? LIMIT ?)",
        [library, limit],
    ).rowcount


def _counter(library: int) -> str:
    """Counting a hundred thousand rows for each new one would take longer than all the rest."""
    return f"alerts.{library}"


def _count(tx: Transaction, library: int) -> int:
    row = tx.db.execute("SELECT value FROM meta WHERE key = ?", [_counter(library)]).fetchone()
    return 0 if row is None else int(row[0])


def _count_on(tx: Transaction, library: int, by: int) -> None:
    _set(tx, _counter(library), str(_count(tx, library) + by))


def _fits(library: Library, vector: Vectors) -> None:
    if len(vector) != library.dimension:
        raise DimensionMismatch(
            f"library {library.name!r} takes vectors of {library.dimension} numbers, this alert's "
            f"has {len(vector)}",
            expected=library.dimension,
            given=len(vector),
        )


def _begin(tx: Transaction) -> None:
    """When there are no alerts, nobody is behind: the matching begins here."""
    if tx.db.execute("SELECT 1 FROM alerts LIMIT 1").fetchone() is None:
        saved, here = place_of(tx.db), Place(tx.position)
        if saved is None or saved < here:
            _save(tx, here)


def _save(tx: Transaction, place: Place) -> None:
    _set(tx, "alerts", f"{place.position}.{place.row}")


def _set(tx: Transaction, key: str, value: str) -> None:
    tx.db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [key, value],
    )


def _place(match: Match) -> Place:
    """Where the matching is once this is told."""
    return Place(match.position - 1, match.alert)


def _matched(alert: Alert, match: Match) -> bytes:
    return encode(
        {
            "alert_id": alert.id,
            "name": alert.name,
            "document_id": match.document_id,
            "chunk_id": match.chunk_id,
            "title": match.title,
            "score": match.score,
            "version": match.version,
            "metadata": msgspec.Raw(alert.metadata),
        }
    )


def _existing(tx: Transaction, number: int, id: str) -> Alert:
    library: Library = tx.library(number)
    alert = alert_named(tx.db, number, id)
    if alert is None:
        raise AlertNotFound(
            f"library {library.name!r} has no alert {id[:80]!r}; list its alerts", id=id
        )
    return alert


def _row(alert: Alert) -> dict[str, Any]:
    """In the order of the table."""
    return {
        "row": alert.row,
        "library": alert.library,
        "id": alert.id,
        "name": alert.name,
        "query": alert.query,
        "score_threshold": alert.score_threshold,
        "filter": alert.filter,
        "metadata": alert.metadata,
        "version": alert.version,
        "created_us": alert.created_us,
        "updated_us": alert.updated_us,
        "position": alert.position,
        "vector": alert.vector.tobytes(),
    }
