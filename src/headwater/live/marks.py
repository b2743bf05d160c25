"""What happened lately to hits: why one is gone, when one was touched.

So that a reader who comes late is told the right reason, and of titles and metadata that changed
around a hit that stayed. Bounded: beyond that, what is older counts as unknown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from headwater.filters import Filter, matches
from headwater.live.standing import Wanted
from headwater.live.step import PENDING, facts_of
from headwater.model import Change, Position

MOST_TOUCHED = 100_000
MOST_FATES = 20_000
MOST_FATE_BYTES = 8 << 20
"""Of the changes that are kept for them: each has its document's metadata."""

Reason = Literal["deleted", "outranked", "no_longer_matches"]


class Marks:
    """Of one library, up to where its matcher is. Loop only."""

    def __init__(self) -> None:
        self._touched: OrderedDict[int, Position] = OrderedDict()
        self._last_touched: Position = 0
        self._touched_floor: Position = 0
        self._fates: OrderedDict[str | None, Change] = OrderedDict()
        self._fate_bytes = 0

    def note(
        self,
        touched: Mapping[int, Position],
        fated: Collection[str | None],
        removals: Sequence[Change],
    ) -> None:
        """Rows of sets that were touched, documents of which rows were taken out of sets, and all
        that removed any rows."""
        for row, position in touched.items():
            self._touched.pop(row, None)  # the newest are last
            self._touched[row] = position
            self._last_touched = max(self._last_touched, position)
        while len(self._touched) > MOST_TOUCHED:
            _, self._touched_floor = self._touched.popitem(last=False)
        for change in removals:
            if change.subject in fated or change.subject in self._fates:
                if (before := self._fates.pop(change.subject, None)) is not None:
                    self._fate_bytes -= len(before.data)
                self._fates[change.subject] = change
                self._fate_bytes += len(change.data)
        while len(self._fates) > MOST_FATES or self._fate_bytes > MOST_FATE_BYTES:
            self._fate_bytes -= len(self._fates.popitem(last=False)[1].data)

    def any_touched(self, after: Position) -> bool:
        """Whether any row's document may have changed around it after that position."""
        return self._last_touched > after or after < self._touched_floor

    def touched(self, row: int, after: Position) -> bool:
        """Whether the row's document may have changed around it after that position."""
        at = self._touched.get(row)
        return after < self._touched_floor if at is None else at > after

    def fate(self, document_id: str, after: Position) -> Change | None:
        """The change after that position that took the document's rows away."""
        change = self._fates.get(document_id)
        return change if change is not None and change.position > after else None


def reason_of(change: Change, wanted: Wanted, ordinal: int, *, room: bool) -> Reason:
    """Why a hit has left whose row was taken away by `change`.

    `ordinal` is its chunk's; `room` says that hits are missing to what may be shown, so that
    nothing can have outranked it.
    """
    if change.type == "document.deleted":
        return "deleted"
    facts = facts_of(change.data)
    if (not facts.num_chunks) if wanted.grouped else (ordinal >= facts.num_chunks):
        return "deleted"
    if facts.status == PENDING or _fails(wanted.filter, change) or room:
        return "no_longer_matches"
    return "outranked"


def _fails(filter: Filter | None, change: Change) -> bool:
    return filter is not None and not matches(filter, facts_of(change.data).metadata)
