"""Bringing a database file to the newest schema, or refusing it with a reason.

Called once by each process that opens the store, before any other connection. Alembic is only
imported when there is something to migrate: importing it takes longer than opening the store.
Everything happens in one exclusive transaction, so that two processes may open at once.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from headwater.clock import Clock
from headwater.errors import Refused
from headwater.settings import StoreSettings

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every schema version this program knows, oldest first."""

_SCRIPTS = Path(__file__).parent / "migrations"

# Alembic keeps the running environment in module globals.
_alembic = threading.Lock()


def prepare(path: Path, settings: StoreSettings, clock: Clock) -> str:
    """Make or migrate the database at `path`; return its log id. Raises `Refused`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error
    try:
        db.execute(f"PRAGMA busy_timeout = {settings.busy_timeout_ms}")
        if _version(db, path) != REVISIONS[-1]:
            _upgrade(db, path)
        _use_wal(db, settings.busy_timeout_ms / 1000)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('log_id', ?)", [new_log_id(clock)])
        db.execute("INSERT OR IGNORE INTO meta VALUES ('trimmed', '0')")
        (log_id,) = db.execute("SELECT value FROM meta WHERE key = 'log_id'").fetchone()
        db.execute("COMMIT")
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        db.close()
    return str(log_id)


def new_log_id(clock: Clock) -> str:
    """Twelve random characters 0–9a–f: the last group of a UUIDv7 is all random."""
    return clock.uuid7()[-12:]


def _version(db: sqlite3.Connection, path: Path) -> str | None:
    """The schema version; None in an empty file. Raises `Refused` for what is not ours to read."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if not tables:
        return None
    versions = (
        [version for (version,) in db.execute("SELECT version_num FROM alembic_version")]
        if {"alembic_version", "changes"} <= tables
        else []
    )
    if len(versions) != 1:
        raise Refused(f"{path} is another program's database; choose another data folder")
    if versions[0] not in REVISIONS:
        raise Refused(
            f"{path} has schema {versions[0]}, made by a newer Headwater; this one knows "
            f"{REVISIONS[-1]}. Upgrade Headwater, or choose another data folder"
        )
    return str(versions[0])


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Run what migrations are missing, in one transaction."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    engine = create_engine(
        "sqlite://", creator=lambda: db, poolclass=StaticPool, isolation_level="AUTOCOMMIT"
    )
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    # Entering and leaving the block roll back what is open. Begun through SQLAlchemy, so that
    # Alembic sees a transaction that is not its own and leaves its end to us.
    with engine.connect() as connection, _alembic:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        if _version(db, path) != REVISIONS[-1]:  # another process may have been quicker
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        db.execute("COMMIT")


def _use_wal(db: sqlite3.Connection, patience_s: float) -> None:
    # Changing the journal mode does not wait for a lock as other statements do.
    give_up = time.monotonic() + patience_s
    while True:
        try:
            if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        if time.monotonic() > give_up:
            raise sqlite3.OperationalError("this file system cannot hold a database in WAL mode")
        time.sleep(0.01)


def _unusable(path: Path, error: Exception) -> Refused:
    return Refused(
        f"cannot use {path} as the database ({error}); check that the folder is writable, on a "
        "local disk, and that the file is a Headwater database, or choose another data folder"
    )
