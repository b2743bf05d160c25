"""CSV (RFC 4180): a header with the names of the columns, then a document in each record.

A record may span lines; it goes by the number of its last one. One that is too long, or wrong,
harms no other. Marks count records, which a new run reads again and skips: what a record's first
line is, only the lines before it say.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import zstandard

from headwater.errors import HeadwaterError, InvalidDocument, LineTooLong, UnreadableFile
from headwater.service.lines import Line
from headwater.service.sources.base import Batch, Columns, Mark
from headwater.service.sources.csv_lines import CsvLines, RecordTooLong
from headwater.service.sources.table import Table

_RECORDS = 256
_COUNT_BYTES = 4 << 20


class _Records(Protocol):
    """What `csv.reader` gives."""

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
        # The process's; nothing else here reads CSV. An open quote takes a line's end along.
        csv.field_size_limit(self._line_bytes + 2)
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, self._encoding, newline="")
        lines = CsvLines(text, self._line_bytes, self._delimiter)
        try:
            yield from self._batches(lines, start)
        except UnicodeError as error:  # also a UTF-16 that does not say its order
            raise UnreadableFile(
                f"the file is not {self._encoding} after line {lines.number}; name its `encoding`"
            ) from error
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UnreadableFile(
                f"the file cannot be read after line {lines.number} ({error})"
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

    def _batches(self, physical: CsvLines, start: Mark) -> Iterator[Batch]:
        reader: _Records = csv.reader(physical, delimiter=self._delimiter)
        table, names = self._header(reader)
        records = 0
        mark = start
        lines: list[Line] = []
        while True:
            physical.begin()
            try:
                entry: list[str] | HeadwaterError | None = next(reader, None)
            except RecordTooLong:
                while not physical.past():
                    yield Batch(lines, mark)  # whoever is to stop hears of it
                    lines = []
                entry = self._too_long(physical)
            except csv.Error as error:
                # This record's; the reader goes on with the next line.
                entry = InvalidDocument(f"the record cannot be read ({error})")
            if entry is None:
                break
            if not entry:
                continue  # an empty line
            records += 1
            if records > start.offset:
                lines.append(Line(physical.number, _line(table, names, entry)))
                mark = Mark(physical.number, records)
            if len(lines) == _RECORDS:
                yield Batch(lines, mark)
                lines = []
        yield Batch(lines, Mark(physical.number, records))

    def _header(self, reader: _Records) -> tuple[Table, list[str]]:
        """Raises `UnreadableFile`."""
        try:
            names = next(reader, None)
        except (RecordTooLong, csv.Error) as error:
            raise UnreadableFile(
                "the first record, which names the columns, cannot be read; is this a CSV?"
            ) from error
        if names is None:
            raise UnreadableFile("the file is empty; a CSV begins with the names of its columns")
        if len(set(names)) < len(names):
            raise UnreadableFile("two columns have the same name; rename one of them")
        return Table(names, self._columns), names

    def _too_long(self, physical: CsvLines) -> HeadwaterError:
        return LineTooLong(
            f"the record that begins at line {physical.first} is longer than {self._line_bytes} "
            "characters; raise `limits.line_bytes`, or see whether a quote is missing"
        )


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
