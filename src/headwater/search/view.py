"""One library's view: its index, how far it has applied the log, and what is owed to it.

Owned by `LocalViews`; touched on the loop only. Applying a step twice changes nothing, so whoever
hands out steps may overlap but must never leave a gap.
"""

from __future__ import annotations

from typing import Literal

import anyio

from headwater.model import Library, Position
from headwater.search.base import ViewStatus
from headwater.search.index import VectorIndex
from headwater.search.page import Step

State = Literal["loading", "replaying", "rebuilding", "ready", "failed"]


class View:
    """`settled` says that nothing is left to build, `dirty` that a snapshot would differ."""

    def __init__(self, library: Library, index: VectorIndex, now: float) -> None:
        """`index` is empty: a view that fails goes back to it."""
        self.library = library
        self.index = self._empty = index
        self.state: State = "loading"
        self.reason: str | None = None
        self.position: Position = 0
        self.done = anyio.Event()
        """Set when the view is ready or has failed."""
        self.error: Exception | None = None
        self.used_at = now
        self.changed_at = now
        self.settled = True
        self.dirty = False
        self.saved_at = now
        self.saved_position: Position = 0
        self.built_ms = 0
        """Time spent building since it was last announced."""
        self.announced_at = float("-inf")
        self.outdated = False
        """It has met the wish to be made anew, and is not to be saved any more."""
        self.passes = 0
        """Builds that are left of an optimization."""

    @property
    def id(self) -> str:
        return self.library.id

    @property
    def ready(self) -> bool:
        return self.state == "ready"

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

    def became_ready(self) -> None:
        self.state = "ready"
        self.done.set()

    def failed(self, error: Exception) -> None:
        """Let go of the index at once; a search that is at it still has it."""
        self.index = self._empty
        self.state = "failed"
        self.reason = str(error)
        self.error = error
        self.done.set()

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
