"""Recent commits, decoded, in bounded memory: what followers at the head read.

Only this process's commits are here. Where another process committed in between there is a gap,
and a follower at the gap reads the store: the ring never guesses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from headwater.model import Committed, Position


class Ring:
    """Commits in order, the oldest dropped first. Loop only."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._commits: deque[tuple[Committed, int]] = deque()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, committed: Committed) -> None:
        size = committed.size_bytes
        self._commits.append((committed, size))
        self._size_bytes += size
        while self._size_bytes > self._capacity_bytes and len(self._commits) > 1:
            self._size_bytes -= self._commits.popleft()[1]

    def after(self, position: Position) -> Committed | None:
        """The commit that covers what follows `position`, or None: read the store.

        A commit is given whole; a reader inside it skips what it has.
        """
        if self._commits and (last := self._commits[-1][0]).after <= position:
            return last if position < last.through else None  # as almost always
        index = bisect_right(self._commits, position, key=lambda entry: entry[0].through)
        if index == len(self._commits):
            return None
        committed = self._commits[index][0]
        return committed if committed.after <= position else None

    def next_start(self, position: Position) -> Position | None:
        """Where the first commit in the ring beyond `position` starts; None when there is none.

        A reader in a gap reads the store no further than this.
        """
        index = bisect_right(self._commits, position, key=lambda entry: entry[0].through)
        return self._commits[index][0].after if index < len(self._commits) else None
