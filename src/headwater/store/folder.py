"""The data folder: made on first use, shared by processes, kept by one of them.

Several server processes may share a folder. The keeper alone writes index files and does the
upkeep; which one that is, and who is alive, the operating system knows by the locks they hold and
forgets with the process.
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
        self._processes = path / "processes"
        self._keeping: int | None = None
        self._living: int | None = None
        try:
            self._processes.mkdir(parents=True, exist_ok=True)
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

    @property
    def keeps(self) -> bool:
        """Whether this process is the folder's keeper."""
        return self._keeping is not None

    def claim(self) -> bool:
        """Become the folder's keeper, for as long as this process lives; False when it has one."""
        if self._keeping is None:
            self._keeping = _locked(self.path / "keeper.lock")
        return self.keeps

    def enter(self, name: str) -> None:
        """Be alive under `name`, until the process ends or `release`."""
        mark = self._processes / name
        while self._living is None:
            lock = _locked(mark)
            if lock is not None:
                if mark.exists():
                    self._living = lock
                else:  # another process took the new mark for a dead one's; it was faster
                    os.close(lock)

    def alive(self) -> set[str]:
        """The names of the processes that are alive here; the marks of others are removed."""
        names = set()
        for mark in self._processes.iterdir():
            lock = _locked(mark)
            if lock is None:
                names.add(mark.name)
            else:
                mark.unlink(missing_ok=True)
                os.close(lock)
        return names

    def release(self) -> None:
        for lock in (self._keeping, self._living):
            if lock is not None:
                os.close(lock)
        self._keeping = self._living = None


def _locked(path: Path) -> int | None:
    """The file, locked by this process; None when somebody else has it."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
