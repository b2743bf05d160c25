"""A stretch of the log with the vectors it added, read in one transaction.

How a view follows when the ring does not reach: at start, after a gap, in the second process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headwater.model import Change, Position, Rows, Span, Vectors
from headwater.search.rowsets import spelled_out
from headwater.store.base import Reader

DELETED = "library.deleted"
REBUILDING = "index.rebuilding"
"""Views are to be made anew: those that met it are not to be trusted in the long run."""
OPTIMIZING = "index.optimizing"
REGENERATED = "library.regenerated"
"""The library's vectors are all of another generation: those of two never meet in one view."""

_TYPES = (
    "document.added",
    "document.updated",
    "document.embedded",
    "document.deleted",
    DELETED,
    REBUILDING,
    OPTIMIZING,
    REGENERATED,
)

_PAGE_CHANGES = 1_000
_PAGE_ROWS = 8_192
"""Chunk rows after which a page is cut: one document may have thousands."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one library's view puts in and takes out, in that order.

    `through_row` is the highest row added, also when the store no longer has it.
    """

    added: Sequence[tuple[Rows, Vectors]]
    removed: Rows
    through_row: int


@dataclass(frozen=True, slots=True)
class Page:
    """`head` is the log's head in the same transaction: at `through == head` nothing is left.

    `outdated` and `optimized` are the libraries whose views somebody has asked for; the views of
    those that are `regenerated` are of another generation than the store, and have no step.
    """

    steps: dict[str, Step]
    deleted: list[str]
    outdated: set[str]
    optimized: set[str]
    regenerated: set[str]
    through: Position
    head: Position


def read_page(
    reader: Reader, after: Position, views: Mapping[str, int], *, only: str | None = None
) -> Page:
    """What came after `after` for `views`, which name their generations; `only` reads no other
    library's changes.

    The vectors are those that still exist. A row that is already gone is skipped here and its
    removal, later in the log, then finds nothing to do. Raises `CursorExpired`.
    """
    head = reader.head()
    found = reader.log(
        after,
        _PAGE_CHANGES,
        library_ids=None if only is None else {only},
        types=_TYPES if views else (DELETED,),
    )
    changes, through = _bounded(found.changes, found.through)
    steps = {}
    regenerated: set[str] = set()
    for library_id, generation in views.items():
        own = [change for change in changes if change.library_id == library_id]
        if own and _generation(reader, library_id, generation) != generation:
            regenerated.add(library_id)
        elif own:
            spans = [change.added for change in own if change.added.count]
            pieces = [reader.vectors_of([(s.first, s.count) for s in spans])] if spans else []
            steps[library_id] = Step(pieces, *marks(own))
    deleted = [
        change.library_id for change in changes if change.type == DELETED and change.library_id
    ]
    asked: dict[str, set[str]] = {REBUILDING: set(), OPTIMIZING: set()}
    for change in changes:
        if change.type in asked and change.library_id:
            asked[change.type].add(change.library_id)
    return Page(steps, deleted, asked[REBUILDING], asked[OPTIMIZING], regenerated, through, head)


def _generation(reader: Reader, library_id: str, otherwise: int) -> int:
    """That of the library in this transaction: the vectors it reads are of that."""
    library = reader.library(library_id)
    if library is None or library.id != library_id:
        return otherwise  # it is gone; the log says so
    return library.generation


def marks(changes: Iterable[Change]) -> tuple[Rows, int]:
    """The rows that changes of one library remove, and the highest they add."""
    removed: list[Span] = []
    through_row = 0
    for change in changes:
        if change.removed.count:
            removed.append(change.removed)
        if change.added.count:
            through_row = max(through_row, change.added.first + change.added.count - 1)
    return spelled_out(removed), through_row


def _bounded(changes: list[Change], through: Position) -> tuple[list[Change], Position]:
    rows = 0
    for at, change in enumerate(changes[:-1]):
        rows += change.added.count
        if rows >= _PAGE_ROWS:
            return changes[: at + 1], change.position
    return changes, through
