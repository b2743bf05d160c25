"""What a vector search gives and what a search engine promises.

`service/legs.py` asks; `search/vector_views.py` answers from local views. An engine inside a
database would stand beside it behind the same contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import anyio.abc
import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater.filters import Filter
from headwater.model import Library, Position, Rows, Vectors
from headwater.search.planner import Step

Scores = NDArray[np.float32]


class Neighbours(msgspec.Struct, frozen=True, gc=False):
    """The best chunks for one query, best first; equal scores by rising row.

    `rows` int64 (n,), `scores` float32 (n,), higher is better: cosine similarity, inner product,
    or 1 / (1 + d) for the Euclidean distance d. Every score is computed from the float32 vectors,
    also when the candidates came from a graph. `position` is what the view had applied, `exact`
    says that no graph was walked, `steps` how each part of the index was searched.
    """

    rows: Rows
    scores: Scores
    position: Position
    exact: bool
    steps: tuple[Step, ...] = ()


class Mask(Protocol):
    """Which chunk rows may be found; immutable, hashed by identity."""

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        """One flag for each of these rising rows."""
        ...


class Allowed(Mask, Protocol):
    """Chunk rows that passed a filter."""

    @property
    def count(self) -> int: ...

    def rows(self) -> Rows:
        """All of them, rising."""
        ...


@dataclass(frozen=True, slots=True)
class ViewStatus:
    """One library's view. `state` is `loading`, `replaying`, `rebuilding`, `ready` or `failed`."""

    library_id: str
    state: str
    position: Position
    rows: int
    head_rows: int
    segments: int
    dead_rows: int
    memory_bytes: int
    reason: str | None = None


class SearchEngine(ABC):
    """Vector search over the chunks of libraries, following the log. Loop only."""

    @abstractmethod
    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the log until cancelled, then save what was not saved.

        Says started at once; `status` tells which views are still catching up.
        """

    @abstractmethod
    async def search(
        self,
        library: Library,
        queries: Vectors,
        k: Sequence[int],
        *,
        exact: bool = False,
        allowed: Mask | None = None,
        ef: int | None = None,
    ) -> list[Neighbours]:
        """One answer per query row; `k[i]` results for query i, from `allowed` rows only.

        `ef` is how many candidates a graph walk keeps, where not as many as the settings say.

        Loads the view when it is not loaded, and first waits until it has applied everything that
        was committed when the call was made. Raises `NotCaughtUp` when that takes longer than the
        settings allow, `DimensionMismatch`.
        """

    @abstractmethod
    async def caught_up(self, library_id: str, position: Position) -> None:
        """Return when a search started now would see `position`. At once when not loaded.

        Raises `NotCaughtUp` when that takes longer than the settings allow.
        """

    @abstractmethod
    def open(self, library: Library) -> None:
        """Begin to load the view without waiting, so that it follows what is written next.

        Does nothing when it is loaded, or the engine is stopping.
        """

    @abstractmethod
    async def warm(self, libraries: Sequence[Library]) -> None:
        """Load these views, as far as the memory budget goes."""

    @abstractmethod
    def status(self) -> list[ViewStatus]:
        """The loaded views."""

    @abstractmethod
    async def renewed(self, library: Library, position: Position) -> ViewStatus:
        """Return when the view was made anew after an `index.rebuilding` change at `position`.

        Searches are answered by the old one meanwhile. Raises what keeps it from being made.
        """

    @abstractmethod
    def prepared(self, library: Library) -> AbstractAsyncContextManager[None]:
        """Make a view of vectors that are about to be valid, graphs included, before it is entered.

        `library` is as it will be: with its next generation, embedder and dimension. When that
        becomes valid inside, the view takes the place of the one that answers until then. It is
        only made where there is one, and memory for both.
        """

    @abstractmethod
    async def optimize(self, library: Library) -> ViewStatus:
        """Seal, merge and drop dead rows, as far as it goes; returns when that is done."""

    @abstractmethod
    async def rows(self, library: Library) -> Rows:
        """The chunk rows a search could find now, rising: for checking against the store."""


class KeywordEngine(Protocol):
    """Search by words over the chunks of libraries, following the log. Loop only."""

    async def search(
        self,
        library: Library,
        query: str,
        k: int,
        *,
        allowed: Callable[[Rows], NDArray[np.bool_]] | None = None,
        selected: Rows | None = None,
    ) -> tuple[Rows, Scores, Position]:
        """The k best rows by BM25, equal scores by rising row, and a position they stand for.

        Only rows that are `allowed`; `selected` names them all, rising, when they are few. Raises
        `NotCaughtUp`.
        """
        ...


class MetadataEngine(Protocol):
    """Filters over the chunks of libraries, following the log. Loop only."""

    async def select(self, library: Library, filter: Filter) -> tuple[Allowed, Position]:
        """The rows that pass, and a position they stand for. Raises `NotCaughtUp`."""
        ...
