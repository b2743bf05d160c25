"""A step of the log applied to standing queries, all at once.

What is removed leaves the sets; what is added enters those whose boundary it beats. Runs in the
matching thread; nobody else touches the blocks meanwhile.

The sets are right after the step if they were right before it, and also if they were ahead of it:
a step may come again (`again`), as the state of a row after it depends on the step alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headwater.filters import Filter
from headwater.live.block import EVERYTHING, NO_ROW, Block, Kept
from headwater.live.judge import Judge, Read
from headwater.live.scoring import Chunks, Slots, best_of_documents, candidates
from headwater.live.standing import Standing
from headwater.live.step import Step, Told
from headwater.model import Metric, Position, Rows, Vectors
from headwater.search import scores
from headwater.search.base import Scores
from headwater.search.rowsets import spelled_out
from headwater.store.base import Reader

_MERGED = 1 << 18
"""Cells merged at once; (rows, scores) 12 bytes each, several times over."""


@dataclass(slots=True)
class Outcome:
    """What a step did. `shown` is what some queries show now, where it differs from before.

    `short` ones lack rows they would show; `low` ones soon may. `full` ones keep everything above
    a floor and need a wider block for it. `held` are not to be relied on before a position.
    `touched` are kept rows of sets by the change that touched them, `retouched` the queries that
    show such. `fated` are documents of which rows were taken out of a set.
    """

    shown: list[tuple[Standing, Rows, Scores]] = field(default_factory=list)
    short: list[Standing] = field(default_factory=list)
    low: list[Standing] = field(default_factory=list)
    full: list[tuple[Standing, Kept]] = field(default_factory=list)
    held: list[tuple[Standing, Position]] = field(default_factory=list)
    touched: dict[int, Position] = field(default_factory=dict)
    retouched: list[Standing] = field(default_factory=list)
    fated: set[str | None] = field(default_factory=set)
    pairs: int = 0


def match(
    step: Step,
    blocks: Iterable[Block[Standing]],
    filters: Sequence[Filter],
    read: Read,
    *,
    metric: Metric,
    reserve: int,
    again: bool = False,
) -> Outcome:
    """Apply `step`. A query is `low` with fewer than `reserve` rows beyond what it shows."""
    outcome = Outcome()
    blocks = [block for block in blocks if len(block)]
    if not blocks:
        return outcome
    kept_rows = spelled_out(span for span, _ in step.kept.values())
    documents = [step.documents[number] for number in step.document.tolist()]
    rows, vectors, document = step.rows, step.vectors, step.document
    held: Position = 0
    if len(kept_rows) and any((block.filters[: block.size] >= 0).any() for block in blocks):
        spans = sorted((span.first, span.count) for span, _ in step.kept.values())

        def query(reader: Reader) -> tuple[Rows, Vectors, Position]:
            return *reader.vectors_of(spans), reader.head()

        again_rows, again_vectors, head = read(query)
        if len(again_rows) < len(kept_rows):
            held = head  # some are gone, or have no vector yet
        if len(again_rows):
            told, owner = _owners(again_rows, step, len(step.documents))
            documents += told
            rows = np.concatenate([rows, again_rows])
            vectors = np.concatenate([vectors, scores.prepared(metric, again_vectors)])
            document = np.concatenate([document, owner])
    squared = scores.squares(vectors)
    chunks = Chunks(
        rows,
        vectors,
        squared,
        float(np.sqrt(squared.max())) if len(rows) else 0.0,
        document,
        len(step.rows),
    )
    judge = Judge(filters, rows, documents, read)
    gone = step.removed
    if again and len(step.rows):
        gone = np.union1d(gone, step.rows)
    for block in blocks:
        _apply(block, step, chunks, judge, gone, kept_rows, metric, reserve, held, outcome)
    return outcome


def _owners(rows: Rows, step: Step, first: int) -> tuple[list[Told], NDArray[np.int64]]:
    """The documents of kept rows, and a number for each that no added document has."""
    firsts = np.array(sorted(step.kept), np.int64)
    place = np.searchsorted(firsts, rows, side="right") - 1
    told = [step.kept[int(firsts[at])][1] for at in place.tolist()]
    return told, place + first


def _apply(
    block: Block[Standing],
    step: Step,
    chunks: Chunks,
    judge: Judge,
    gone: Rows,
    kept_rows: Rows,
    metric: Metric,
    reserve: int,
    held: Position,
    outcome: Outcome,
) -> None:
    size = block.size
    out = _members(block.rows[:size], gone)
    if len(gone):
        _note_fates(block.rows[:size][out], step, outcome)
    filtered = block.filters[:size] >= 0
    if len(kept_rows) and filtered.any():
        out |= _members(block.rows[:size], kept_rows) & filtered[:, None]
        if held:
            outcome.held += [
                (standing, held)
                for slot in np.flatnonzero(filtered).tolist()
                if (standing := block.owners[slot]) is not None
            ]
    found = candidates(block, chunks, judge, metric)
    for slot in found.unsure:
        standing = block.owners[slot]
        if standing is not None:
            outcome.held.append((standing, judge.head))
    if block.grouped:
        best_of_documents(found, chunks)
    outcome.pairs += len(found.slots)
    _merge(block, out, found.slots, chunks.rows[found.columns], found.scores, reserve, outcome)
    if len(kept_rows):
        _note_touched(block, step, kept_rows, outcome)


def _members(rows: Rows, wanted: Rows) -> NDArray[np.bool_]:
    """Which cells of `rows` are among the rising `wanted`."""
    if not len(wanted):
        return np.zeros(rows.shape, np.bool_)
    inside: NDArray[np.bool_] = (rows >= wanted[0]) & (rows <= wanted[-1])
    if len(wanted) <= wanted[-1] - wanted[0]:  # they have gaps
        cells = np.flatnonzero(inside)
        values = rows.reshape(-1)[cells]
        inside.reshape(-1)[cells] = wanted[np.searchsorted(wanted, values)] == values
    return inside


# ── Entering and leaving ────────────────────────────────────────────────────────────────────────


def _merge(
    block: Block[Standing],
    out: NDArray[np.bool_],
    slots: Slots,
    rows: Rows,
    found: Scores,
    reserve: int,
    outcome: Outcome,
) -> None:
    """Take out the cells `out` and put in the pairs, given by rising slot."""
    entering = np.bincount(slots, minlength=block.size)
    starts = np.cumsum(entering) - entering
    affected = np.flatnonzero((entering > 0) | out.any(axis=1))
    # Alike together: a few queries that take in many rows must not make room for them in all.
    affected = affected[np.argsort(entering[affected], kind="stable")]
    begin = 0
    while begin < len(affected):
        end = begin + 1
        while (
            end < len(affected)
            and (block.width + int(entering[affected[end]])) * (end - begin) < _MERGED
        ):
            end = min(len(affected), end + 64)
        some = affected[begin:end]
        begin = end
        _merge_some(
            block, some, out[some], starts[some], entering[some], rows, found, reserve, outcome
        )


def _merge_some(
    block: Block[Standing],
    slots: Slots,
    out: NDArray[np.bool_],
    starts: Slots,
    entering: Slots,
    rows: Rows,
    found: Scores,
    reserve: int,
    outcome: Outcome,
) -> None:
    width, before = block.width, block.rows[slots]
    wide = width + int(entering.max())
    all_rows = np.full((len(slots), wide), NO_ROW, np.int64)
    all_scores = np.full((len(slots), wide), -np.inf, np.float32)
    all_rows[:, :width] = np.where(out, NO_ROW, before)
    all_scores[:, :width] = np.where(out, np.float32(-np.inf), block.scores[slots])
    if wide > width:
        ordinal = np.arange(int(entering.sum())) - np.repeat(
            np.cumsum(entering) - entering, entering
        )
        into = np.repeat(np.arange(len(slots)), entering)
        source = np.repeat(starts, entering) + ordinal
        all_rows[into, width + ordinal] = rows[source]
        all_scores[into, width + ordinal] = found[source]
    order = np.lexsort((all_rows, -all_scores), axis=-1)
    all_rows = np.take_along_axis(all_rows, order, axis=1)
    all_scores = np.take_along_axis(all_scores, order, axis=1)
    count = (all_rows != NO_ROW).sum(axis=1)
    k = block.k[slots]
    overfull = (count > width) & (k > width)
    for place in np.flatnonzero(overfull).tolist():
        standing = block.owners[int(slots[place])]
        if standing is not None:
            most = int(count[place])
            kept = Kept(all_rows[place, :most].copy(), all_scores[place, :most].copy(), *EVERYTHING)
            outcome.full.append((standing, kept))
    cut = (count > width) & ~overfull
    block.low_scores[slots[cut]] = all_scores[cut, width - 1]
    block.low_rows[slots[cut]] = all_rows[cut, width - 1]
    after = all_rows[:, :width]
    block.rows[slots] = after
    block.scores[slots] = all_scores[:, :width]
    lacking = block.low_scores[slots] > -np.inf
    shown = np.arange(width) < k[:, None]
    differs = ((before != after) & shown).any(axis=1) & ~overfull
    for place in np.flatnonzero(differs | lacking & (count < k + reserve)).tolist():
        slot = int(slots[place])
        standing = block.owners[slot]
        if standing is None:
            continue
        if differs[place]:
            many = int(min(count[place], k[place], width))
            outcome.shown.append(
                (standing, after[place, :many].copy(), all_scores[place, :many].copy())
            )
        if lacking[place] and count[place] < k[place]:
            outcome.short.append(standing)
        elif lacking[place] and count[place] < k[place] + reserve:
            outcome.low.append(standing)


# ── What readers are told of rows ───────────────────────────────────────────────────────────────


def _note_fates(rows: Rows, step: Step, outcome: Outcome) -> None:
    if not len(rows) or not step.removals:
        return
    removals = sorted(step.removals, key=lambda change: change.removed.first)
    firsts = np.array([change.removed.first for change in removals], np.int64)
    places = np.unique(np.searchsorted(firsts, np.unique(rows), side="right") - 1)
    outcome.fated.update(removals[at].subject for at in places.tolist() if at >= 0)


def _note_touched(block: Block[Standing], step: Step, kept_rows: Rows, outcome: Outcome) -> None:
    rows = block.rows[: block.size]
    inside = _members(rows, kept_rows)
    if not inside.any():
        return
    spans = sorted(step.kept.values(), key=lambda kept: kept[0].first)
    firsts = np.array([span.first for span, _ in spans], np.int64)
    for row in np.unique(rows[inside]).tolist():
        at = int(np.searchsorted(firsts, row, side="right")) - 1
        outcome.touched[row] = spans[at][1].change.position
    shown = np.arange(block.width) < block.k[: block.size, None]
    for slot in np.flatnonzero((inside & shown).any(axis=1)).tolist():
        standing = block.owners[slot]
        if standing is not None:
            outcome.retouched.append(standing)
