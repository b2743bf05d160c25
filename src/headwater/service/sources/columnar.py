"""Parquet, read with pyarrow, which is an extra of the package.

A row is a line of that number. Marks count rows; whole row groups before one are skipped unread.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from headwater.errors import InvalidDocument, InvalidJob, UnreadableFile
from headwater.service.lines import Line
from headwater.service.sources.base import Batch, Columns, Mark
from headwater.service.sources.table import Table

_ROWS = 256


def arrow(name: str = "pyarrow.parquet") -> Any:
    """A module of pyarrow's, imported when it is first needed. Raises `InvalidJob` without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidJob(
            "Parquet needs pyarrow on the server: pip install 'headwater[parquet]'",
            path="params.format",
        ) from error


class ParquetSource:
    def __init__(self, file: BinaryIO, columns: Columns) -> None:
        self._columns = columns
        try:
            self._file = arrow().ParquetFile(file)
        except (OSError, ValueError) as error:
            raise UnreadableFile(f"this is no Parquet file ({error})") from error
        self._names: list[str] = list(self._file.schema_arrow.names)
        self._rows = int(self._file.metadata.num_rows)

    def batches(self, start: Mark) -> Iterator[Batch]:
        table = Table(self._names, self._columns)
        metadata = self._file.metadata
        row = group = 0
        while group < metadata.num_row_groups:
            rows = int(metadata.row_group(group).num_rows)
            if row + rows > start.offset:
                break
            row += rows
            group += 1
        groups = list(range(group, metadata.num_row_groups))
        try:
            batches = self._file.iter_batches(_ROWS, row_groups=groups, use_threads=False)
            for batch in batches:
                lines: list[Line] = []
                for values in _rows(batch):
                    row += 1
                    if row > start.offset:
                        lines.append(Line(row, _line(table, values)))
                yield Batch(lines, Mark(row, row))
        except (OSError, ValueError) as error:
            raise UnreadableFile(f"the file cannot be read after row {row} ({error})") from error

    def count(self) -> int | None:
        return self._rows


def _rows(batch: Any) -> Iterator[dict[str, Any] | InvalidDocument]:
    """The values of each row; one that Python has no values for harms no other."""
    try:
        yield from batch.to_pylist()
    except (ValueError, ArithmeticError):  # such as a date after the year 9999
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except (ValueError, ArithmeticError) as error:
                yield InvalidDocument(f"the row has a value that cannot be read ({error})")


def _line(table: Table, values: dict[str, Any] | InvalidDocument) -> bytes | InvalidDocument:
    if isinstance(values, InvalidDocument):
        return values
    try:
        return table.line(values)
    except InvalidDocument as error:
        return error
