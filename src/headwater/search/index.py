"""One library's vector index: sealed segments, heads waiting to be sealed, and the open head.

The loop appends, removes, plans and swaps; lanes search and build. A searcher takes the current
`Parts` by one reference and no lock; whatever replaces it later does not touch it. Rows rise from
part to part, so a row is found by binary search. Nothing here reads the store or the clock.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headwater.model import Metric, Rows, Vectors
from headwater.search import scores
from headwater.search.head import Head, HeadRows
from headwater.search.parts import Found, Parts
from headwater.search.seek import Seek
from headwater.search.segment import Segment, build, row_bytes
from headwater.search.sieve import Sieve
from headwater.settings import SearchSettings

_COPY_RATIO = 16
"""An older segment takes in new rows when it is at most this many times larger than they are:
copying a row costs about a hundredth of inserting one into a graph."""

_QUIET_RATIO = 64
"""The same while the library is quiet, when a little work buys one graph instead of two."""

_LARGEST_SEGMENT = 1_000_000
"""Rows; larger segments are left alone, as a copy of one exists while it grows."""

_HEADS_AT_ONCE = 4
"""Heads sealed in one build, so that a long queue becomes searchable by graph bit by bit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A build to do: neighbouring segments, then sealed heads, become one segment.

    The first of `segments` is copied when `grow` is set; all else is inserted again.
    """

    segments: tuple[Segment, ...]
    heads: tuple[Head, ...]
    grow: bool


@dataclass(frozen=True, slots=True)
class Capture:
    """What a snapshot saves: parts that no longer change, and copies of the flags that do."""

    segments: tuple[tuple[Segment, NDArray[np.uint8]], ...]
    heads: tuple[HeadRows, ...]
    last_row: int


class VectorIndex:
    """Rows rise: `append` ignores rows at or below `last_row`, so repeating one is harmless."""

    def __init__(
        self,
        dimension: int,
        metric: Metric,
        settings: SearchSettings,
        disk: Path | None = None,
    ) -> None:
        """With `disk` segments are quantised and keep their float32 vectors in files there."""
        self.dimension = dimension
        self.metric: Metric = metric
        self.last_row = 0
        self.parts = Parts((), (), Head(dimension, metric))
        self._settings = settings
        self.disk = disk
        self._late: list[Rows] | None = None
        self._in_making_bytes = 0
        """What the segment that is being built takes, in the end."""

    # ── Figures ─────────────────────────────────────────────────────────────────────────────────

    @property
    def live(self) -> int:
        return self.parts.live

    @property
    def dead(self) -> int:
        parts = self.parts
        return sum(part.dead for part in parts.segments) + sum(head.dead for head in parts.heads)

    @property
    def head_rows(self) -> int:
        return sum(head.live for head in self.parts.heads)

    @property
    def memory_bytes(self) -> int:
        parts = self.parts
        return (
            sum(segment.memory_bytes for segment in parts.segments)
            + sum(head.memory_bytes for head in parts.heads)
            + self._in_making_bytes
        )

    @property
    def building(self) -> bool:
        return self._late is not None

    def rows(self) -> Rows:
        """The rows a search could find now, rising. Any thread."""
        parts = self.parts
        found = [segment.rows[segment.alive()] for segment in parts.segments]
        found += [head.look().live()[0] for head in parts.heads]
        return np.concatenate(found)

    # ── Change (loop only) ──────────────────────────────────────────────────────────────────────

    def append(self, rows: Rows, matrix: Vectors) -> None:
        """Take new rows, rising, with their vectors as the store has them.

        Raises ValueError when the rows do not rise or the vectors do not fit.
        """
        begin = int(np.searchsorted(rows, self.last_row, side="right"))
        if begin:
            rows, matrix = rows[begin:], matrix[begin:]
        if not len(rows):
            return
        if matrix.shape != (len(rows), self.dimension):
            raise ValueError(f"vectors of shape {matrix.shape} for {len(rows)} rows")
        if len(rows) > 1 and int(np.diff(rows).min()) <= 0:
            raise ValueError("rows do not rise")
        self.append_prepared(rows, scores.prepared(self.metric, matrix))

    def append_prepared(self, rows: Rows, vectors: Vectors) -> None:
        """As `append`, for vectors that come from an index and not from the store."""
        size = self._settings.seal_rows
        at = 0
        while at < len(rows):
            if self.parts.head.count >= size:
                self._seal()
            room = size - self.parts.head.count
            self.parts.head.append(rows[at : at + room], vectors[at : at + room])
            at += room
        if len(rows):
            self.last_row = int(rows[-1])
            if self.parts.head.count >= size:
                self._seal()

    def pass_row(self, row: int) -> None:
        """Rows up to this one will not be appended any more: the store no longer has them."""
        self.last_row = max(self.last_row, row)

    def remove(self, rows: Rows) -> int:
        """Take sorted rows out; unknown ones are ignored. Returns how many were there."""
        if not len(rows):
            return 0
        if self._late is not None:
            self._late.append(rows)
        parts = self.parts
        return sum(segment.remove(rows) for segment in parts.segments) + sum(
            head.remove(rows) for head in parts.heads
        )

    def _seal(self) -> None:
        parts = self.parts
        self.parts = replace(
            parts,
            sealed=(*parts.sealed, parts.head),
            head=Head(self.dimension, self.metric),
        )

    # ── Building ────────────────────────────────────────────────────────────────────────────────

    def plan(self, *, quiet: bool, full: bool = False) -> Plan | None:
        """The next build worth doing, and the promise to `swap` or `drop` it. Loop only.

        `quiet` says that nothing was written for a while: then a large enough head is sealed too
        and small segments join their neighbours. With `full` every head is sealed, segments join
        as far as they may grow, and none keeps dead rows.
        """
        if self.building:
            return None
        settings = self._settings
        if full:
            if self.parts.head.count:
                self._seal()
        elif quiet and self.live > settings.exact_rows:
            fold = max(1, min(settings.seal_rows // 8, settings.exact_rows))
            if self.parts.head.live >= fold:
                self._seal()
        ratio = _LARGEST_SEGMENT if full else _QUIET_RATIO if quiet else _COPY_RATIO
        plan = self._next(ratio, full=full)
        if plan is not None:
            self._late = []
            rows = sum(segment.count for segment in plan.segments)
            rows += sum(head.count for head in plan.heads)
            self._in_making_bytes = rows * row_bytes(self.dimension, self.disk is not None)
        return plan

    def _next(self, ratio: int, *, full: bool) -> Plan | None:
        parts = self.parts
        segments = parts.segments
        if parts.sealed:
            heads = parts.sealed[:_HEADS_AT_ONCE]
            first = self._reach(len(segments), sum(head.live for head in heads), ratio)
            return self._plan(segments[first:], heads, full=full)
        for at in reversed(range(len(segments))):
            if not segments[at].live or self._too_dead(segments[at], full=full):
                return self._plan(segments[at : at + 1], (), full=full)
            first = self._reach(at, segments[at].live, ratio)
            if first < at:
                return self._plan(segments[first : at + 1], (), full=full)
        return None

    def _reach(self, first: int, gathered: int, ratio: int) -> int:
        """How far to the left segments should join `gathered` rows that follow `first`."""
        while first:
            older = self.parts.segments[first - 1].live
            if older > ratio * gathered or older + gathered > _LARGEST_SEGMENT:
                break
            gathered += older
            first -= 1
        return first

    def _plan(self, segments: tuple[Segment, ...], heads: tuple[Head, ...], *, full: bool) -> Plan:
        return Plan(segments, heads, bool(segments) and not self._too_dead(segments[0], full=full))

    def _too_dead(self, segment: Segment, *, full: bool) -> bool:
        allowed = 0 if full else self._settings.max_dead_fraction * segment.count
        return segment.dead > allowed

    def build(self, plan: Plan, stop: threading.Event) -> Segment:
        """Do it; for one thread that may be slow. Raises `Abandoned` once `stop` is set."""
        again = plan.segments[1:] if plan.grow else plan.segments
        sources = []
        for segment in again:
            alive = segment.alive()
            sources.append((segment.rows[alive], segment.vectors[alive]))
        sources += [head.look().live() for head in plan.heads]
        return build(
            plan.segments[0] if plan.grow else None,
            sources,
            self.dimension,
            self.metric,
            self._settings.ef_construction,
            stop,
            self.disk,
        )

    def swap(self, plan: Plan, built: Segment) -> None:
        """Put the result in the place of what it was made from. Loop only."""
        assert self._late is not None, "swap without a plan"
        for rows in self._late:
            built.remove(rows)
        self.drop()
        parts = self.parts
        kept = [segment for segment in parts.segments if segment not in plan.segments]
        if built.live:
            at = sum(int(segment.rows[0]) < int(built.rows[0]) for segment in kept)
            kept.insert(at, built)
        sealed = tuple(head for head in parts.sealed if head not in plan.heads)
        self.parts = Parts(tuple(kept), sealed, parts.head)

    def drop(self) -> None:
        """There is no planned build any more. Loop only."""
        self._late = None
        self._in_making_bytes = 0

    # ── Saving ──────────────────────────────────────────────────────────────────────────────────

    def capture(self) -> Capture:
        """This moment, for `snapshot.save` in a thread. Loop only; copies flags, not vectors."""
        parts = self.parts
        return Capture(
            tuple((segment, segment.bitmap.copy()) for segment in parts.segments),
            tuple(
                replace(look, alive=look.alive.copy())
                for look in (head.look() for head in parts.heads)
            ),
            self.last_row,
        )

    @classmethod
    def restored(
        cls,
        dimension: int,
        metric: Metric,
        settings: SearchSettings,
        segments: Sequence[Segment],
        rows: Rows,
        vectors: Vectors,
        last_row: int,
        disk: Path | None = None,
    ) -> VectorIndex:
        """An index as it was captured; `rows` and `vectors` are the heads' live ones."""
        index = cls(dimension, metric, settings, disk)
        index.parts = replace(index.parts, segments=tuple(segments))
        index.append_prepared(rows, vectors)
        index.last_row = last_row
        return index

    # ── Searching (any thread) ──────────────────────────────────────────────────────────────────

    def search(
        self,
        queries: Vectors,
        ks: Sequence[int],
        *,
        exact: bool = False,
        sieve: Sieve | None = None,
        ef: int | None = None,
    ) -> list[Found]:
        """The `ks[i]` best rows for query i, float32 (n, dim). A small index is always exact.

        With a `sieve` only rows that pass it; `ef` candidates in a walk, or what the settings say.
        """
        parts = self.parts
        settings = self._settings
        return Seek(
            self.metric,
            scores.prepared(self.metric, queries),
            ks,
            ef=settings.ef_search if ef is None else ef,
            exact=exact or parts.live <= settings.exact_rows,
            sieve=sieve,
        ).run(parts)
