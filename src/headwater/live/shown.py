"""The texts of rows that live queries show, kept for those who are told next.

A row that enters many queries is read once. What is here is never older than the matcher: a row
whose document changes around it is forgotten with that change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from headwater.live.judge import Read
from headwater.live.step import Step
from headwater.model import Passage, Rows
from headwater.store.base import Reader

MOST_BYTES = 8 << 20
"""Of texts and metadata kept for one library, in characters and bytes."""
_READ_AT_ONCE = 64


class Passages:
    """The latest passages, up to `MOST_BYTES`. Changed on the loop; any thread may ask `in`."""

    def __init__(self) -> None:
        # The oldest key of a plain dict is found by walking over all that were taken out before.
        self._passages: OrderedDict[int, Passage] = OrderedDict()
        self._bytes = 0

    def __contains__(self, row: int) -> bool:
        return row in self._passages

    def get(self, row: int) -> Passage | None:
        return self._passages.get(row)

    def take(self, passages: Mapping[int, Passage]) -> None:
        for row, passage in passages.items():
            if row not in self._passages:
                self._passages[row] = passage
                self._bytes += size_of(passage)
        while self._bytes > MOST_BYTES:
            self._bytes -= size_of(self._passages.popitem(last=False)[1])

    def forget(self, step: Step) -> None:
        """What a step has changed around them, or removed."""
        for span, _ in step.kept.values():
            for row in range(span.first, span.first + span.count):
                self._drop(row)
        if len(step.removed) < len(self._passages):
            for row in step.removed.tolist():
                self._drop(row)

    def _drop(self, row: int) -> None:
        passage = self._passages.pop(row, None)
        if passage is not None:
            self._bytes -= size_of(passage)


def size_of(passage: Passage) -> int:
    """About what it takes."""
    return 400 + len(passage.text or "") + len(passage.metadata) + len(passage.title or "")


def fetch(read: Read, parts: Sequence[Rows], known: Passages) -> dict[int, Passage]:
    """The passages of the newest of these rows that are not known yet, as far as they are small.

    For the matching thread: what is left out is read by whoever needs it.
    """
    if not parts:
        return {}
    wanted = [row for row in np.unique(np.concatenate(parts))[::-1].tolist() if row not in known]
    found: dict[int, Passage] = {}
    size = 0
    for at in range(0, len(wanted), _READ_AT_ONCE):
        rows = wanted[at : at + _READ_AT_ONCE]

        def query(reader: Reader, rows: list[int] = rows) -> dict[int, Passage]:
            return reader.passages(rows)

        part: dict[int, Passage] = read(query)
        found.update(part)
        size += sum(map(size_of, part.values()))
        if size > MOST_BYTES // 2:
            break
    return found
