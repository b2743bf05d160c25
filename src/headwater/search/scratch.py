"""Folders of one process in the system's temporary folder, that do not outlive it for long.

`KeywordIndex` has one where it may not keep files. A process that is killed takes nothing away;
the system forgets the locks it held, and the next process to start takes what nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "headwater-keyword-"
_LOCK = "lock"


class Scratch:
    """An empty folder, `path`, of this process until `close`."""

    def __init__(self) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            lock = _locked(self.path)
            if lock is not None:
                if (self.path / _LOCK).exists():
                    break
                os.close(lock)  # a sweep took the new folder for a dead process's
        self._lock: int | None = lock

    def close(self) -> None:
        """Take it away. May come twice."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def sweep() -> None:
    """Take away the folders of processes that are gone; what cannot be taken stays."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = _locked(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _locked(path: Path) -> int | None:
    """A lock on the folder; None when another process has it, or it is not there or not ours."""
    try:
        lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
