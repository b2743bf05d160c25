"""What a view in one thread is made of: an index of one library, and what is known of it.

`Follower` keeps such indexes up with the log; the keyword and the metadata view implement them.
An index never touches the loop, and never decides when it is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headwater.model import Change, Position
from headwater.search.page import DELETED, REBUILDING
from headwater.search.slot import Slot, State
from headwater.store.base import Reader

TYPES = (
    "document.added",
    "document.updated",
    "document.embedded",
    "document.deleted",
    DELETED,
    REBUILDING,
)

_PAGE_CHANGES = 2_000
_PAGE_ROWS = 4_096
"""Chunk rows after which a page is cut: one document may have thousands."""


class Unusable(Exception):
    """What an index has is not to be trusted, and why: it must be made anew from the store."""


class FollowingIndex(ABC):
    """One library's index. Never called by two threads at once, nearly always by the same.

    Any method but `close` may raise. After `Unusable` from `restore` comes `begin`; after anything
    else the index is closed and never used again.

    A `gentle` one is made beside one that answers, and keeps its pages small.
    """

    gentle = False

    @abstractmethod
    def restore(self) -> Position | None:
        """Take up what an earlier process left, and say which position it has reached.

        None when there is nothing. Raises `Unusable` when it is not to be trusted.
        """

    @abstractmethod
    def begin(self) -> None:
        """Be empty, whatever there was; what is kept must not be used again.

        A gentle one leaves the files alone that are not its own.
        """

    @abstractmethod
    def disown(self) -> None:
        """Another index will be kept in the place of this one: keep nothing of it from now on.

        What is kept must not be used again.
        """

    @abstractmethod
    def fill(self, reader: Reader, after: int) -> int | None:
        """Put in one page of what the store holds after `after`, 0 at first; None: no more.

        Returns the next page's `after`. Keep a page to some 50 ms: others wait meanwhile. Pages
        are read in separate transactions, and what changed between them is applied again later.
        """

    @abstractmethod
    def apply(self, reader: Reader, changes: Sequence[Change]) -> None:
        """Apply this library's changes, in order; `reader` may be ahead of them.

        Applying a change again, also after later ones, must end in the same state: a stretch of
        the log may come twice, but never with a gap.
        """

    @abstractmethod
    def commit(self, position: Position) -> None:
        """Show to readers what was applied, and be at `position`; cheap when nothing was."""

    @abstractmethod
    def close(self, position: Position | None, *, spoilt: bool = False) -> None:
        """Let go of everything; what is kept for the next process stands for `position`.

        None leaves what is kept as it is; `spoilt` says that it must not be used again. May come
        twice, must not raise.
        """

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many things can be found, for people to see."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int: ...


Index = TypeVar("Index", bound=FollowingIndex)


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """One library's index, as `ViewStatus` tells it for vectors."""

    library_id: str
    state: State
    position: Position
    rows: int
    memory_bytes: int
    reason: str | None = None


class LaneSlot(Slot[Index]):
    """`index` is touched by jobs only; they say how large it is."""

    rows = 0
    memory_bytes = 0

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self.rows = self.memory_bytes = 0


@dataclass(frozen=True, slots=True)
class LogStretch:
    """Changes by library, in order. At `through == head` nothing is left.

    `outdated` are the libraries whose indexes somebody wants made anew.
    """

    changes: dict[str, list[Change]]
    deleted: list[str]
    outdated: set[str]
    through: Position
    head: Position


def read_stretch(
    reader: Reader, after: Position, indexes: Mapping[str, object], *, only: str | None = None
) -> LogStretch:
    """What came after `after` for `indexes`; `only` reads no other library's changes.

    Raises `CursorExpired`.
    """
    head = reader.head()
    found = reader.log(
        after,
        _PAGE_CHANGES,
        library_ids=None if only is None else {only},
        types=TYPES if indexes else (DELETED,),
    )
    changes: dict[str, list[Change]] = {}
    deleted: list[str] = []
    outdated: set[str] = set()
    rows, through = 0, found.through
    for change in found.changes:
        library_id = change.library_id
        if library_id is None:
            continue
        if change.type == DELETED:
            deleted.append(library_id)
        elif change.type == REBUILDING:
            outdated.add(library_id)
        elif library_id in indexes:
            changes.setdefault(library_id, []).append(change)
            rows += change.added.count + change.removed.count + change.kept.count
            if rows >= _PAGE_ROWS and change is not found.changes[-1]:
                through = change.position
                break
    return LogStretch(changes, deleted, outdated, through, head)
