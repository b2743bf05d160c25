"""NDJSON framing: bytes in any pieces in, whole lines out.

Used by the ingest stream and by imports. It must hold no more than one unfinished line, and never
that one beyond the limit.
"""

from __future__ import annotations

from typing import NamedTuple

from headwater.errors import HeadwaterError

BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A physical line, 1-based, without its ending. `body` is None when it was over the limit,
    and the error of a source that makes lines of something else and could not make this one."""

    number: int
    body: bytes | HeadwaterError | None


class LineSplitter:
    """Splits at LF; drops a CR before it, a byte order mark at the very start, and blank lines."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._too_long = False
        self.number = 0
        """Lines ended so far, blank ones included."""

    @property
    def unfinished_bytes(self) -> int:
        """Bytes fed after the last line's end."""
        return self._size_bytes

    def feed(self, piece: bytes) -> list[Line]:
        """The non-blank lines that this piece completes."""
        head, newline, rest = piece.partition(b"\n")
        if not newline:
            self._hold(head)
            return []
        self._hold(head)
        lines: list[Line] = []
        self._end(lines)
        pieces = rest.split(b"\n")
        last = pieces.pop()
        number, limit = self.number, self._limit_bytes
        for piece in pieces:
            body = piece.removesuffix(b"\r")
            number += 1
            if len(body) > limit:
                lines.append(Line(number, None))
            elif body and not body.isspace():
                lines.append(Line(number, body))
        self.number = number
        self._hold(last)
        return lines

    def finish(self) -> list[Line]:
        """The last line when it had no newline."""
        lines: list[Line] = []
        if self._parts or self._too_long:
            self._end(lines)
        return lines

    def _hold(self, part: bytes) -> None:
        if not part:
            return
        self._size_bytes += len(part)
        if self._size_bytes > self._limit_bytes + len(BOM) + 1:
            self._too_long = True
            self._parts.clear()
        else:
            self._parts.append(part)

    def _end(self, lines: list[Line]) -> None:
        self.number += 1
        body = b"".join(self._parts)
        if self.number == 1:
            body = body.removeprefix(BOM)
        body = body.removesuffix(b"\r")
        if self._too_long or len(body) > self._limit_bytes:
            lines.append(Line(self.number, None))
        elif body and not body.isspace():
            lines.append(Line(self.number, body))
        self._parts.clear()
        self._size_bytes = 0
        self._too_long = False
