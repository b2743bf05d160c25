"""A step of the log applied to standing queries, all at once.

What is removed leaves the sets; what is added enters those whose boundary it beats. A float32
matrix product finds the few pairs that may, `scores.exact_pairs` decides. Runs in the matching
thread; nobody else touches the blocks meanwhile.

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
from headwater.live.judge import GONE, PASSES, Judge, Read
from headwater.live.standing import Standing
from headwater.live.step import Step, Told
from headwater.model import Metric, Position, Rows, Vectors
from headwater.search import scores
from headwater.search.base import Scores
from headwater.search.rowsets import NO_ROWS, spelled_out
from headwater.store.base import Reader

_CELLS = 1 << 20
"""Rough scores held at once (4 MB)."""
_MERGED = 1 << 18
"""Cells merged at once; (rows, scores) 12 bytes each, several times over."""
_DENSE = 32
"""When one pair in so many may enter, all are computed as one product: see `exact_product`."""
_PAIRS = 8_192

Slots = NDArray[np.int64]


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


@dataclass(frozen=True, slots=True)
class _Chunks:
    """What may enter: the step's added rows, then those kept rows a filter may now let pass."""

    rows: Rows
    vectors: Vectors
    squared: NDArray[np.float32]
    longest: float
    document: NDArray[np.int64]
    added: int


def match(
    step: Step,
    blocks: Iterable[Block],
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
    chunks = _Chunks(
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
    block: Block,
    step: Step,
    chunks: _Chunks,
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
                if (standing := block.standings[slot]) is not None
            ]
    slots, columns, found = _candidates(block, chunks, judge, metric, outcome)
    if block.grouped:
        slots, columns, found = _best_of_documents(slots, columns, found, chunks)
    outcome.pairs += len(slots)
    _merge(block, out, slots, chunks.rows[columns], found, reserve, outcome)
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


# ── Who may enter ───────────────────────────────────────────────────────────────────────────────


def _candidates(
    block: Block, chunks: _Chunks, judge: Judge, metric: Metric, outcome: Outcome
) -> tuple[Slots, Slots, Scores]:
    """Pairs that enter: slot (rising), number of the chunk, exact score."""
    nothing = (NO_ROWS, NO_ROWS, np.empty(0, np.float32))
    count = len(chunks.rows)
    if not count:
        return nothing
    bars = _bars(block, chunks.longest, metric)
    step = max(16, _CELLS // count)
    parts = [
        _enter(block, begin, min(begin + step, block.size), bars, chunks, judge, metric, outcome)
        for begin in range(0, block.size, step)
    ]
    parts = [part for part in parts if len(part[0])]
    if not parts:
        return nothing
    slots, columns, found = zip(*parts, strict=True)
    return np.concatenate(slots), np.concatenate(columns), np.concatenate(found)


def _bars(block: Block, longest: float, metric: Metric) -> NDArray[np.float32]:
    """The rough score below which nothing can enter, per slot."""
    size = block.size
    lengths = block.lengths[:size]
    slack = scores.slack_of(metric, block.queries.shape[1], lengths, longest)
    least = np.maximum(block.low_scores[:size], block.floors[:size]).astype(np.float64)
    if metric == "euclidean":
        with np.errstate(divide="ignore", over="ignore"):
            distance = np.where(least > 0, 1.0 / np.where(least > 0, least, 1.0) - 1.0, np.inf)
            least = lengths**2 - np.maximum(distance, 0.0) ** 2
    bars: NDArray[np.float32] = np.nextafter(
        (least - slack).astype(np.float32), np.float32(-np.inf)
    )
    bars[~block.open[:size]] = np.inf
    return bars


def _enter(
    block: Block,
    begin: int,
    end: int,
    bars: NDArray[np.float32],
    chunks: _Chunks,
    judge: Judge,
    metric: Metric,
    outcome: Outcome,
) -> tuple[Slots, Slots, Scores]:
    queries = block.queries[begin:end]
    rough = scores.rough(metric, queries, chunks.vectors, chunks.squared)
    may = rough >= bars[begin:end, None]
    filters = block.filters[begin:end]
    may[:, chunks.added :] &= (filters >= 0)[:, None]
    own, columns = np.nonzero(may)
    if not len(own):
        return NO_ROWS, NO_ROWS, np.empty(0, np.float32)
    judged = np.flatnonzero(filters[own] >= 0)
    if len(judged):
        verdicts = judge.verdicts(filters[own[judged]], columns[judged])
        for place in np.unique(own[judged[verdicts == GONE]]).tolist():
            standing = block.standings[begin + place]
            if standing is not None:
                outcome.held.append((standing, judge.head))
        passes = np.ones(len(own), np.bool_)
        passes[judged] = verdicts == PASSES
        own, columns = own[passes], columns[passes]
    found = _exactly(queries, own, columns, chunks.vectors, may.size, metric)
    slots = own + begin
    low = block.low_scores[slots]
    enters = (found >= block.floors[slots]) & (
        (found > low) | ((found == low) & (chunks.rows[columns] <= block.low_rows[slots]))
    )
    if not enters.all():
        slots, columns, found = slots[enters], columns[enters], found[enters]
    if not block.grouped and len(slots) > block.width * (end - begin):
        best = _only_best(slots, found, block)
        slots, columns, found = slots[best], columns[best], found[best]
    return slots, columns, found


def _exactly(
    queries: Vectors,
    own: Slots,
    columns: Slots,
    vectors: Vectors,
    cells: int,
    metric: Metric,
) -> Scores:
    """The exact score of each pair of a query and a vector."""
    if len(own) * _DENSE > cells:
        used, place = np.unique(own, return_inverse=True)
        product = scores.exact_product(metric, queries[used], vectors)
        dense: Scores = product[place, columns]
        return dense
    found = np.empty(len(own), np.float32)
    for at in range(0, len(own), _PAIRS):
        part = slice(at, at + _PAIRS)
        found[part] = scores.exact_pairs(metric, queries[own[part]], vectors[columns[part]])
    return found


def _only_best(slots: Slots, found: Scores, block: Block) -> NDArray[np.bool_]:
    """Of many pairs those that are among a query's best `width`, or equal to the last of them."""
    first, starts, counts = np.unique(slots, return_index=True, return_counts=True)
    keep = np.ones(len(slots), np.bool_)
    for slot, start, count in zip(first.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if count > block.width and block.k[slot] <= block.width:
            own = found[start : start + count]
            bar = np.partition(own, count - block.width)[count - block.width]
            keep[start : start + count] = own >= bar
    return keep


def _best_of_documents(
    slots: Slots, columns: Slots, found: Scores, chunks: _Chunks
) -> tuple[Slots, Slots, Scores]:
    """Of each document the chunk that ranks first."""
    if not len(slots):
        return slots, columns, found
    documents = chunks.document[columns]
    order = np.lexsort((chunks.rows[columns], -found, documents, slots))
    slots, columns, found, documents = (
        slots[order],
        columns[order],
        found[order],
        documents[order],
    )
    first = np.ones(len(slots), np.bool_)
    first[1:] = (slots[1:] != slots[:-1]) | (documents[1:] != documents[:-1])
    return slots[first], columns[first], found[first]


# ── Entering and leaving ────────────────────────────────────────────────────────────────────────


def _merge(
    block: Block,
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
    block: Block,
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
        standing = block.standings[int(slots[place])]
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
        standing = block.standings[slot]
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


def _note_touched(block: Block, step: Step, kept_rows: Rows, outcome: Outcome) -> None:
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
        standing = block.standings[slot]
        if standing is not None:
            outcome.retouched.append(standing)
