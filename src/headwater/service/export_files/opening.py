"""The file of an export: its format, its compression, and its measure on the way to the disk."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from headwater.model import Chunk, Document
from headwater.service.export_files.base import Compression, DocumentFile, Made, Raw
from headwater.service.export_files.columnar import ParquetFile
from headwater.service.export_files.text import CsvFile, NdjsonFile, Sink
from headwater.service.sources import Format

_GZIP_LEVEL = 6


class ExportFile:
    """A new file at `path`. Blocking: for a thread.

    Raises OSError; `InvalidJob` without pyarrow.
    """

    def __init__(
        self,
        path: Path,
        format: Format,
        compression: Compression | None,
        *,
        chunks: bool,
        vectors: bool,
    ) -> None:
        self._path = path
        self._raw = Raw(path)
        self._packer: Any = None
        try:
            self._documents = self._open(format, compression, chunks=chunks, vectors=vectors)
        except BaseException:
            self._raw.close()
            path.unlink(missing_ok=True)
            raise

    def _open(
        self, format: Format, compression: Compression | None, *, chunks: bool, vectors: bool
    ) -> DocumentFile:
        if format == "parquet":
            return ParquetFile(self._raw, chunks=chunks, vectors=vectors)
        bytes_only = cast(IO[bytes], self._raw)
        if compression == "gzip":
            # No time in its head: the same documents make the same file.
            self._packer = gzip.GzipFile("", "wb", _GZIP_LEVEL, bytes_only, mtime=0)
        elif compression == "zstd":
            self._packer = zstandard.ZstdCompressor().stream_writer(bytes_only, closefd=False)
        sink: Sink = self._raw if self._packer is None else self._packer
        make = NdjsonFile if format == "ndjson" else CsvFile
        return make(sink, chunks=chunks, vectors=vectors)

    def write(self, documents: Sequence[Document], chunks: Sequence[Sequence[Chunk]]) -> int:
        """Add documents, each with its chunks; how many bytes they take, about."""
        return self._documents.write(documents, chunks)

    def finish(self) -> Made:
        """End the file; it is whole and durable then."""
        self._documents.finish()
        if self._packer is not None:
            self._packer.close()
        made = self._raw.made()
        self._raw.close()
        return made

    def abandon(self) -> None:
        """Take the file away, whatever state it is in."""
        with suppress(OSError, ValueError):
            self._documents.abandon()
        with suppress(OSError):  # what it held back may have no room either
            self._raw.close()
        self._path.unlink(missing_ok=True)
