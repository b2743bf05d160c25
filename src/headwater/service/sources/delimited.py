"""CSV (RFC 4180): a header with the names of the columns, then a document in each record.

A record may span lines; it goes by the number of its last one. Marks count records, which a new run
reads again and skips: what a record's first line is, only the lines before it say.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol, Self

from headwater.errors import HeadwaterError, InvalidDocument, UnreadableFile
from headwater.service.lines import Line
from headwater.service.sources.base import Batch, Columns, Mark
from headwater.service.sources.table import Table

_RECORDS = 256
_COUNT_BYTES = 4 << 20


class _Records(Protocol):
    """What `csv.reader` gives."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Self: ...

    def __next__(self) -> list[str]: ...


class CsvSource:
    def __init__(
        self,
        file: BinaryIO,
        columns: Columns,
        line_bytes: int,
        *,
        delimiter: str,
        encoding: str,
        plain: bool,
    ) -> None:
        self._file = file
        self._columns = columns
        self._line_bytes = line_bytes
        self._delimiter = delimiter
        self._encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
        self._plain = plain

    def batches(self, start: Mark) -> Iterator[Batch]:
        csv.field_size_limit(self._line_bytes)  # the process's; nothing else here reads CSV
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, self._encoding, newline="")
        reader = csv.reader(self._physical(text), delimiter=self._delimiter)
        try:
            yield from self._batches(reader, start)
        except UnicodeDecodeError as error:
            raise UnreadableFile(
                f"the file is not {self._encoding} after line {reader.line_num}; name its "
                "`encoding`"
            ) from error
        except (OSError, EOFError) as error:
            raise UnreadableFile(
                f"the file cannot be read after line {reader.line_num} ({error})"
            ) from error
        finally:
            text.detach()

    def count(self) -> int | None:
        if not self._plain:
            return None
        lines = 0
        self._file.seek(0)
        while piece := self._file.read(_COUNT_BYTES):
            lines += piece.count(b"\n")
        return lines

    def _batches(self, reader: _Records, start: Mark) -> Iterator[Batch]:
        names = next(reader, None)
        if names is None:
            raise UnreadableFile("the file is empty; a CSV begins with the names of its columns")
        if len(set(names)) < len(names):
            raise UnreadableFile("two columns have the same name; rename one of them")
        table = Table(names, self._columns)
        records = 0
        lines: list[Line] = []
        while True:
            entry = self._record(reader)
            if entry is None:
                break
            records += 1
            if records > start.offset:
                body = _line(table, names, entry)
                lines.append(Line(reader.line_num, body))
            if len(lines) == _RECORDS:
                yield Batch(lines, Mark(reader.line_num, records))
                lines = []
        yield Batch(lines, Mark(reader.line_num, records))

    @staticmethod
    def _record(reader: _Records) -> list[str] | HeadwaterError | None:
        """The next record that is not empty; None at the end."""
        try:
            for fields in reader:
                if fields:
                    return fields
            return None
        except csv.Error as error:
            if "limit" in str(error):  # a quote is missing, maybe: where records begin is unknown
                raise UnreadableFile(
                    f"the record at line {reader.line_num} has a field over the limit; raise "
                    "`limits.line_bytes`, or see whether a quote is missing"
                ) from error
            # This record's; the reader goes on with the next line.
            return InvalidDocument(f"the record cannot be read ({error})")

    def _physical(self, text: io.TextIOWrapper) -> Iterator[str]:
        """Lines, none longer than the limit, however the file goes on."""
        number = 0
        while line := text.readline(self._line_bytes):
            number += 1
            if len(line) == self._line_bytes and not line.endswith(("\n", "\r")):
                raise UnreadableFile(
                    f"line {number} is longer than {self._line_bytes} characters; raise "
                    "`limits.line_bytes`, or see whether a quote is missing"
                )
            yield line


def _line(
    table: Table, names: list[str], entry: list[str] | HeadwaterError
) -> bytes | HeadwaterError:
    if isinstance(entry, HeadwaterError):
        return entry
    if len(entry) != len(names):
        return InvalidDocument(f"the record has {len(entry)} fields, the header has {len(names)}")
    try:
        return table.line(dict(zip(names, entry, strict=True)))
    except InvalidDocument as error:
        return error
