"""Which source reads a file: by its format, its compression and what was said of it."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import BinaryIO, cast

from headwater.errors import InvalidJob
from headwater.service.sources.base import COMPRESSIONS, Columns, Format, Source
from headwater.service.sources.columnar import ParquetSource
from headwater.service.sources.delimited import CsvSource
from headwater.service.sources.ndjson import NdjsonSource
from headwater.service.sources.zstd import ZstdFile

_SUFFIXES: dict[str, Format] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_BUFFER_BYTES = 256 << 10


def format_of(name: str, *, path: str) -> Format:
    """The format that a file's name says. Raises `InvalidJob` at `path` when it says none."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    found = _SUFFIXES.get(suffixes[-1] if suffixes else "")
    if found is None:
        raise InvalidJob(
            f"{PurePath(name).name!r} does not say what it is; end it with one of "
            f"{', '.join(_SUFFIXES)} (also with .gz or .zst), or set `format`",
            path=path,
        )
    return found


@contextmanager
def open_source(
    file: BinaryIO,
    name: str,
    format: Format,
    *,
    line_bytes: int,
    columns: Columns,
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> Iterator[Source]:
    """A source of `file`, which is compressed as the end of its `name` says.

    Raises `UnreadableFile`, `InvalidJob`.
    """
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    with ExitStack() as opened:
        if format == "parquet":
            yield ParquetSource(file, columns)
            return
        plain = file
        if compression == "gzip":
            plain = cast(BinaryIO, opened.enter_context(gzip.GzipFile(fileobj=file)))
        elif compression == "zstd":
            reader = io.BufferedReader(ZstdFile(file), _BUFFER_BYTES)
            plain = cast(BinaryIO, opened.enter_context(reader))
        if format == "ndjson":
            yield NdjsonSource(plain, line_bytes, plain=compression is None)
            return
        yield CsvSource(
            plain,
            columns,
            line_bytes,
            delimiter=delimiter or ("\t" if ".tsv" in suffixes else ","),
            encoding=encoding,
            plain=compression is None,
        )
