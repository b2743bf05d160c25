"""A stretch of the log as live queries see it: which rows came, which went, which stayed changed.

Made from the ring or from the store, in the matching thread. Only the state at its end counts: a
row that came and went within it never shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater.errors import LibraryRegenerated
from headwater.model import AddedVectors, Change, Library, Metric, Position, Rows, Span, Vectors
from headwater.search import scores
from headwater.search.rowsets import NO_ROWS, spelled_out
from headwater.store.base import Reader

DELETED = "library.deleted"
REGENERATED = "library.regenerated"
TYPES = (
    "document.added",
    "document.updated",
    "document.embedded",
    "document.deleted",
    DELETED,
    REGENERATED,
)
PENDING = "pending_embedding"

_PAGE_CHANGES = 1_000
_PAGE_ROWS = 2_048


class Facts(msgspec.Struct):
    """What a document's change says."""

    document_id: str = ""
    title: str | None = None
    num_chunks: int = 0
    version: int = 0
    metadata: dict[str, Any] = {}
    status: str | None = None


facts_of = msgspec.json.Decoder(Facts).decode


class Told:
    """A document as its last change in the step tells it. `facts` is read when it is needed."""

    __slots__ = ("_facts", "change")

    def __init__(self, change: Change) -> None:
        self.change = change
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            self._facts = facts_of(self.change.data)
        return self._facts


@dataclass(slots=True)
class Step:
    """`count` changes of one library in (`after`, `through`].

    `rows` int64 (n,) rising and `vectors` float32 (n, dim) are what was added and is still there;
    `document` int64 (n,) says which of `documents` each belongs to. `removed` rises. `kept` are
    rows around which their document changed, by the first of them. `settled` is the position from
    which on the step can be relied on: the store may have been ahead of it, and then what was
    added and is gone already is missing here.
    """

    after: Position
    through: Position
    count: int
    rows: Rows
    vectors: Vectors
    document: NDArray[np.int64]
    documents: list[Told]
    removed: Rows
    removals: list[Change]
    kept: dict[int, tuple[Span, Told]]
    settled: Position
    deleted: bool = False
    at_us: int = 0


def make(
    after: Position,
    through: Position,
    changes: Sequence[Change],
    pieces: Iterable[tuple[Rows, Vectors]],
    *,
    metric: Metric,
    dimension: int,
    settled: Position = 0,
) -> Step:
    """`changes` are one library's, in order; `pieces` hold the vectors of what they added, and may
    begin with those of changes before them."""
    documents: list[Told] = []
    by_first: dict[int, int] = {}
    kept: dict[int, tuple[Span, Told]] = {}
    gone: list[Span] = []
    removals: list[Change] = []
    deleted = False
    for change in changes:
        if change.type == DELETED:
            deleted = True
        if change.removed.count:
            gone.append(change.removed)
            removals.append(change)
            kept.pop(change.removed.first, None)
        if change.added.count:
            by_first[change.added.first] = len(documents)
            documents.append(Told(change))
        if change.kept.count:
            first = change.kept.first
            if first in by_first:
                documents[by_first[first]] = Told(change)
            else:
                kept[first] = (change.kept, Told(change))
    removed = spelled_out(gone)
    found = [(rows, matrix) for rows, matrix in pieces if len(rows)]
    rows, matrix = NO_ROWS, np.empty((0, dimension), np.float32)
    if found:
        rows = np.concatenate([part for part, _ in found])
        matrix = np.concatenate([part for _, part in found])
        if len(removed):
            alive = ~np.isin(rows, removed, assume_unique=True)
            if not alive.all():
                rows, matrix = rows[alive], matrix[alive]
        matrix = scores.prepared(metric, matrix)
    firsts = np.fromiter(by_first, np.int64, len(by_first))
    # A commit is given whole, also where its first changes were had before.
    begin = int(np.searchsorted(rows, firsts[0])) if len(firsts) else len(rows)
    rows, matrix = rows[begin:], matrix[begin:]
    numbers = np.fromiter(by_first.values(), np.int64, len(by_first))
    document = np.searchsorted(firsts, rows, side="right") - 1
    return Step(
        after,
        through,
        len(changes),
        rows,
        matrix,
        numbers[document] if len(numbers) else NO_ROWS,
        documents,
        removed,
        removals,
        kept,
        settled,
        deleted,
        changes[-1].at_us if changes else 0,
    )


def pieces_of(library_id: str, vectors: Iterable[AddedVectors]) -> list[tuple[Rows, Vectors]]:
    """A library's part of what was committed."""
    return [
        (np.arange(piece.first, piece.first + len(piece.matrix), dtype=np.int64), piece.matrix)
        for piece in vectors
        if piece.library_id == library_id
    ]


def regenerated(library: Library) -> LibraryRegenerated:
    return LibraryRegenerated(
        f"the vectors of library {library.name!r} were made anew, and scores are others now; "
        "open it again"
    )


def read(reader: Reader, library: Library, after: Position) -> Step:
    """The next stretch after `after`, from the store.

    Raises `CursorExpired`, `LibraryRegenerated` when its vectors are of another generation.
    """
    library_id, metric, dimension = library.id, library.metric, library.dimension
    head = reader.head()
    page = reader.log(after, _PAGE_CHANGES, library_ids={library_id}, types=TYPES)
    changes, through, rows = page.changes, page.through, 0
    for at, change in enumerate(changes[:-1]):
        rows += change.added.count
        if rows >= _PAGE_ROWS:
            changes, through = changes[: at + 1], change.position
            break
    if changes:
        now = reader.library(library_id)
        if now is not None and now.id == library_id and now.generation != library.generation:
            raise regenerated(library)
    spans = [(c.added.first, c.added.count) for c in changes if c.added.count]
    pieces = [reader.vectors_of(spans)] if spans else []
    step = make(after, through, changes, pieces, metric=metric, dimension=dimension)
    # Rows that are missing although nothing in this stretch removed them were removed further on,
    # or wait for their vectors; either way the step is whole once the head of now is reached.
    if spans and len(pieces[0][0]) < sum(count for _, count in spans):
        step.settled = head
    return step
