"""Connections to the database file, and the one place where the driver's errors are translated.

Every connection is in the driver's autocommit mode: transactions are begun and ended by plain
statements, so that what is open is always visible in the code.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from headwater.errors import ShuttingDown, StoreFailed
from headwater.settings import StoreSettings

T = TypeVar("T")

# A statement may hold 32,766 variables (SQLITE_MAX_VARIABLE_NUMBER since 3.32). Powers of two: any
# number of rows takes few statements.
_BLOCKS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
_LISTS = (1, 8, 64, 512, 4096, 16384)

LONGEST_LIST = _LISTS[-1]


_MAPPED_BYTES = 1 << 30


def connect(path: Path, settings: StoreSettings, *, writer: bool = False) -> sqlite3.Connection:
    """A connection to an existing, migrated database.

    Readers get an eighth of the page cache each: they share the operating system's.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    cache_kib = settings.cache_bytes // 1024
    db.execute(f"PRAGMA busy_timeout = {settings.busy_timeout_ms}")
    db.execute(f"PRAGMA cache_size = -{cache_kib if writer else max(cache_kib // 8, 1024)}")
    db.execute("PRAGMA temp_store = MEMORY")
    if writer:
        db.execute(f"PRAGMA synchronous = {settings.durability.upper()}")
        # 16 MiB between checkpoints: each costs the commit that meets it two syncs.
        db.execute("PRAGMA wal_autocheckpoint = 4096")
        db.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    else:
        db.execute("PRAGMA query_only = ON")
    return db


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into `StoreFailed`."""
    try:
        yield
    except sqlite3.Error as error:
        raise failed(error) from error


_AT_FAULT = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
)
"""What a statement asks for is wrong, however often it is tried."""


def failed(error: sqlite3.Error) -> StoreFailed:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if isinstance(error, _AT_FAULT):
        return StoreFailed(
            f"the database refused ({name}: {error}); see the log, and report it", retryable=False
        )
    return StoreFailed(f"the database refused ({name}: {error}); retry, and check disk and log")


class Connections:
    """Reading connections, opened when needed and kept; safe from any thread."""

    def __init__(self, open_one: Callable[[], sqlite3.Connection]) -> None:
        self._open_one = open_one
        self._idle: deque[sqlite3.Connection] = deque()
        self._kept: list[Kept] = []
        self._closed = False

    def take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            with translated():
                return self._open_one()

    def give_back(self, db: sqlite3.Connection) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if self._closed:
            db.close()
        else:
            self._idle.append(db)

    def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` in a read transaction of its own."""
        db = self.take()
        try:
            return run_in(db, query)
        finally:
            self.give_back(db)

    def keep(self) -> Kept:
        kept = Kept(self._open_mapped)
        self._kept.append(kept)
        return kept

    def _open_mapped(self) -> sqlite3.Connection:
        """For a lane that reads single rows all over the file.

        The pages come from the operating system's cache without a copy: ten passages of 100,000
        cost 77 µs and not 175. They are its memory, given back when it is needed elsewhere.
        """
        db = self._open_one()
        db.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
        return db

    def open(self) -> None:
        self._closed = False

    def close(self) -> None:
        """Close what is idle and kept now, and what is in use as it comes back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        for kept in self._kept:
            kept.close()
        self._kept.clear()


class Kept:
    """One connection for one thread, opened at its first query."""

    def __init__(self, open_one: Callable[[], sqlite3.Connection]) -> None:
        self._open_one = open_one
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._lock = threading.Lock()  # only ever contended by `close`

    def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._closed:
                raise ShuttingDown("the store is closed; connect again in a moment")
            if self._db is None:
                with translated():
                    self._db = self._open_one()
            return run_in(self._db, query)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._db is not None:
                self._db.close()


def run_in(db: sqlite3.Connection, query: Callable[[sqlite3.Connection], T]) -> T:
    """Run `query` in a read transaction on `db`, which is left without one."""
    with translated():
        db.execute("BEGIN")
        try:
            return query(db)
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


class Rows:
    """Many rows in few statements.

    The driver lets go of the GIL at every step of a statement and queues for it again; with a busy
    loop in the same process a row per statement is several times slower than 512.
    """

    def __init__(self, table: str, columns: Sequence[str], tail: str = "") -> None:
        self._width = len(columns)
        one = "(" + ",".join("?" * self._width) + ")"
        start = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
        self._statements = [(n, f"{start}{','.join([one] * n)} {tail}") for n in _BLOCKS]

    def insert(self, db: sqlite3.Connection, values: list[Any]) -> None:
        """`values` holds the rows end to end."""
        at, rows = 0, len(values) // self._width
        for count, statement in self._statements:
            while rows >= count:
                db.execute(statement, values[at : at + count * self._width])
                at += count * self._width
                rows -= count


def listed(values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Marks and values for `IN (…)`, padded to few lengths so that statements stay prepared.

    At most `LONGEST_LIST` values, at least one.
    """
    length = next(n for n in _LISTS if n >= len(values))
    return ",".join("?" * length), [*values, *[values[0]] * (length - len(values))]


def in_lists(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """`values` in pieces that fit one list."""
    for at in range(0, len(values), LONGEST_LIST):
        yield values[at : at + LONGEST_LIST]
