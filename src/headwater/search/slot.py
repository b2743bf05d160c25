"""One library's view: its index, how far it has applied the log, and whether it answers.

Owned by the views of its kind (`views.py`); touched on the loop only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Literal, TypeVar

import anyio

from headwater.model import Library, Position

AnyIndex = TypeVar("AnyIndex")

State = Literal["loading", "replaying", "rebuilding", "ready", "failed"]


class Slot(ABC, Generic[AnyIndex]):
    def __init__(self, library: Library, index: AnyIndex, now: float) -> None:
        self.library = library
        self.index = index
        self.state: State = "loading"
        self.reason: str | None = None
        self.error: Exception | None = None
        self.position: Position = 0
        """What it has applied by itself; once it is ready, its kind's applied position counts."""
        self.done = anyio.Event()
        """Set when the view is ready or has failed."""
        self.used_at = now
        self.asked = 0
        """Questions that wait for it."""
        self.outdated = False
        """It has met the wish to be made anew."""

    @property
    def id(self) -> str:
        return self.library.id

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many things can be found, for people to see."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int: ...

    def became_ready(self) -> None:
        self.state = "ready"
        self.done.set()

    def failed(self, error: Exception) -> None:
        self.state = "failed"
        self.reason = str(error)
        self.error = error
        self.done.set()
