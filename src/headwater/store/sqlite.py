"""The embedded store: one SQLite file, one writing thread, a few reading ones.

`app.py` builds it and everything above knows it as `base.Store`. Several processes may open one
file; positions come from the file's own transactions. Nothing here touches the loop but through
`threads`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import structlog

from headwater.clock import Clock
from headwater.errors import ShuttingDown
from headwater.model import Position
from headwater.settings import StoreSettings
from headwater.store.base import (
    Command,
    OnCommit,
    OnForeign,
    Reader,
    Snapshot,
    Store,
)
from headwater.store.connection import Connections, connect, translated
from headwater.store.migrate import prepare
from headwater.store.reader import SqliteReader
from headwater.store.turns import Turns
from headwater.store.upkeep import RenewIdentity
from headwater.store.watch import Watch
from headwater.store.writer import Writer
from headwater.threads import Lane, Loop, Pool, Ticker

T = TypeVar("T")

log = structlog.get_logger(__name__)

FILE_NAME = "headwater.db"


class SqliteStore(Store):
    """A store in `folder`, which is made when it is missing.

    `run` raises `Refused` when the folder or file cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        clock: Clock,
        *,
        on_commit: OnCommit,
        on_foreign: OnForeign,
    ) -> None:
        self.path = folder / FILE_NAME
        self._settings = settings
        self._clock = clock
        self._on_commit = on_commit
        self._on_foreign = on_foreign
        self._pool = Pool("store-readers", settings.readers)
        self._connections = Connections(lambda: connect(self.path, settings))
        self._lane: Lane[Any, Any] | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        loop = Loop()
        writing, watching, turns = await self._pool.call(self._open)
        try:
            head = SqliteReader(writing).head()
            writer = Writer(
                writing,
                self._clock,
                head,
                turns,
                on_commit=lambda committed: loop.post(self._on_commit, committed),
                on_foreign=lambda position: loop.post(self._on_foreign, position),
            )
            self._lane = Lane("store-writer", writer)
            ticker = Ticker(
                "store-watch",
                Watch(watching, writer).look,
                self._on_foreign,
                every_ms=self._settings.poll_ms,
            )
            async with anyio.create_task_group() as group:
                await group.start(self._lane.run)
                await group.start(ticker.run)
                log.info("store.open", path=str(self.path), log_id=self.log_id, head=head)
                task_status.started()
        finally:
            self._lane = None
            with anyio.CancelScope(shield=True):
                await self._pool.call(self._close, writing, watching, turns)

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection, Turns]:
        self.log_id = prepare(self.path, self._settings, self._clock)
        self._connections.open()
        with translated():
            writing = connect(self.path, self._settings, writer=True)
            watching = connect(self.path, self._settings)
        patience = timedelta(milliseconds=self._settings.busy_timeout_ms)
        return writing, watching, Turns(self.path.parent, patience)

    def _close(
        self, writing: sqlite3.Connection, watching: sqlite3.Connection, turns: Turns
    ) -> None:
        self._connections.close()
        turns.close()
        watching.close()
        try:
            writing.execute("PRAGMA busy_timeout = 100")
            writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            log.warning("store.checkpoint_failed", error=str(error))
        finally:
            writing.close()

    async def write(self, command: Command) -> Any:
        return await self._submit(command)

    async def _submit(self, command: Any) -> Any:
        if self._lane is None:
            raise ShuttingDown("the store is not open; connect again in a moment")
        return await self._lane.submit(command)

    async def read(self, query: Callable[[Reader], T]) -> T:
        self._require_open()
        return await self._pool.call(self._connections.run, lambda db: query(SqliteReader(db)))

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        self._require_open()
        return _Held(self._connections, self._pool)

    def open_reader(self) -> Callable[[Callable[[Reader], T]], T]:
        kept = self._connections.keep()
        return lambda query: kept.run(lambda db: query(SqliteReader(db)))

    async def restore_identity(self) -> str:
        self.log_id = await self._submit(RenewIdentity())
        return self.log_id

    def _require_open(self) -> None:
        if self._lane is None:
            raise ShuttingDown("the store is not open; connect again in a moment")


class SqliteSnapshot(Snapshot):
    def __init__(self, db: sqlite3.Connection, pool: Pool, position: Position) -> None:
        self.position = position
        self._db = db
        self._pool = pool

    async def read(self, query: Callable[[Reader], T]) -> T:
        return await self._pool.call(self._read, query)

    def _read(self, query: Callable[[Reader], T]) -> T:
        with translated():
            return query(SqliteReader(self._db))


class _Held(AbstractAsyncContextManager[Snapshot]):
    """Holds a connection with an open read transaction while the block runs."""

    def __init__(self, connections: Connections, pool: Pool) -> None:
        self._connections = connections
        self._pool = pool
        self._db: sqlite3.Connection | None = None

    async def __aenter__(self) -> Snapshot:
        try:
            position = await self._pool.call(self._begin)
        except BaseException:  # cancelled while the thread was at it: nobody will exit
            await self._end()
            raise
        assert self._db is not None
        return SqliteSnapshot(self._db, self._pool, position)

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    def _begin(self) -> Position:
        self._db = db = self._connections.take()
        with translated():
            db.execute("BEGIN")
            return SqliteReader(db).head()  # the first read is what fixes the point of history

    async def _end(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with anyio.CancelScope(shield=True):
                await self._pool.call(self._connections.give_back, db)
