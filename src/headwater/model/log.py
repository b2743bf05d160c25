"""The log: positions, the changes at them, and the cursors that clients see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater.errors import CursorExpired, InvalidCursor

Position = int
"""A place in the log: 64-bit, assigned inside the write transaction, rising in commit order."""

Vectors = NDArray[np.float32]
"""float32, shape (n, dim), C-contiguous."""

Rows = NDArray[np.int64]
"""int64, shape (n,): chunk row numbers of the store, never reused."""

EVENT_TYPES = (
    "library.created",
    "library.updated",
    "library.regenerated",
    "library.deleted",
    "document.added",
    "document.updated",
    "document.deleted",
    "document.embedded",
    "chunk.added",
    "chunk.deleted",
    "index.rebuilding",
    "index.rebuilt",
    "index.optimizing",
    "index.optimized",
    "batch.started",
    "batch.completed",
    "batch.failed",
    "alert.created",
    "alert.updated",
    "alert.deleted",
    "alert.matched",
    "session.created",
    "session.updated",
    "session.joined",
    "session.left",
    "session.pinned",
    "session.unpinned",
    "session.noted",
    "session.note_removed",
    "session.deleted",
    "job.queued",
    "job.started",
    "job.progress",
    "job.completed",
    "job.failed",
    "job.cancelled",
    "schedule.created",
    "schedule.updated",
    "schedule.deleted",
    "worker.updated",
)
_CURSOR = re.compile(r"([a-z0-9]{6,16})\.([0-9]{1,19})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """What clients see of a position: `<log-id>.<position>`, opaque to them.

    `part` counts the events already delivered of the *next* change after `position`, when one
    change is expanded into several events (`chunk.*`). It is 0 between changes.
    """

    log_id: str
    position: Position
    part: int = 0

    def __str__(self) -> str:
        tail = f".{self.part}" if self.part else ""
        return f"{self.log_id}.{self.position}{tail}"

    @classmethod
    def parse(cls, text: str, *, log_id: str) -> Self:
        """Read a cursor of the log `log_id`.

        Raises `InvalidCursor` when `text` is no cursor, `CursorExpired` when it belongs to
        another history (a restored or recreated database).
        """
        match = _CURSOR.fullmatch(text)
        if match is None or int(match[2]) >= 1 << 63:
            raise InvalidCursor(
                f"{text[:80]!r} is not a cursor; use one from an answer or event; only a feed can "
                "begin at `beginning` or `now`"
            )
        if match[1] != log_id:
            raise CursorExpired(
                f"cursor {text} belongs to another log than this server's ({log_id}); "
                "read the current state (an export gives a cursor) and go on from there",
                reason="other_log",
            )
        return cls(match[1], int(match[2]), int(match[3] or 0))


class Span(msgspec.Struct, frozen=True, gc=False):
    """`count` consecutive chunk rows from `first` on; no rows when `count` is 0."""

    first: int = 0
    count: int = 0


NOTHING = Span()


class Change(msgspec.Struct, frozen=True, gc=False):
    """One row of the log.

    `data` is an encoded JSON object with what a reader needs to decide. `added` and `removed` are
    the chunk rows a view puts in and takes out, `kept` those of a document that changed around
    them (its metadata, its title): views need nothing else, and never look them up.
    """

    position: Position
    at_us: int
    type: str
    library_id: str | None
    subject: str | None
    data: bytes
    added: Span = NOTHING
    removed: Span = NOTHING
    kept: Span = NOTHING


class AddedVectors(msgspec.Struct, frozen=True, gc=False):
    """The vectors of chunk rows `first` … `first + len(matrix) - 1` of one library."""

    library_id: str
    first: int
    matrix: Vectors


class Committed(msgspec.Struct, frozen=True, gc=False):
    """One write transaction, as followers at the head get it.

    It holds every change in (`after`, `through`]; whoever has read through `after` may take it
    and is then at `through`. `vectors` covers every `added` span in `changes`, except chunks that
    have no vector yet.
    """

    after: Position
    through: Position
    changes: tuple[Change, ...]
    vectors: tuple[AddedVectors, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(len(change.data) + 256 for change in self.changes) + sum(
            added.matrix.nbytes for added in self.vectors
        )
