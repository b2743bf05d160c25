"""NDJSON: the lines as they are.

Marks count bytes of what is read, after decompression.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

from headwater.errors import UnreadableFile
from headwater.service.lines import LineSplitter
from headwater.service.sources.base import Batch, Mark

_READ_BYTES = 256 << 10
_COUNT_BYTES = 4 << 20


class NdjsonSource:
    """`plain` says that the file is not compressed, and so quick to be counted."""

    def __init__(self, file: BinaryIO, line_bytes: int, *, plain: bool) -> None:
        self._file = file
        self._line_bytes = line_bytes
        self._plain = plain

    def batches(self, start: Mark) -> Iterator[Batch]:
        splitter = LineSplitter(self._line_bytes)
        splitter.number = start.line
        done = start.offset
        try:
            self._file.seek(start.offset)
            while piece := self._file.read(_READ_BYTES):
                done += len(piece)
                lines = splitter.feed(piece)
                yield Batch(lines, Mark(splitter.number, done - splitter.unfinished_bytes))
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UnreadableFile(
                f"the file cannot be read after line {splitter.number} ({error}); send it whole, "
                "and say how it is compressed by its name"
            ) from error
        yield Batch(splitter.finish(), Mark(splitter.number, done))

    def count(self) -> int | None:
        if not self._plain:
            return None
        lines, last = 0, b"\n"
        self._file.seek(0)
        while piece := self._file.read(_COUNT_BYTES):
            lines += piece.count(b"\n")
            last = piece[-1:]
        return lines + (last != b"\n")
