"""Frames of zstd (RFC 8878) as a file that is read.

The library's own reader takes a file that was cut off for a whole one: an import of it would end
without its last documents, and nobody would know.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import zstandard

_WINDOW_BYTES = 8 << 20
_READ_BYTES = 64 << 10
_STEP_BYTES = 128
"""Four bytes can stand for a block of 128 KiB (section 3.1.1.2), and the library has no bound of
its own: a step gives 4 MiB at most."""


class ZstdFile(io.RawIOBase):
    """What `file` expands to. Raises `EOFError` where it was cut off, and `ZstdError`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self._frame: Any = None
        self._input = memoryview(b"")
        self._made = memoryview(b"")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Backwards is from the beginning again; behind the end is the end."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end is not known")
        if whence == io.SEEK_CUR:
            offset += self._at
        if offset < self._at:
            self._file.seek(0)
            self._begin()
        passed = memoryview(bytearray(_READ_BYTES))
        while self._at < offset and self.readinto(passed[: offset - self._at]):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        while not self._made:
            if not self._input and not (piece := self._file.read(_READ_BYTES)):
                if self._frame is not None:
                    raise EOFError("the zstd data ends too early")
                return 0
            if not self._input:
                self._input = memoryview(piece)
            self._step()
        count = min(len(buffer), len(self._made))
        buffer[:count] = self._made[:count]
        self._made = self._made[count:]
        self._at += count
        return count

    def _step(self) -> None:
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        step = self._input[:_STEP_BYTES]
        self._made = memoryview(self._frame.decompress(step))
        used = len(step)
        if self._frame.eof:  # another one may follow
            used -= len(self._frame.unused_data)
            self._frame = None
        self._input = self._input[used:]
