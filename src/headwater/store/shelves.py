"""Creating, changing, deleting and sweeping libraries."""

from __future__ import annotations

import msgspec
from sqlalchemy import bindparam, insert, null, select, update

from headwater.errors import LibraryExists
from headwater.model import Library, Position, Span
from headwater.store import schema
from headwater.store.alert_writes import sweep_alerts
from headwater.store.base import UNSET
from headwater.store.library_commands import (
    CreateLibrary,
    DeleteLibrary,
    SweepLibraries,
    UpdateLibrary,
)
from headwater.store.puts import remove_chunks
from headwater.store.records import canonical, library_data
from headwater.store.schedule_writes import drop_schedules
from headwater.store.session_writes import hide_sessions, sweep_sessions
from headwater.store.transaction import Transaction

SWEEP_SESSIONS = 10
"""Each may have a thousand notes."""

_table = schema.libraries.c

_INSERT = schema.compiled(
    insert(schema.libraries).values(
        {
            column.name: bindparam(column.name)
            for column in schema.libraries.columns
            if column.name not in ("number", "deleted_us")
        }
    )
)
_UPDATE = schema.compiled(
    update(schema.libraries)
    .where(_table.number == bindparam("number"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "name",
                "description",
                "metadata",
                "chunk_size",
                "chunk_overlap",
                "version",
                "updated_us",
                "position",
            )
        }
    )
)
_NAMED = schema.compiled(select(_table.number).where(_table.name == bindparam("name")))
_MARK_DELETED = schema.compiled(
    update(schema.libraries)
    .where(_table.number == bindparam("library"))
    .values(name=null(), deleted_us=bindparam("at_us"))
)
_DELETED = schema.compiled(
    select(_table.number).where(_table.deleted_us.is_not(None)).order_by(_table.number)
)


def create_library(tx: Transaction, command: CreateLibrary) -> Library:
    _require_free(tx, command.name)
    library = Library(
        number=0,
        id=command.id,
        name=command.name,
        description=command.description,
        embedder=command.embedder,
        embedder_identity=command.embedder_identity,
        dimension=command.dimension,
        metric=command.metric,
        chunk_size=command.chunk_size,
        chunk_overlap=command.chunk_overlap,
        metadata=command.metadata,
        language=command.language,
        quantization=command.quantization,
        version=1,
        documents=0,
        chunks=0,
        created_us=tx.at_us,
        updated_us=tx.at_us,
        position=tx.position + 1,
        pending=0,
    )
    row = msgspec.structs.asdict(library) | {"metadata": canonical(command.metadata)}
    del row["number"]
    number = tx.db.execute(_INSERT, row).lastrowid
    assert number is not None
    library = msgspec.structs.replace(library, number=number)
    tx.change("library.created", library.id, library.id, library_data(library))
    return library


def update_library(tx: Transaction, command: UpdateLibrary) -> Library:
    old = tx.library(command.number)
    given = {
        name: value
        for name in ("name", "description", "metadata", "chunk_size", "chunk_overlap")
        if (value := getattr(command, name)) is not UNSET
    }
    new = msgspec.structs.replace(old, **given)
    if new == old:
        return old
    if new.name != old.name:
        _require_free(tx, new.name)
    new = msgspec.structs.replace(
        new, version=old.version + 1, updated_us=tx.at_us, position=tx.position + 1
    )
    tx.db.execute(
        _UPDATE,
        {
            "number": new.number,
            "new_name": new.name,
            "new_description": new.description,
            "new_metadata": canonical(new.metadata),
            "new_chunk_size": new.chunk_size,
            "new_chunk_overlap": new.chunk_overlap,
            "new_version": new.version,
            "new_updated_us": new.updated_us,
            "new_position": new.position,
        },
    )
    tx.forget_libraries()
    tx.change("library.updated", new.id, new.id, library_data(new))
    return new


def delete_library(tx: Transaction, command: DeleteLibrary) -> Position:
    library = tx.library(command.number)
    tx.db.execute(_MARK_DELETED, {"library": library.number, "at_us": tx.at_us})
    hide_sessions(tx, library.number)
    drop_schedules(tx, library.id)
    tx.forget_libraries()
    data = library_data(library, counts=True)
    return tx.change("library.deleted", library.id, library.id, data)


def sweep_libraries(tx: Transaction, command: SweepLibraries) -> bool:
    deleted = tx.db.execute(_DELETED).fetchmany(2)
    if not deleted:
        return False
    (library,) = deleted[0]
    if sweep_sessions(tx, library, SWEEP_SESSIONS):
        return True
    if sweep_alerts(tx, library, command.limit):
        return True
    rows = tx.db.execute(
        "SELECT row, first_chunk, num_chunks FROM documents WHERE library = ? ORDER BY row LIMIT ?",
        [library, command.limit],
    ).fetchall()
    if rows:
        remove_chunks(tx, [Span(first, count) for _, first, count in rows])
        through = [library, rows[-1][0]]
        tx.db.execute("DELETE FROM documents WHERE library = ? AND row <= ?", through)
        tx.db.execute("DELETE FROM pending WHERE library = ? AND document <= ?", through)
    if len(rows) == command.limit:
        return True
    tx.db.execute("DELETE FROM libraries WHERE number = ?", [library])
    return len(deleted) > 1


def _require_free(tx: Transaction, name: str) -> None:
    if tx.db.execute(_NAMED, {"name": name}).fetchone():
        raise LibraryExists(
            f"there is a library named {name!r} already; use it, or choose another name",
            name=name,
        )
