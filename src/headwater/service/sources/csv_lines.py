"""The lines of a CSV file as `csv.reader` takes them, and the way past a record that is too long.

Read by `delimited.py` alone. It must hold no more of a record than the limit, however the file goes
on: what is longer is read past to the place where its quotes say that it ends.
"""

from __future__ import annotations

import re
from typing import TextIO

_PAST_AT_ONCE = 16 << 20
"""Characters read past before somebody may want to know: a tenth of a second."""


class RecordTooLong(Exception):
    """Raised through `csv.reader`, which then goes on with the next record: see `CsvLines.past`."""


class CsvLines:
    """An iterator of lines with their ends. Call `begin` before each record.

    `number` counts the lines that were read, `first` is the number of the record's first.
    """

    def __init__(self, text: TextIO, limit: int, delimiter: str) -> None:
        self._text = text
        self._limit = limit
        self._quotes = _Quotes(delimiter)
        self._held: list[str] = []
        self._size = 0
        self._whole = True
        self.number = 0
        self.first = 1

    def begin(self) -> None:
        """What comes next is a new record."""
        self._held.clear()
        self._size = 0
        self.first = self.number + 1

    def __iter__(self) -> CsvLines:
        return self

    def __next__(self) -> str:
        """The next line. Raises `RecordTooLong` when with it the record is."""
        line = self._read()
        if not line:
            raise StopIteration
        self._held.append(line)
        self._size += len(line)
        if self._size > self._limit and self._size - _ending(line) > self._limit:
            self._quotes.begin()
            for held in self._held:
                self._quotes.feed(held)
            self._held.clear()
            raise RecordTooLong
        return line

    def past(self) -> bool:
        """Read on behind the record that is too long; False when there is more of it."""
        taken = 0
        while self._quotes.open or not self._whole:
            if taken > _PAST_AT_ONCE:
                return False
            piece = self._read()
            if not piece:
                break
            taken += len(piece)
            self._quotes.feed(piece)
        return True

    def _read(self) -> str:
        """A line, or the next piece of one that is longer than the limit; empty at the end."""
        goes_on = not self._whole
        piece = self._text.readline(self._limit + 3)  # one more than the limit and an ending
        # A CR at the cut may have its LF behind it.
        self._whole = len(piece) < self._limit + 3 or piece.endswith("\n")
        if piece and not goes_on:
            self.number += 1
        return piece


class _Quotes:
    """Whether a record goes on behind the end of a line, by the rules of `csv.reader`."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._token = re.compile(rf'"|{re.escape(delimiter)}|[^"{re.escape(delimiter)}]+')
        self.begin()

    def begin(self) -> None:
        self._at_start, self._inside, self._ending = True, False, False

    @property
    def open(self) -> bool:
        """A quote is open, so that the record goes on."""
        return self._inside

    def feed(self, piece: str) -> None:
        """Take a line, or a piece of one."""
        at = 0
        while at < len(piece):
            if self._inside:
                found = piece.find('"', at)
                if found < 0:
                    return
                self._inside, self._ending, at = False, True, found + 1
                continue
            token = self._token.match(piece, at)
            assert token is not None  # everything is one of the three
            at = token.end()
            if token[0] == '"' and (self._at_start or self._ending):
                self._inside = True  # it opens, or was the first of two that stand for one
            self._at_start = token[0] == self._delimiter
            self._ending = False


def _ending(line: str) -> int:
    """Characters of the line's end."""
    return len(line) - len(line.rstrip("\r\n"))
