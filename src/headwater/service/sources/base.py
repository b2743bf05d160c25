"""What a source of documents is: batches of lines, each with a mark to go on from.

One file per format beside this one. A source must give the same lines for the same file in every
run, whatever mark it begins at: an interrupted import goes on in another process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol, get_args

import msgspec

from headwater.service.lines import Line

Format = Literal["ndjson", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class Mark(msgspec.Struct, frozen=True):
    """Where to go on: after so many lines of the file, which end at `offset`.

    What `offset` counts is the source's own affair: bytes, or records.
    """

    line: int = 0
    offset: int = 0


class Batch(NamedTuple):
    """Lines in order, and the mark after them. Some batches have no lines."""

    lines: list[Line]
    mark: Mark


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which columns of a table are what, where they have not the usual names.

    `vector` is one vector for the whole text; what is none of these goes into the metadata.
    """

    id: str | None = None
    title: str | None = None
    text: str | None = None
    vector: str | None = None
    metadata: str | None = None


class Source(Protocol):
    """Blocking: for a thread, one at a time."""

    def batches(self, start: Mark) -> Iterator[Batch]:
        """All lines after `start`. Raises `UnreadableFile` where the file itself is wrong."""
        ...

    def count(self) -> int | None:
        """How many lines there are, when that is cheap to know."""
        ...
