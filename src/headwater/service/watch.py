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

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import CursorExpired
from headwater.live.alarms import Alarms
from headwater.live.marks import Reason, reason_of
from headwater.live.matcher import Matcher
from headwater.live.standing import Standing
from headwater.model import Cursor, Library, Passage, Position
from headwater.service.comeback import Comeback, Difference, Texts, Untold
from headwater.service.deltas import Deltas, LiveEvent, LiveEventName, Told, event, told_of
from headwater.service.hits import distance_of
from headwater.service.render import encode, hit_json
from headwater.service.servings import AT_ONCE, SMALL_BYTES, Servings, size_bytes
from headwater.threads import Pool

LARGE = 200
"""Hits; more are put together in a thread."""


_UNTOLD: dict[Untold, str] = {
    "too_far": "too much has changed since {after} to tell the difference",
    "regenerated": "all vectors were made anew since {after}, too much to tell the difference",
    "other_library": "this library was made after {after}: what you have is of another one",
}
Leave = tuple[Told, int, Reason]
"""A hit that is gone, the rank it had (0: nobody knows), and why."""
Upsert = tuple[LiveEventName, int, Told]
"""`enter` or `update`, the rank it has, and the hit."""


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
        servings: Servings,
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
        self._servings = servings
        self._serving = servings.serving(self._ring)
        self._include = include
        self._coalesce_s = coalesce_s
        self._after = after
        self._reset = reset
        self._comeback = Comeback(matcher, standing.wanted, log, texts, resume_changes)
        self._told: dict[int, Told] | None = None
        """What was told, by row."""
        self._order: list[int] = []
        """The rows of what was told, best first."""
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
        self._serving.close()

    @property
    def cursor(self) -> str:
        """Up to where was told; empty before anything was."""
        return str(self._log.cursor(self._position)) if self._position else ""

    # ── Waiting ─────────────────────────────────────────────────────────────────────────────────

    @property
    def rung(self) -> bool:
        """Whether there may be something since the last `take`."""
        return self._rung

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

        To be called when the reader has taken what was told before: until then that has room.
        Raises `LibraryNotFound` when the library is gone, `TooManyHits` when there are more than
        it may keep, and what searches raise: the watch is then over, and a new one with `after`
        goes on where it was. Cancelling it takes nothing.
        """
        self._serving.read()
        try:
            now = self._now()
            if now is None:
                return None
            if self._told is not None:
                deltas = await self._changes(now, self._told)
            elif self._after is not None:
                deltas = await self._difference(now, self._after)
            else:
                async with self._servings.place(len(now.rows)):
                    deltas = await self._snapshot(now)
        finally:
            self._serving.settle()
        if deltas is not None:
            self._calm()
        return deltas

    def take_now(self) -> Deltas | Literal["later"] | None:
        """As `take`, when that waits for nothing and ends nothing; else "later": call `take`.

        Takes that need no task of their own: most do not, when thousands are told of one commit.
        """
        if self._told is None or self.standing.error is not None or "vector" in self._include:
            return "later"
        self._serving.settle()
        now = self._now()
        if now is None:
            return None
        told = self._told
        reasons, fresh = self._compare(now, told)
        known = self.matcher.passages
        passages = {row: passage for _, row in fresh if (passage := known.get(row)) is not None}
        if len(passages) < len(fresh) or len(fresh) > LARGE:
            return "later"
        leaves, upserts = self._changed(now, told, reasons, fresh, passages)
        hits = self._put_together([(rank, one) for _, rank, one in upserts], passages)
        events = self._events(now, leaves, upserts, hits)
        if size_bytes(events) > SMALL_BYTES:
            return "later"
        deltas = self._tell_changes(now, told, upserts, events)
        if deltas is not None:
            self._calm()
        return deltas

    def _now(self) -> Moment | None:
        """What it shows, when that may be told and may be something new."""
        self._rung = False
        standing, matcher = self.standing, self.matcher
        if standing.error is not None:
            raise standing.error
        if not matcher.tellable(standing):
            return None
        if self._due_s and self._clock.monotonic() < self._due_s:
            self._hear()
            return None
        if self._version == standing.version:
            self._seen = matcher.position
            return None
        return Moment(
            matcher.position, standing.version, standing.rows.tolist(), standing.scores.tolist()
        )

    def _calm(self) -> None:
        """Tell nothing more before it is due."""
        if self._coalesce_s:
            self._due_s = self._clock.monotonic() + self._coalesce_s

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
        return Deltas("progress", cursor, [event("progress", {"cursor": cursor})])

    async def _snapshot(self, now: Moment) -> Deltas | None:
        passages = await self._passages(now.rows)
        if passages is None:
            return None
        told = self._all_told(now, passages)
        results = await self._encoded(list(enumerate(told.values(), 1)), passages)
        cursor = str(self._log.cursor(now.position))
        events = [
            event("snapshot", {"results": results, "cursor": cursor}),
            event("ready", {"cursor": cursor}),
        ]
        if self._reset is not None:
            events.insert(0, event("reset", self._reset))
        if not self._serving.fits(events):
            return None
        self._told = told
        self._have_told(now)
        return Deltas("snapshot", cursor, events)

    async def _changes(self, now: Moment, told: dict[int, Told]) -> Deltas | None:
        reasons, fresh = self._compare(now, told)
        async with self._servings.place(len(fresh)):
            passages = await self._passages([row for _, row in fresh])
            if passages is None:
                return None
            leaves, upserts = self._changed(now, told, reasons, fresh, passages)
            hits = await self._encoded([(rank, one) for _, rank, one in upserts], passages)
            events = self._events(now, leaves, upserts, hits)
            if not self._serving.fits(events):
                return None
        return self._tell_changes(now, told, upserts, events)

    def _compare(
        self, now: Moment, told: dict[int, Told]
    ) -> tuple[dict[int, Reason], list[tuple[int, int]]]:
        """Why rows are gone, and (rank, row) of what is to be told: most stay as they were told."""
        marks, seen = self.matcher.marks, self._seen
        shown = set(now.rows)
        reasons = {
            row: self._reason(told[row], now, seen) for row in self._order if row not in shown
        }
        touched = marks.any_touched(seen)
        fresh = [
            (rank, row)
            for rank, row in enumerate(now.rows, 1)
            if row not in told or (touched and marks.touched(row, seen))
        ]
        return reasons, fresh

    def _changed(
        self,
        now: Moment,
        told: dict[int, Told],
        reasons: dict[int, Reason],
        fresh: Sequence[tuple[int, int]],
        passages: dict[int, Passage],
    ) -> tuple[list[Leave], list[Upsert]]:
        leaving = {told[row].id: told[row] for row in reasons}
        upserts: list[Upsert] = []
        for rank, row in fresh:
            one = self._told_of(passages[row], now.scores[rank - 1])
            had = leaving.pop(one.id, None) is not None or row in told
            upserts.append(("update" if had else "enter", rank, one))
        ranks = {row: rank for rank, row in enumerate(self._order, 1) if row in reasons}
        leaves = [(one, ranks[one.row], reasons[one.row]) for one in leaving.values()]
        return leaves, upserts

    def _tell_changes(
        self,
        now: Moment,
        told: dict[int, Told],
        upserts: Sequence[Upsert],
        events: list[LiveEvent],
    ) -> Deltas | None:
        for row in set(self._order).difference(now.rows):
            del told[row]
        told.update((one.row, one) for _, _, one in upserts)
        last_told = self._position
        self._have_told(now)
        if not events:
            self._position = last_told
            return None
        return Deltas("changes", self.cursor, events)

    async def _difference(self, now: Moment, after: Cursor) -> Deltas | None:
        """What a reader must be told who was told everything up to `after`, and nothing since."""
        async with self._servings.place(len(now.rows)):
            return await self._put_difference_together(now, after)

    async def _put_difference_together(self, now: Moment, after: Cursor) -> Deltas | None:
        passages = await self._passages(now.rows)
        if passages is None:
            return None
        told = self._all_told(now, passages)
        try:
            found = await self._comeback.since(after, {one.id: one for one in told.values()})
        except CursorExpired as error:
            self._reset = {"code": error.code, "detail": error.detail, **error.fields}
            found = "too_far"
        if not isinstance(found, Difference):
            self._reset = self._reset or {
                "code": CursorExpired.code,
                "detail": f"{_UNTOLD[found].format(after=after)}; a snapshot of what is there now "
                "follows",
                "reason": found,
            }
            self._after = None
            return await self._snapshot(now)
        ranks = {row: rank for rank, row in enumerate(now.rows, 1)}
        upserts: list[Upsert] = [(name, ranks[one.row], one) for name, one in found.upserts]
        hits = await self._encoded([(rank, one) for _, rank, one in upserts], passages)
        leaves: list[Leave] = [(one, 0, reason) for one, reason in found.leaves]
        events = self._events(now, leaves, upserts, hits)
        if not self._serving.fits(events):
            return None
        self._told = told
        self._have_told(now)
        events.append(event("ready", {"cursor": self.cursor}))
        return Deltas("difference", self.cursor, events)

    def _have_told(self, now: Moment) -> None:
        self._order = now.rows
        self._version = now.version
        self._position = self._seen = now.position
        self._after = self._reset = None

    # ── Hits ────────────────────────────────────────────────────────────────────────────────────

    def _told_of(self, passage: Passage, score: float) -> Told:
        return told_of(passage, score, grouped=self.standing.wanted.grouped)

    def _all_told(self, now: Moment, passages: dict[int, Passage]) -> dict[int, Told]:
        return {
            row: self._told_of(passages[row], score)
            for row, score in zip(now.rows, now.scores, strict=True)
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
        room = self._servings.room()
        room.take(found.values())
        for at in range(0, len(missing), AT_ONCE):
            rows = missing[at : at + AT_ONCE]
            read, head = await self._texts.submit((rows, self.library if vectors else None))
            if not vectors and self.matcher.position <= head:
                known.take(read)
            found.update(read)
            if len(read) < len(rows):
                self.matcher.hold(self.standing, head)
                if self.matcher.tellable(self.standing):
                    self._ring()  # it has come there meanwhile
                return None
            room.take(read.values())
        return found

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

    def _events(
        self,
        now: Moment,
        leaves: Sequence[Leave],
        upserts: Sequence[Upsert],
        hits: Sequence[msgspec.Raw],
    ) -> list[LiveEvent]:
        """One group: hits with their ranks, 0 where nobody knows it."""
        cursor = str(self._log.cursor(now.position))
        left = len(leaves) + len(upserts)
        events: list[LiveEvent] = []
        for one, rank, reason in leaves:
            left -= 1
            hit: dict[str, Any] = {"chunk_id": one.chunk_id, "document_id": one.document_id}
            if rank:
                hit |= {"rank": rank, "score": one.score}
            events.append(event("leave", _group(left, hit=hit, reason=reason, cursor=cursor)))
        for (name, _, _), encoded in zip(upserts, hits, strict=True):
            left -= 1
            events.append(event(name, _group(left, hit=encoded, cursor=cursor)))
        return events

    async def _encoded(
        self, hits: Sequence[tuple[int, Told]], passages: dict[int, Passage]
    ) -> list[msgspec.Raw]:
        if len(hits) <= LARGE:
            return self._put_together(hits, passages)
        return await self._pool.call(lambda: self._put_together(hits, passages))

    def _put_together(
        self, hits: Sequence[tuple[int, Told]], passages: dict[int, Passage]
    ) -> list[msgspec.Raw]:
        return [self._shown(one, rank, passages[one.row]) for rank, one in hits]

    def _shown(self, one: Told, rank: int, passage: Passage) -> msgspec.Raw:
        """Each by itself: encoding many at once would hold up every other thread."""
        hit = hit_json(passage, rank, one.score, self._include)
        if "distance" in self._include:
            hit["distance"] = distance_of(one.score, self.library)
        return msgspec.Raw(encode(hit))


def _group(left: int, **data: Any) -> dict[str, Any]:
    return {**data, "more": True} if left else data
