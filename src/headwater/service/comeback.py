"""What a reader must be told who comes back with a cursor, worked out from the log alone.

Nothing is kept for readers who are away; docs/decisions/0013 says why this is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headwater.changes.log import Log
from headwater.live.gap import Gap
from headwater.live.marks import Reason, reason_of
from headwater.live.matcher import Matcher
from headwater.live.standing import Wanted
from headwater.model import Cursor, Library, Passage, Position, chunk_id
from headwater.service.deltas import LiveEventName, Told, told_of
from headwater.service.servings import AT_ONCE
from headwater.threads import Lane

_ATTEMPTS = 8

Texts = Lane[tuple[Sequence[int], Library | None], tuple[dict[int, Passage], Position]]
"""What is shown of rows, and the head of the log there. With a library their vectors are read, too,
and `LibraryRegenerated` is raised when those are of another generation than its own."""
"""Reads passages, with vectors if asked, and says where the store was."""


Untold = Literal["too_far", "regenerated", "other_library"]
"""Why there is no difference: there would be too much to it, no score is what it was, or the cursor
is from before there was this library, and so of another one that had its name."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Leaves with their reasons; upserts, by rising rank."""

    leaves: list[tuple[Told, Reason]]
    upserts: list[tuple[LiveEventName, Told]]


class Comeback:
    """For the query that wants `wanted`. At most `resume_changes` changes are looked at."""

    def __init__(
        self, matcher: Matcher, wanted: Wanted, log: Log, texts: Texts, resume_changes: int
    ) -> None:
        self._matcher = matcher
        self._wanted = wanted
        self._log = log
        self._texts = texts
        self._resume_changes = resume_changes

    async def since(self, after: Cursor, told: dict[str, Told]) -> Difference | Untold:
        """What makes the hits told at `after` into `told`, hits by id in order, or why not.

        Raises `CursorExpired`, and what searches raise.
        """
        wanted = self._wanted
        gap = Gap(self._matcher.library.id, after.position)
        before = await self._before(gap)
        if before is None:
            if gap.created:
                return "other_library"
            return "regenerated" if gap.anew else "too_far"
        grouped = wanted.grouped
        leaves: dict[str, tuple[Told, Reason]] = {}
        changed: set[str] = set()
        lost = 0
        for change in gap.removed:
            lost += 1 if grouped else change.removed.count
            for one in _hits_of(change.subject or "", change.removed.count, grouped=grouped):
                id = one.id
                changed.add(id)
                if id not in told:
                    room = wanted.k is None or len(told) < wanted.k
                    leaves[id] = one, reason_of(change, wanted, one.ordinal, room=room)
        for change in gap.touched.values():
            lost += 1 if grouped else change.kept.count
            for one in _hits_of(change.subject or "", change.kept.count, grouped=grouped):
                id = one.id
                changed.add(id)
                if id not in told:
                    leaves[id] = one, reason_of(change, wanted, one.ordinal, room=False)
        places = {one.row: place for place, one in enumerate(before, 1)}
        for gone in before:
            if gone.id not in told:
                leaves[gone.id] = gone, "outranked"
        upserts: list[tuple[LiveEventName, Told]] = []
        for id, one in told.items():
            if id in changed:
                upserts.append(("update", one))
                continue
            place = places.get(one.row)
            had = place is not None and (wanted.k is None or place + lost <= wanted.k)
            if not had:
                upserts.append(("enter", one))
        return Difference(list(leaves.values()), upserts)

    async def _before(self, gap: Gap) -> list[Told] | None:
        """What it shows of the rows that were there before the gap and have not changed, in order.

        Reads the gap up to where that holds; None: too much, or too fast.
        """
        wanted = self._wanted
        for _ in range(_ATTEMPTS):
            if not await gap.read_on(self._log, self._resume_changes):
                return None
            found = await self._matcher.before(wanted, gap)
            if found is None:
                return None
            rows, whole = found
            for _ in range(_ATTEMPTS):
                # What came while it was searched counts, too: the answer may be from before it.
                if not await gap.read_on(self._log, self._resume_changes):
                    return None
                changed = np.union1d(gap.removed_rows, gap.touched_rows)
                rows = rows[~np.isin(rows, changed)]
                if not whole and len(rows) < (wanted.k or 0):
                    break
                shown = await self._told(rows[: wanted.k].tolist())
                if shown is not None:
                    return shown
        return None

    async def _told(self, rows: Sequence[int]) -> list[Told] | None:
        """Which hits these are; None when the store does not have one any more."""
        told: list[Told] = []
        for at in range(0, len(rows), AT_ONCE):
            part = rows[at : at + AT_ONCE]
            passages, _head = await self._texts.submit((part, None))
            if len(passages) < len(part):
                return None
            told += [told_of(passages[row], 0.0, grouped=self._wanted.grouped) for row in part]
        return told


def _hits_of(document_id: str, count: int, *, grouped: bool) -> list[Told]:
    """The chunks of a document, as far as they can be told apart in a watch."""
    if grouped:
        return [Told(0, 0.0, document_id, 0, document_id)] if count else []
    return [
        Told(0, 0.0, document_id, ordinal, chunk_id(document_id, ordinal))
        for ordinal in range(count)
    ]
