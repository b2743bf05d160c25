"""An index at one moment, and what a search of it gives."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.model import Rows
from headwater.search.base import Scores
from headwater.search.head import Head
from headwater.search.planner import Step
from headwater.search.segment import Segment


@dataclass(frozen=True, slots=True)
class Parts:
    """By rising row."""

    segments: tuple[Segment, ...]
    sealed: tuple[Head, ...]
    head: Head

    @property
    def heads(self) -> tuple[Head, ...]:
        return (*self.sealed, self.head)

    @property
    def live(self) -> int:
        return sum(part.live for part in self.segments) + sum(head.live for head in self.heads)


@dataclass(frozen=True, slots=True)
class Found:
    """`exact` when no graph was walked; `steps` tell how each part was searched."""

    rows: Rows
    scores: Scores
    exact: bool
    steps: tuple[Step, ...] = ()
