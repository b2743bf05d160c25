"""Files in a job's folder: what goes wrong with them, and lines that are kept exactly once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.errors import DiskFull, HeadwaterError, JobFailed


@contextmanager
def told() -> Iterator[None]:
    """Raise what the system says of a file as an error of ours; both can be tried again."""
    try:
        yield
    except OSError as error:
        raise of_system(error) from error


def of_system(error: OSError) -> HeadwaterError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("there is no room left for the job's file; make some, and try again")
    return JobFailed(f"a file of the job cannot be used: {error.strerror or error}", retryable=True)


class Ledger:
    """Lines appended to a file, of which the first `size_bytes` count.

    Whoever appends keeps the new size together with what the lines are about; what is behind that
    size was written by an attempt that was cut off, and is taken away. Blocking: for a thread.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self.size_bytes = size_bytes

    def append(self, lines: bytes) -> None:
        """Durable on return. Raises `DiskFull`, `JobFailed`."""
        with told(), open(self._path, "r+b" if self.size_bytes else "wb") as file:
            file.truncate(self.size_bytes)
            file.seek(self.size_bytes)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
            self.size_bytes += len(lines)
