"""A queue of bytes that never blocks its writer for a slow reader: memory first, then a file.

The answer of an ingest stream and the pages of an export wait here while the client does not
read. Both bounds are settings; at the second one the writer waits.
"""

from __future__ import annotations

import tempfile
from collections import deque
from typing import IO

import anyio

from headwater.threads import Pool


class Spool:
    """One writer, one reader, both on the loop. Bytes come out in the order they went in."""

    def __init__(self, memory_bytes: int, file_bytes: int, pool: Pool) -> None:
        self._memory_bytes = memory_bytes
        self._file_bytes = file_bytes
        self._pool = pool
        self._memory: deque[bytes] = deque()
        self._held_bytes = 0
        self._file: IO[bytes] | None = None
        self._written = 0
        self._read = 0
        self._closed = False
        self._moved = anyio.Event()
        self._file_lock = anyio.Lock()

    @property
    def spilled(self) -> bool:
        """Whether bytes wait in the file."""
        return self._written > self._read

    async def put(self, piece: bytes) -> None:
        """Add a piece; waits only while the file is full."""
        if not self.spilled and self._held_bytes + len(piece) <= self._memory_bytes:
            self._memory.append(piece)
            self._held_bytes += len(piece)
            self._wake()
            return
        while self._written - self._read + len(piece) > self._file_bytes and self.spilled:
            await self._moved.wait()
        if self._file is None:
            self._file = await self._pool.call(tempfile.TemporaryFile)
        async with self._file_lock:
            await self._pool.call(self._write, self._file, piece)
        self._wake()

    def end(self) -> None:
        """No more pieces will come."""
        self._closed = True
        self._wake()

    async def get(self) -> bytes | None:
        """All that waits in memory, or the next stretch of the file; None after the end."""
        while True:
            if self._memory:
                piece = b"".join(self._memory)
                self._memory.clear()
                self._held_bytes = 0
                return piece
            if self.spilled and self._file is not None:
                async with self._file_lock:
                    piece = await self._pool.call(self._read_some, self._file)
                self._wake()
                return piece
            if self._closed:
                return None
            await self._moved.wait()

    def close(self) -> None:
        """Give the file back; what it held is lost."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _wake(self) -> None:
        moved, self._moved = self._moved, anyio.Event()
        moved.set()

    def _write(self, file: IO[bytes], piece: bytes) -> None:
        file.seek(self._written)
        file.write(piece)
        self._written += len(piece)

    def _read_some(self, file: IO[bytes]) -> bytes:
        file.seek(self._read)
        piece = file.read(min(self._memory_bytes, self._written - self._read))
        self._read += len(piece)
        if self._read == self._written:
            # Everything was read: begin the file anew, so that it grows only with what waits.
            file.seek(0)
            file.truncate()
            self._read = self._written = 0
        return piece
