"""Files that are sent with a job: kept on disk in its folder before the job is there.

A body that breaks off leaves nothing. It must never be held in memory, however large it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import anyio

from headwater.errors import BodyTooLarge
from headwater.service.job_types.files import told
from headwater.threads import Pool

_WRITE_BYTES = 1 << 20


class Uploads:
    """Loop only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pool = Pool("uploads", 2)

    async def keep(self, body: AsyncIterator[bytes], folder: Path, name: str) -> int:
        """Write the body to a file in a new folder, durably; its size in bytes.

        Raises `BodyTooLarge`, `DiskFull`, `JobFailed`, and what `body` raises; then the folder is
        gone.
        """
        try:
            with told():
                file = await self._pool.call(_create, folder, name)
            with file:
                return await self._fill(body, file)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.remove(folder)
            raise

    async def remove(self, folder: Path) -> None:
        """Take away what was kept for a job that will not be."""
        await self._pool.call(_remove, folder)

    async def _fill(self, body: AsyncIterator[bytes], file: IO[bytes]) -> int:
        size_bytes = 0
        held: list[bytes] = []
        held_bytes = 0
        async for piece in body:
            size_bytes += len(piece)
            if size_bytes > self._limit_bytes:
                raise BodyTooLarge(
                    f"the file is larger than {self._limit_bytes} bytes; send it in parts, or "
                    "raise `transfer.upload_bytes`",
                    limit_bytes=self._limit_bytes,
                )
            held.append(piece)
            held_bytes += len(piece)
            if held_bytes >= _WRITE_BYTES:
                with told():
                    await self._pool.call(_write, file, b"".join(held))
                held.clear()
                held_bytes = 0
        with told():
            await self._pool.call(_finish, file, b"".join(held))
        return size_bytes


def _create(folder: Path, name: str) -> IO[bytes]:
    folder.mkdir(parents=True)
    return (folder / name).open("wb", buffering=0)


def _write(file: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:  # a disk that is nearly full takes a part, and refuses the rest
        left = left[file.write(left) :]


def _finish(file: IO[bytes], rest: bytes) -> None:
    _write(file, rest)
    os.fsync(file.fileno())


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
