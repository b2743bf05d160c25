"""Whose turn it is to write, among the processes that share a database file.

SQLite lets a writer that finds the file locked look again after a pause that grows to 100 ms: one
that writes without a break, such as an import, leaves it a gap of some microseconds to hit. Here
who waits is next. It is about fairness alone: the file's own lock keeps writes apart, and where a
turn does not come, a write goes on without one and hears from SQLite what is wrong.
"""

from __future__ import annotations

import fcntl
import os
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType

_LOOK_EVERY_S = 0.0005


class Turns:
    """`with turns:` is a turn. For one thread; the operating system ends a dead process's turn.

    Two locks: whoever wants a turn waits for it as the one who is next, so that who has just had
    one queues behind. They are flock(2)'s, of this object alone, and polled, to be bounded.
    """

    def __init__(self, folder: Path, patience: timedelta) -> None:
        """Raises OSError."""
        self._patience_s = patience.total_seconds()
        self._next = os.open(folder / "next.lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._turn = os.open(folder / "turn.lock", os.O_RDWR | os.O_CREAT, 0o644)

    def __enter__(self) -> None:
        deadline_s = time.monotonic() + self._patience_s
        try:
            _take(self._next, deadline_s)
            _take(self._turn, deadline_s)
        finally:
            _give(self._next)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _give(self._turn)

    def close(self) -> None:
        os.close(self._next)
        os.close(self._turn)


def _take(lock: int, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return
            time.sleep(_LOOK_EVERY_S)  # the pause of a poll
        except OSError:
            return  # a file system without locks
        else:
            return


def _give(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_UN)
    except OSError:
        return  # as above
