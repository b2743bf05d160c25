"""All the views of one process, as a writer sees them: what has to see a write before its answer.

Services that write wait here. They know of no single view, and must not: each kind that is added
would be forgotten by one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headwater.model import Library, Position
from headwater.search.base import SearchEngine


class Follows(Protocol):
    """A kind of view, as far as writers go."""

    async def caught_up(self, library_id: str, position: Position) -> None: ...


class Views:
    """The vector view and the others beside it. Loop only."""

    def __init__(self, vectors: SearchEngine, others: Sequence[Follows]) -> None:
        self._vectors = vectors
        self._others = others

    async def caught_up(self, library_id: str, position: Position) -> None:
        """Return when a search of any kind, started now, would see `position`.

        Views of this library that are not loaded are not waited for: they load what is there.
        Raises `NotCaughtUp` when one takes longer than the settings allow.
        """
        await self._vectors.caught_up(library_id, position)
        for view in self._others:
            await view.caught_up(library_id, position)

    def open(self, library: Library) -> None:
        """Begin to load the vector view, so that it follows what is written next."""
        self._vectors.open(library)
