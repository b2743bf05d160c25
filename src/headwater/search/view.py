"""One library's vectors: the index, and what is owed to it.

Touched on the loop only. Applying a step twice changes nothing, so whoever hands out steps may
overlap but must never leave a gap.
"""

from __future__ import annotations

from headwater.model import Library, Position
from headwater.search.base import ViewStatus
from headwater.search.index import VectorIndex
from headwater.search.page import Step
from headwater.search.slot import Slot


class View(Slot[VectorIndex]):
    """`settled` says that nothing is left to build, `dirty` that a snapshot would differ.

    One that is `outdated` is not to be saved any more.
    """

    def __init__(self, library: Library, index: VectorIndex, now: float) -> None:
        """`index` is empty: a view that fails goes back to it."""
        super().__init__(library, index, now)
        self._empty = index
        self.changed_at = now
        self.settled = True
        self.dirty = False
        self.saved_at = now
        self.saved_position: Position = 0
        self.built_ms = 0
        """Time spent building since it was last announced."""
        self.announced_at = float("-inf")
        self.passes = 0
        """Builds that are left of an optimization."""
        self.begun: View | None = None
        """What was prepared for it before its library's vectors became valid."""

    @property
    def rows(self) -> int:
        return self.index.live

    @property
    def memory_bytes(self) -> int:
        return self.index.memory_bytes

    def apply(self, step: Step, now: float) -> None:
        """Put in, then take out: a reader may meet both versions of a document, never neither.

        Raises ValueError when the step does not fit the index.
        """
        for rows, matrix in step.added:
            self.index.append(rows, matrix)
        self.index.pass_row(step.through_row)
        if len(step.removed):
            self.index.remove(step.removed)
        self.changed_at = now
        self.settled = False
        self.dirty = True

    def failed(self, error: Exception) -> None:
        """Let go of the index at once; a search that is at it still has it."""
        self.index = self._empty
        super().failed(error)

    def status(self, position: Position) -> ViewStatus:
        index = self.index
        return ViewStatus(
            self.id,
            self.state,
            position,
            index.live,
            index.head_rows,
            len(index.parts.segments),
            index.dead,
            index.memory_bytes,
            self.reason,
        )
