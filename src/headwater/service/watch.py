"""A live query as one reader sees it: what it has been told, and what has changed since.

    async with live.watch(library, query, after=cursor) as watch:
        while True:
            deltas = await watch.take()      # first the snapshot, or the difference since `after`
            if deltas is None:
                await watch.wait()
                continue
            await send(deltas.events)        # however slow: the next `take` tells what is true then

A watch keeps the hits it has told and nothing else: whoever reads slowly gets fewer, larger
differences, never a queue. Loop only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import anyio
import msgspec
import numpy as np

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import CursorExpired
from headwater.live.alarms import Alarms
from headwater.live.gap import Gap
from headwater.live.marks import Reason, reason_of
from headwater.live.matcher import Matcher
from headwater.live.standing import Standing
from headwater.model import Cursor, Library, Passage, Position, chunk_id
from headwater.service.hits import distance_of
from headwater.service.render import encode, hit_json
from headwater.threads import Lane, Pool

LiveEventName = Literal["snapshot", "ready", "enter", "update", "leave", "progress", "reset"]
LIVE_EVENTS: tuple[LiveEventName, ...] = (
    "snapshot",
    "ready",
    "enter",
    "update",
    "leave",
    "progress",
    "reset",
)

_ATTEMPTS = 8

LARGE = 200
"""Hits; more are put together in a thread."""

Texts = Lane[tuple[Sequence[int], bool], tuple[dict[int, Passage], Position]]
"""Reads passages, with vectors if asked, and says where the store was."""


class LiveEvent(msgspec.Struct, frozen=True, gc=False):
    """One event; `data` is its JSON object, encoded, for a frame or an SSE `data:` line.

    `snapshot`  {"results": [hit…], "cursor"}
    `ready`     {"cursor"}: everything up to there has been told
    `enter`     {"hit", "cursor"}, and "more": true when the same cursor has further events
    `update`    as `enter`: the hit of that chunk_id has another rank, score, text or metadata
    `leave`     {"hit": {rank, chunk_id, document_id, score}, "reason", "cursor"}, "more" as above;
                the rank is the one it had; `reason` is deleted, outranked or no_longer_matches
    `progress`  {"cursor"}: nothing changed up to there
    `reset`     {"code", "detail", …}: the cursor cannot be resumed; a `snapshot` follows
    """

    event: LiveEventName
    data: msgspec.Raw


class Deltas(msgspec.Struct, frozen=True, gc=False):
    """Events in order, all of one cursor. A reader is at `cursor` once it has had the last.

    `kind` is `snapshot`, `difference` (after a resume), `changes` or `progress`.
    """

    kind: Literal["snapshot", "difference", "changes", "progress"]
    cursor: str
    events: list[LiveEvent]


class Told(NamedTuple):
    """A hit as it was told. `rank` counts from 1."""

    row: int
    rank: int
    score: float
    document_id: str
    ordinal: int
    id: str
    """By which a reader knows it: its chunk's, or its document's where hits are grouped."""

    @property
    def chunk_id(self) -> str:
        return chunk_id(self.document_id, self.ordinal)


class Moment(NamedTuple):
    """What a query shows at a position."""

    position: Position
    version: int
    rows: list[int]
    scores: list[float]


class Watch:
    """Made by `LiveSearches.watch`. For one task at a time."""

    def __init__(
        self,
        matcher: Matcher,
        standing: Standing,
        log: Log,
        clock: Clock,
        alarms: Alarms,
        texts: Texts,
        pool: Pool,
        *,
        include: frozenset[str],
        coalesce_s: float,
        after: Cursor | None,
        reset: dict[str, Any] | None,
        resume_changes: int,
    ) -> None:
        self.library: Library = matcher.library
        self.matcher = matcher
        self.standing = standing
        self._log = log
        self._clock = clock
        self._alarms = alarms
        self._texts = texts
        self._pool = pool
        self._include = include
        self._coalesce_s = coalesce_s
        self._after = after
        self._reset = reset
        self._resume_changes = resume_changes
        self._told: dict[int, Told] | None = None
        """What was told, by row, best first."""
        self._seen: Position = 0
        """Where the matcher was when this was last looked at: marks after it are new."""
        self._position: Position = 0 if after is None else after.position
        self._version = -1
        self._due_s = 0.0
        self._delayed = False
        self._rung = False
        self._waiting: anyio.Event | None = None
        self._tell: Callable[[], None] | None = None
        if after is not None:
            matcher.hold(standing, after.position)
        standing.readers.add(self._hear)

    def close(self) -> None:
        self.standing.readers.discard(self._hear)
        self._tell = None

    @property
    def cursor(self) -> str:
        """Up to where was told; empty before anything was."""
        return str(self._log.cursor(self._position)) if self._position else ""

    # ── Waiting ─────────────────────────────────────────────────────────────────────────────────

    def on_news(self, tell: Callable[[], None]) -> None:
        """Call `tell` on the loop whenever `take` may have something; it must be quick."""
        self._tell = tell

    async def wait(self) -> None:
        """Return when `take` may have something."""
        if not self._rung:
            if self._waiting is None:
                self._waiting = anyio.Event()
            await self._waiting.wait()

    def _hear(self) -> None:
        if self.standing.error is None and self._clock.monotonic() < self._due_s:
            if not self._delayed:
                self._delayed = True
                self._alarms.at(self._due_s, self._ring)
            return
        self._ring()

    def _ring(self) -> None:
        self._delayed = False
        self._rung = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.set()
        if self._tell is not None:
            self._tell()

    # ── Taking ──────────────────────────────────────────────────────────────────────────────────

    async def take(self) -> Deltas | None:
        """What has changed since the last `take`; None when nothing has, or not yet.

        Raises `LibraryNotFound` when the library is gone, `TooManyHits` when there are more than
        it may keep, and what searches raise: the watch is then over, and a new one with `after`
        goes on where it was. Cancelling it takes nothing.
        """
        self._rung = False
        standing, matcher = self.standing, self.matcher
        if standing.error is not None:
            raise standing.error
        if not matcher.tellable(standing):
            return None
        if self._clock.monotonic() < self._due_s:
            self._hear()
            return None
        if self._version == standing.version:
            self._seen = matcher.position
            return None
        now = Moment(
            matcher.position, standing.version, standing.rows.tolist(), standing.scores.tolist()
        )
        if self._told is not None:
            deltas = await self._changes(now)
        elif self._after is not None:
            deltas = await self._difference(now, self._after)
        else:
            deltas = await self._snapshot(now)
        if deltas is not None and self._coalesce_s:
            self._due_s = self._clock.monotonic() + self._coalesce_s
        return deltas

    def progress(self) -> Deltas | None:
        """How far it is, when that is further than what was told last and nothing has changed."""
        standing, matcher = self.standing, self.matcher
        if (
            self._told is None
            or self._version != standing.version
            or standing.error is not None
            or not matcher.tellable(standing)
            or matcher.position <= self._position
        ):
            return None
        self._position = self._seen = matcher.position
        cursor = self.cursor
        return Deltas("progress", cursor, [_event("progress", {"cursor": cursor})])

    async def _snapshot(self, now: Moment) -> Deltas | None:
        passages = await self._passages(now.rows)
        if passages is None:
            return None
        told = self._all_told(now, passages)
        results = await self._encoded(list(told.values()), passages)
        cursor = str(self._log.cursor(now.position))
        events = [
            _event("snapshot", {"results": results, "cursor": cursor}),
            _event("ready", {"cursor": cursor}),
        ]
        if self._reset is not None:
            events.insert(0, _event("reset", self._reset))
        self._have_told(now, told)
        return Deltas("snapshot", cursor, events)

    async def _changes(self, now: Moment) -> Deltas | None:
        assert self._told is not None
        before, marks, seen = self._told, self.matcher.marks, self._seen
        shown = set(now.rows)
        reasons = {
            row: self._reason(one, now, seen) for row, one in before.items() if row not in shown
        }
        touched = marks.any_touched(seen)
        fresh = [
            row for row in now.rows if row not in before or (touched and marks.touched(row, seen))
        ]
        passages = await self._passages(fresh)
        if passages is None:
            return None
        leaving = {before[row].id: before[row] for row in reasons}
        told: dict[int, Told] = {}
        upserts: list[tuple[LiveEventName, Told]] = []
        for rank, (row, score) in enumerate(zip(now.rows, now.scores, strict=True), 1):
            old = before.get(row)
            if row in passages:
                one = self._told_of(passages[row], rank, score)
                again = leaving.pop(one.id, None) or old
                upserts.append(("enter" if again is None else "update", one))
            else:
                assert old is not None
                one = old if old.rank == rank else Told(row, rank, *old[2:])
            told[row] = one
        leaves = [(one, reasons[one.row]) for one in leaving.values()]
        if not leaves and not upserts:
            last_told = self._position
            self._have_told(now, told)
            self._position = last_told
            return None
        events = await self._events(now, leaves, upserts, passages)
        self._have_told(now, told)
        return Deltas("changes", self.cursor, events)

    async def _difference(self, now: Moment, after: Cursor) -> Deltas | None:
        """What a reader must be told who was told everything up to `after`, and nothing since."""
        passages = await self._passages(now.rows)
        if passages is None:
            return None
        told = self._all_told(now, passages)
        try:
            found = await self._since(after, {one.id: one for one in told.values()})
        except CursorExpired as error:
            found = None
            self._reset = {"code": error.code, "detail": error.detail, **error.fields}
        if found is None:
            self._reset = self._reset or {
                "code": CursorExpired.code,
                "detail": f"too much has changed since {after} to tell the difference; a snapshot "
                "of what is there now follows",
                "reason": "too_far",
            }
            self._after = None
            return await self._snapshot(now)
        leaves, upserts = found
        events = await self._events(now, leaves, upserts, passages)
        self._have_told(now, told)
        events.append(_event("ready", {"cursor": self.cursor}))
        return Deltas("difference", self.cursor, events)

    def _have_told(self, now: Moment, told: dict[int, Told]) -> None:
        self._told = told
        self._version = now.version
        self._position = self._seen = now.position
        self._after = self._reset = None

    # ── Resuming ────────────────────────────────────────────────────────────────────────────────

    async def _since(
        self, after: Cursor, told: dict[str, Told]
    ) -> tuple[list[tuple[Told, Reason]], list[tuple[LiveEventName, Told]]] | None:
        """Leaves and upserts that make what was told at `after` into `told`; None: too much.

        See docs/decisions/0013 for why this is enough.
        """
        wanted = self.standing.wanted
        gap = Gap(self.library.id, after.position)
        passages = await self._before(gap)
        if passages is None:
            return None
        grouped = wanted.grouped
        leaves: dict[str, tuple[Told, Reason]] = {}
        changed: set[str] = set()
        lost = 0
        for change in gap.removed:
            lost += 1 if grouped else change.removed.count
            for one in _hits_of(change.subject or "", change.removed.count, grouped=grouped):
                id = one.id
                changed.add(id)
                if id not in told:
                    room = wanted.k is None or len(told) < wanted.k
                    leaves[id] = one, reason_of(change, wanted, one.ordinal, room=room)
        for change in gap.touched.values():
            lost += 1 if grouped else change.kept.count
            for one in _hits_of(change.subject or "", change.kept.count, grouped=grouped):
                id = one.id
                changed.add(id)
                if id not in told:
                    leaves[id] = one, reason_of(change, wanted, one.ordinal, room=False)
        places = {row: place for place, row in enumerate(passages, 1)}
        for passage in passages.values():
            gone = self._told_of(passage, 0, 0.0)
            if gone.id not in told:
                leaves[gone.id] = gone, "outranked"
        upserts: list[tuple[LiveEventName, Told]] = []
        for id, one in told.items():
            if id in changed:
                upserts.append(("update", one))
                continue
            place = places.get(one.row)
            had = place is not None and (wanted.k is None or place + lost <= wanted.k)
            if not had:
                upserts.append(("enter", one))
        return list(leaves.values()), upserts

    async def _before(self, gap: Gap) -> dict[int, Passage] | None:
        """What it shows of the rows that were there before the gap and have not changed, in order.

        Reads the gap up to where that holds; None: too much, or too fast.
        """
        wanted = self.standing.wanted
        for _ in range(_ATTEMPTS):
            if not await gap.read_on(self._log, self._resume_changes):
                return None
            found = await self.matcher.before(wanted, gap)
            if found is None:
                return None
            rows, whole = found
            for _ in range(_ATTEMPTS):
                # What came while it was searched counts, too: the answer may be from before it.
                if not await gap.read_on(self._log, self._resume_changes):
                    return None
                changed = np.union1d(gap.removed_rows, gap.touched_rows)
                rows = rows[~np.isin(rows, changed)]
                if not whole and len(rows) < (wanted.k or 0):
                    break
                shown = rows[: wanted.k].tolist()
                passages, _head = await self._texts.submit((shown, False))
                if len(passages) == len(shown):
                    return {row: passages[row] for row in shown}
        return None

    # ── Hits ────────────────────────────────────────────────────────────────────────────────────

    def _told_of(self, passage: Passage, rank: int, score: float) -> Told:
        document_id, ordinal = passage.document_id, passage.ordinal
        grouped = self.standing.wanted.grouped
        id = document_id if grouped else chunk_id(document_id, ordinal)
        return Told(passage.row, rank, score, document_id, ordinal, id)

    def _all_told(self, now: Moment, passages: dict[int, Passage]) -> dict[int, Told]:
        return {
            row: self._told_of(passages[row], rank, score)
            for rank, (row, score) in enumerate(zip(now.rows, now.scores, strict=True), 1)
        }

    async def _passages(self, rows: Sequence[int]) -> dict[int, Passage] | None:
        """What is shown of these rows; None when the store does not have one any more.

        The watch is then held until the matcher has come to its removal.
        """
        known = self.matcher.passages
        found: dict[int, Passage] = {}
        missing: list[int] = []
        vectors = "vector" in self._include
        for row in rows:
            passage = None if vectors else known.get(row)
            if passage is None:
                missing.append(row)
            else:
                found[row] = passage
        if not missing:
            return found
        read, head = await self._texts.submit((missing, vectors))
        if not vectors and self.matcher.position <= head:
            known.take(read)
        found.update(read)
        if len(read) == len(missing):
            return found
        self.matcher.hold(self.standing, head)
        if self.matcher.tellable(self.standing):
            self._ring()  # it has come there meanwhile
        return None

    def _reason(self, one: Told, now: Moment, seen: Position) -> Reason:
        wanted = self.standing.wanted
        room = wanted.k is None or len(now.rows) < wanted.k
        change = self.matcher.marks.fate(one.document_id, seen)
        if change is not None:
            return reason_of(change, wanted, one.ordinal, room=room)
        before_last = not room and (-one.score, one.row) < (-now.scores[-1], now.rows[-1])
        if wanted.filter is not None and (room or before_last):
            return "no_longer_matches"
        return "deleted" if room or before_last else "outranked"

    async def _events(
        self,
        now: Moment,
        leaves: Sequence[tuple[Told, Reason]],
        upserts: Sequence[tuple[LiveEventName, Told]],
        passages: dict[int, Passage],
    ) -> list[LiveEvent]:
        cursor = str(self._log.cursor(now.position))
        left = len(leaves) + len(upserts)
        events: list[LiveEvent] = []
        for one, reason in leaves:
            left -= 1
            hit: dict[str, Any] = {"chunk_id": one.chunk_id, "document_id": one.document_id}
            if one.rank:
                hit |= {"rank": one.rank, "score": one.score}
            events.append(_event("leave", _group(left, hit=hit, reason=reason, cursor=cursor)))
        hits = await self._encoded([one for _, one in upserts], passages)
        for (name, _), encoded in zip(upserts, hits, strict=True):
            left -= 1
            events.append(_event(name, _group(left, hit=encoded, cursor=cursor)))
        return events

    async def _encoded(
        self, hits: Sequence[Told], passages: dict[int, Passage]
    ) -> list[msgspec.Raw]:
        def together() -> list[msgspec.Raw]:
            return [self._shown(one, passages[one.row]) for one in hits]

        return together() if len(hits) <= LARGE else await self._pool.call(together)

    def _shown(self, one: Told, passage: Passage) -> msgspec.Raw:
        """Each by itself: encoding many at once would hold up every other thread."""
        hit = hit_json(passage, one.rank, one.score, self._include)
        if "distance" in self._include:
            hit["distance"] = distance_of(one.score, self.library)
        return msgspec.Raw(encode(hit))


def _hits_of(document_id: str, count: int, *, grouped: bool) -> list[Told]:
    """The chunks of a document, as far as they can be told apart in a watch."""
    many = min(count, 1) if grouped else count
    return [
        Told(
            0,
            0,
            0.0,
            document_id,
            ordinal,
            document_id if grouped else chunk_id(document_id, ordinal),
        )
        for ordinal in range(many)
    ]


def _group(left: int, **data: Any) -> dict[str, Any]:
    return {**data, "more": True} if left else data


def _event(name: LiveEventName, data: dict[str, Any]) -> LiveEvent:
    return LiveEvent(name, msgspec.Raw(encode(data)))
