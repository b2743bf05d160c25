"""The alerts of one library as a matrix, and what of a stretch of the log they match.

Every version of a document is looked at, also one that the next change replaces. Touched by the
thread of the alerts alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from headwater.filters import parse
from headwater.live.bench import Filters
from headwater.live.block import EVERYTHING, Block, Kept
from headwater.live.judge import Judge, Read
from headwater.live.scoring import Chunks, best_of_documents, candidates
from headwater.live.standing import NO_SCORES, Wanted
from headwater.live.step import PENDING, Told
from headwater.model import Alert, Change, Metric, Position, Rows, Vectors, chunk_id
from headwater.search import scores
from headwater.search.rowsets import NO_ROWS
from headwater.store.alert_commands import Match
from headwater.store.base import Reader

_NOTHING = Kept(NO_ROWS, NO_SCORES, *EVERYTHING)


@dataclass(frozen=True, slots=True)
class Entry:
    """An alert as it stands in the matrix."""

    row: int
    position: int


class AlertTable:
    """Alerts of one library of that metric and dimension."""

    def __init__(self, metric: Metric, dimension: int) -> None:
        self._metric: Metric = metric
        self._dimension = dimension
        self._block = Block[Entry](1, dimension, grouped=True)
        self._filters = Filters()
        self._slots: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, alert: Alert) -> None:
        """Take it in, in place of what it was before."""
        self.remove(alert.id)
        filter = None if alert.filter is None else parse(msgspec.json.decode(alert.filter))
        wanted = Wanted(alert.vector.tobytes(), filter, 1, alert.score_threshold, True)
        self._slots[alert.id] = self._block.put(
            Entry(alert.row, alert.position), wanted, _NOTHING, self._filters.take(filter)
        )

    def holds(self, id: str | None, position: Position) -> bool:
        """Whether it has that alert as it is at `position`, or later."""
        slot = self._slots.get(id or "")
        entry = None if slot is None else self._block.owners[slot]
        return entry is not None and entry.position >= position

    def remove(self, id: str) -> None:
        slot = self._slots.pop(id, None)
        if slot is not None:
            self._filters.give_back(int(self._block.filters[slot]))
            self._block.drop(slot)

    def match(
        self, changes: Sequence[Change], pieces: Iterable[tuple[Rows, Vectors]], read: Read
    ) -> list[Match]:
        """What they match of the changes, in the order of the log, then of the alerts.

        `pieces` hold the vectors that were added, as far as they are known; the rest is read.
        """
        told = [Told(change) for change in changes if change.added.count or change.kept.count]
        told = [one for one in told if one.facts.status != PENDING]
        if not told or not self._slots:
            return []
        chunks, documents = self._chunks(told, pieces, read)
        if not len(chunks.rows):
            return []
        judge = Judge(self._filters.all, chunks.rows, documents, read, lenient=True)
        found = candidates(self._block, chunks, judge, self._metric)
        best_of_documents(found, chunks)
        matches = []
        for slot, column, score in zip(
            found.slots.tolist(), found.columns.tolist(), found.scores.tolist(), strict=True
        ):
            entry = self._block.owners[slot]
            one = documents[column]
            change = one.change
            if entry is None or entry.position >= change.position:
                continue  # it has come after that version
            first = (change.added if change.added.count else change.kept).first
            facts = one.facts
            matches.append(
                Match(
                    change.position,
                    entry.row,
                    facts.document_id,
                    chunk_id(facts.document_id, int(chunks.rows[column]) - first),
                    facts.title,
                    score,
                    facts.version,
                )
            )
        matches.sort(key=lambda match: (match.position, match.alert))
        return matches

    def _chunks(
        self, told: Sequence[Told], pieces: Iterable[tuple[Rows, Vectors]], read: Read
    ) -> tuple[Chunks, list[Told]]:
        """The chunks of those versions that there are, each with the version it is one of."""
        spans = [(one.change.added if one.change.added.count else one.change.kept) for one in told]
        known = _sorted(pieces, self._dimension)
        missing = [(span.first, span.count) for span in spans if not _holds(known[0], span.first)]
        if missing:

            def query(reader: Reader) -> tuple[Rows, Vectors]:
                return reader.vectors_of(sorted(set(missing)))

            known = _sorted([known, read(query)], self._dimension)
        rows, vectors = known
        places: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        owners: list[int] = []
        for number, span in enumerate(spans):
            begin, end = np.searchsorted(rows, [span.first, span.first + span.count])
            places.append(np.arange(begin, end))
            owners += [number] * int(end - begin)
        place = np.concatenate(places)
        matrix = scores.prepared(self._metric, vectors[place])
        squared = scores.squares(matrix)
        longest = float(np.sqrt(squared.max())) if len(place) else 0.0
        chunks = Chunks(
            rows[place], matrix, squared, longest, np.array(owners, np.int64), len(place)
        )
        return chunks, [told[number] for number in owners]


def _holds(rows: Rows, row: int) -> bool:
    at = int(np.searchsorted(rows, row))
    return at < len(rows) and int(rows[at]) == row


def _sorted(pieces: Iterable[tuple[Rows, Vectors]], dimension: int) -> tuple[Rows, Vectors]:
    """All of them by rising row, each row once."""
    found = [piece for piece in pieces if len(piece[0])]
    if not found:
        return NO_ROWS, np.empty((0, dimension), np.float32)
    rows = np.concatenate([piece[0] for piece in found])
    vectors = np.concatenate([piece[1] for piece in found])
    unique, first = np.unique(rows, return_index=True)
    return (
        (rows, vectors) if len(unique) == len(rows) and _rises(rows) else (unique, vectors[first])
    )


def _rises(rows: Rows) -> bool:
    return bool((rows[1:] > rows[:-1]).all())
