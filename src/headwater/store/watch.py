"""Hearing of other processes' commits: a cheap look at `PRAGMA data_version`.

Run by the store's ticker in its thread, on a connection of its own. It only ever says that the
log has grown; what it says is a hint and never the source of anything.
"""

from __future__ import annotations

import sqlite3

import structlog

from headwater.model import Position
from headwater.store.writer import Writer

log = structlog.get_logger(__name__)


class Watch:
    def __init__(self, db: sqlite3.Connection, writer: Writer) -> None:
        self._db = db
        self._writer = writer
        self._seen = 0
        self._told: Position = writer.head

    def look(self) -> Position | None:
        """The log's head when somebody else has moved it since the last look, else None."""
        try:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            if version == self._seen:
                return None
            committing = self._writer.committing
            (head,) = self._db.execute("SELECT max(position) FROM changes").fetchone()
        except sqlite3.OperationalError as error:
            log.warning("store.watch_failed", error=str(error))
            return None
        if head is None or head <= max(self._told, self._writer.head):
            self._seen = version
            return None
        if head == committing:
            # Our own commit, durable but not yet accounted for, or another's in its place after
            # ours failed: the next look knows.
            return None
        self._seen = version
        self._told = int(head)
        return self._told
