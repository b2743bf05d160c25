"""What happened to a library between a cursor and now, for a reader who comes back.

Nothing is kept for readers who are away: their difference is worked out from the log. Rows rise,
so what is older than the first row added since was there before; `removed` and `touched` say what
of it may have changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.changes.log import Log
from headwater.live.block import NO_ROW
from headwater.live.step import REGENERATED, TYPES
from headwater.model import Change, Position, Rows
from headwater.search.rowsets import spelled_out

MOST_BYTES = 8 << 20
"""Of the changes that are kept for a reader: each has its document's metadata."""
_PAGE = 2_000
_CREATED = "library.created"
_TYPES = (*TYPES, _CREATED)


@dataclass(slots=True)
class Gap:
    """`old_row` is the highest row there was before; `NO_ROW` when none was added since.

    `removed` are the changes that took old rows away, `touched` the last change around each
    document's old rows that are there still, by their first row.
    """

    library_id: str
    through: Position
    old_row: int = NO_ROW
    changes: int = 0
    removed: list[Change] = field(default_factory=list)
    touched: dict[int, Change] = field(default_factory=dict)
    anew: bool = False
    """Whether all vectors were made anew in it."""
    created: bool = False
    """Whether the library was made in it: what the reader has is of another one of that name."""
    _kept_bytes: int = 0

    async def read_on(self, log: Log, most: int) -> bool:
        """Read to the head of the store; False when there are more than `most` changes, or too
        large ones, or all vectors were made anew, or the library was made in it.

        A change around a document's chunks, or of them, counts for each. Raises `CursorExpired`.
        """
        head = await log.store.read(lambda reader: reader.head())
        while self.through < head:
            page = await log.read(self.through, _PAGE, library_ids={self.library_id}, types=_TYPES)
            self.through = page.through
            self.changes += sum(
                max(1, change.removed.count, change.kept.count) for change in page.changes
            )
            self.anew = any(change.type == REGENERATED for change in page.changes)
            self.created = self.created or any(change.type == _CREATED for change in page.changes)
            if self.anew or self.created or self.changes > most:
                return False
            for change in page.changes:
                self._take(change)
            if self._kept_bytes > MOST_BYTES:
                return False
        return True

    def _take(self, change: Change) -> None:
        if change.added.count:
            self.old_row = min(self.old_row, change.added.first - 1)
        if change.removed.count and change.removed.first <= self.old_row:
            self.removed.append(change)
            self._kept_bytes += len(change.data)
            self._untouch(change.removed.first)
        if change.kept.count and change.kept.first <= self.old_row:
            self._untouch(change.kept.first)
            self.touched[change.kept.first] = change
            self._kept_bytes += len(change.data)

    def _untouch(self, first: int) -> None:
        before = self.touched.pop(first, None)
        if before is not None:
            self._kept_bytes -= len(before.data)

    @property
    def touched_rows(self) -> Rows:
        return spelled_out(change.kept for change in self.touched.values())

    @property
    def removed_rows(self) -> Rows:
        return spelled_out(change.removed for change in self.removed)
