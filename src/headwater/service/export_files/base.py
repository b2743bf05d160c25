"""What a file of documents is: opened, filled in order, finished once.

What is in a document is the same in every format: its id, title, metadata, and its text as it was
sent; its chunks in the place of that, when they are asked for or were sent themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

import msgspec

from headwater.model import Chunk, Document
from headwater.service.sources import Format

Compression = Literal["gzip", "zstd"]
MEDIA_TYPES: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_ENDINGS: dict[Compression, str] = {"gzip": ".gz", "zstd": ".zst"}

encode = msgspec.json.Encoder().encode


class Made(NamedTuple):
    """A finished file: its size, and the SHA-256 of its bytes in hex."""

    size_bytes: int
    sha256: str


class DocumentFile(Protocol):
    def write(self, documents: Sequence[Document], chunks: Sequence[Sequence[Chunk]]) -> int:
        """Add documents, each with its chunks; how many bytes they take, about."""
        ...

    def finish(self) -> None:
        """Write what is left of the format's own."""
        ...

    def abandon(self) -> None:
        """The file will not be finished."""
        ...


class Raw:
    """The bytes of the file on disk, measured as they go by."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._size_bytes += view.nbytes
        self._file.write(view)
        return view.nbytes

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._size_bytes

    def close(self) -> None:
        self._file.close()

    def made(self) -> Made:
        """Durable when this returns. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return Made(self._size_bytes, self._hash.hexdigest())


def suffix_of(format: Format, compression: Compression | None) -> str:
    return f".{format}{'' if compression is None else _ENDINGS[compression]}"


def whole_text(document: Document, chunks: Sequence[Chunk]) -> str | None:
    """The text of a document that was sent as one."""
    if document.text is None and chunks:
        return chunks[0].text
    return document.text
