"""The data folder: made on first use, and claimed by one process as its keeper.

Several server processes may share a folder. The keeper alone writes index files and does the
upkeep; which one that is, the operating system decides and forgets with the process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from headwater.errors import Refused


class DataFolder:
    """`path` exists after this. Raises `Refused` when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"the data folder {path} cannot be made: {error.strerror}; "
                "choose another with --data"
            ) from error
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise Refused(
                f"the data folder {path} cannot be written; change its permissions, "
                "or choose another with --data"
            )

    def claim(self) -> bool:
        """Become the folder's keeper, for as long as this process lives; False when it has one."""
        if self._lock is None:
            lock = os.open(self.path / "keeper.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
