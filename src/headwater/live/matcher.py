"""The live queries of one library: kept right as the log goes on.

One task follows the log and hands each stretch to the matching thread; another looks up what the
engine must be asked for. Between two stretches, and only then, queries are put in and taken out.
A query whose set ran short is not told of until it has been looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import (
    CursorExpired,
    HeadwaterError,
    LibraryNotFound,
    LibraryRegenerated,
    ShuttingDown,
    TooManyHits,
    Unavailable,
)
from headwater.live import step as steps
from headwater.live.asking import Asking
from headwater.live.bench import Bench, Filters
from headwater.live.block import Block, Kept
from headwater.live.counts import Counts
from headwater.live.gap import Gap
from headwater.live.judge import Read
from headwater.live.lookup import Found, Lookup, roomy, too_many
from headwater.live.marks import Marks
from headwater.live.matching import Outcome, match
from headwater.live.shown import Passages, fetch
from headwater.live.standing import Standing, Wanted
from headwater.live.step import Step
from headwater.model import Change, Library, Passage, Position, Rows, Vectors
from headwater.search.base import MetadataEngine, SearchEngine
from headwater.settings import LiveSettings
from headwater.threads import Lane

_RETRY_S = 0.2

log = structlog.get_logger(__name__)

Job = Callable[[], Any]


@dataclass(slots=True)
class _Stretch:
    """What the ring has of one library after a position."""

    through: Position
    commits: int = 0
    changes: list[Change] = field(default_factory=list)
    pieces: list[tuple[Rows, Vectors]] = field(default_factory=list)


class Matcher:
    """Loop only, but for the jobs it gives to `lane`, where `read` reads the store."""

    def __init__(
        self,
        library: Library,
        log: Log,
        engine: SearchEngine,
        metadata: MetadataEngine,
        lane: Lane[Job, Any],
        read: Read,
        settings: LiveSettings,
        clock: Clock,
        counts: Counts,
        *,
        most: int,
    ) -> None:
        self.library = library
        self.position: Position = log.head
        self.marks = Marks()
        self.passages = Passages()
        self._log = log
        self._lane = lane
        self._read = read
        self._settings = settings
        self._clock = clock
        self._counts = counts
        self._most = most
        self._lookup = Lookup(library, log, engine, metadata, margin=settings.margin, most=most)
        self._standings: dict[Wanted, Standing] = {}
        self._users: dict[Standing, int] = {}
        self._blocks: dict[tuple[int, bool], Block[Standing]] = {}
        self._places: dict[Standing, tuple[Block[Standing], int]] = {}
        self._filters = Filters()
        self._settled: Position = 0
        self._ahead: Position = 0
        self._held: set[Standing] = set()
        self._leaving: list[Standing] = []
        self._asking = Asking(self._lookup, counts, self._take_found, self.fail)
        self._found: list[Found] = []
        self._news = anyio.Event()

    def __len__(self) -> int:
        """How many different queries stand."""
        return len(self._standings)

    @property
    def idle(self) -> bool:
        """Whether all who joined have left."""
        return not self._users

    @property
    def kept(self) -> int:
        """Rows kept, room for more included."""
        return sum(block.cells for block in self._blocks.values())

    # ── For watches ─────────────────────────────────────────────────────────────────────────────

    def join(self, wanted: Wanted) -> Standing:
        """The query that finds what is wanted, from now on kept until as many have left."""
        standing = self._standings.get(wanted)
        if standing is None or standing.error is not None:
            standing = self._standings[wanted] = Standing(wanted)
            self._asking.put(standing)
        self._users[standing] = self._users.get(standing, 0) + 1
        return standing

    def leave(self, standing: Standing) -> None:
        self._users[standing] -= 1
        if self._users[standing]:
            return
        del self._users[standing]
        if self._standings.get(standing.wanted) is standing:
            del self._standings[standing.wanted]
        self._asking.drop(standing)
        self._held.discard(standing)
        self._leaving.append(standing)
        self.wake()

    def tellable(self, standing: Standing) -> bool:
        """Whether what the query shows is what is true at `position`."""
        return self.position >= self._settled and standing.tellable(self.position)

    def hold(self, standing: Standing, until: Position) -> None:
        """Tell nothing of it before that position: the store is ahead of what it shows."""
        standing.exact_from = max(standing.exact_from, until)
        self._held.add(standing)

    async def before(self, wanted: Wanted, gap: Gap) -> tuple[Rows, bool] | None:
        """What it finds of the rows that were there before the gap; see `Lookup.before`."""
        return await self._lookup.before(wanted, gap.old_row, gap.touched_rows)

    def wake(self) -> None:
        """There may be something to do."""
        self._news.set()

    def fail(self, error: HeadwaterError) -> None:
        """End all queries."""
        for standing in list(self._users):
            standing.fail(error)

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Follow until cancelled, or until the library is gone."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._asking.run)
                await self._follow()
                tasks.cancel_scope.cancel()
        finally:
            self.fail(ShuttingDown("live queries have ended here; open it again with `after`"))

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            try:
                await self._take_turns()
            except CursorExpired:
                self._start_over()
            except (LibraryNotFound, LibraryRegenerated) as error:
                self.fail(error)
                return
            except ShuttingDown:
                return
            except Unavailable as error:
                log.warning("live.waiting_for_store", library=self.library.id, error=str(error))
                await anyio.sleep(_RETRY_S)
                self.wake()
            except Exception as error:
                # The task's root. Sets that missed a change must never be told from again.
                log.exception("live.failed", library=self.library.id)
                self._counts.failures += 1
                self.fail(
                    Unavailable(
                        f"the live queries of library {self.library.id} failed ({error}); open "
                        "it again with `after`, and see the server's log"
                    )
                )
                return

    async def _take_turns(self) -> None:
        while True:
            self._take_out()
            await self._take_in()
            if self.position >= self._log.head:
                return
            stretch = self._from_ring(self.position)
            if stretch is not None and not stretch.changes:
                self._reached(stretch.through)
            else:
                blocks = list(self._blocks.values())
                # What was put in may be ahead of the rest, and meets these changes again.
                again = self.position < self._ahead
                step, outcome, passages = await self._match(
                    self.position, stretch, blocks, again=again
                )
                self._counts.commits += 1 if stretch is None else stretch.commits
                self._took(step, outcome, passages)
            await anyio.lowlevel.checkpoint()

    def _from_ring(self, after: Position) -> _Stretch | None:
        """What the ring has after `after`, up to about a step; None: read the store."""
        stretch = _Stretch(after)
        rows = 0
        while rows < self._settings.step_rows:
            committed = self._log.ring.after(stretch.through)
            if committed is None:
                break
            own = [
                change
                for change in committed.changes
                if change.position > stretch.through
                and change.library_id == self.library.id
                and change.type in steps.TYPES
            ]
            if any(change.type == steps.REGENERATED for change in own):
                raise steps.regenerated(self.library)
            stretch.through = committed.through
            if own:
                stretch.changes += own
                stretch.pieces += steps.pieces_of(self.library.id, committed.vectors)
                rows += sum(change.added.count for change in own)
                stretch.commits += 1
        return None if stretch.through == after else stretch

    async def _match(
        self,
        after: Position,
        stretch: _Stretch | None,
        blocks: Sequence[Block[Standing]],
        *,
        again: bool = False,
    ) -> tuple[Step, Outcome, dict[int, Passage]]:
        return await self._lane.submit(  # type: ignore[no-any-return] # a lane of any jobs
            partial(self._work, after, stretch, blocks, again)
        )

    def _work(
        self,
        after: Position,
        stretch: _Stretch | None,
        blocks: Sequence[Block[Standing]],
        again: bool,
    ) -> tuple[Step, Outcome, dict[int, Passage]]:
        """In the matching thread."""
        library = self.library
        metric, dimension = library.metric, library.dimension
        if stretch is None:
            step = self._read(partial(steps.read, library=library, after=after))
        else:
            step = steps.make(
                after,
                stretch.through,
                stretch.changes,
                stretch.pieces,
                metric=metric,
                dimension=dimension,
            )
        outcome = match(
            step,
            blocks,
            self._filters.all,
            self._read,
            metric=metric,
            reserve=self._settings.margin // 4,
            again=again,
        )
        passages: dict[int, Passage] = {}
        if outcome.shown:
            passages = fetch(self._read, [rows for _, rows, _ in outcome.shown], self.passages)
        return step, outcome, passages

    def _took(self, step: Step, outcome: Outcome, passages: dict[int, Passage]) -> None:
        if step.deleted:
            raise self._gone()
        counts = self._counts
        counts.changes += step.count
        counts.rows += len(step.rows)
        counts.pairs += outcome.pairs
        self._settled = max(self._settled, step.settled)
        self.passages.forget(step)
        self.passages.take(passages)
        self.marks.note(outcome.touched, outcome.fated, step.removals)
        for standing, until in outcome.held:
            self.hold(standing, until)
        changed: dict[Standing, None] = {}
        for standing, rows, scores in outcome.shown:
            standing.rows, standing.scores = rows, scores
            changed[standing] = None
            if standing.wanted.k is None and len(rows) > self._most:
                standing.fail(too_many(self._most))
        for standing, kept in outcome.full:
            self._widen(standing, kept)
            changed[standing] = None
        for standing in outcome.short:
            standing.short = True
            self._asking.put(standing)
        for standing in outcome.low:
            self._asking.put(standing)
        changed.update(dict.fromkeys(outcome.retouched))
        self._reached(step.through, changed)
        if step.at_us:
            counts.lag_ms = max(0.0, (self._clock.now_us() - step.at_us) / 1000)

    def _reached(self, through: Position, changed: dict[Standing, None] | None = None) -> None:
        """Be at `through`, and tell the readers of what has changed and may be told."""
        self.position = through
        for standing in changed or ():
            standing.version += 1
            self._held.add(standing)
        for standing in list(self._held):
            if standing not in self._users:
                self._held.discard(standing)
            elif self.tellable(standing):
                self._held.discard(standing)
                standing.tell()

    def _start_over(self) -> None:
        """The log was trimmed past us: everything is looked up anew."""
        log.error("live.log_trimmed", library=self.library.id, position=self.position)
        self.position = self._log.head
        for standing in list(self._places):
            self._drop(standing)
        for standing in self._users:
            standing.short = True
            self._asking.put(standing)

    # ── Putting in, taking out ──────────────────────────────────────────────────────────────────

    def _take_out(self) -> None:
        leaving, self._leaving = self._leaving, []
        for standing in leaving:
            if standing not in self._users:
                self._drop(standing)

    def _drop(self, standing: Standing) -> None:
        place = self._places.pop(standing, None)
        if place is None:
            return
        block, slot = place
        self._filters.give_back(int(block.filters[slot]))
        block.drop(slot)
        if not len(block):
            del self._blocks[block.width, block.grouped]

    def _put(self, standing: Standing, kept: Kept) -> None:
        """Keep this for it, in place of what was kept."""
        self._drop(standing)
        wanted = standing.wanted
        if wanted.k is None and len(kept.rows) > self._most:
            standing.fail(too_many(self._most))
            return
        width = self._width(wanted, len(kept.rows))
        if self.kept + width > self._settings.max_hits:
            standing.fail(
                TooManyHits(
                    f"the live queries of this library keep {self._settings.max_hits} hits, the "
                    "most this server allows; end some, or ask for fewer hits",
                    limit=self._settings.max_hits,
                )
            )
            return
        block = self._blocks.get((width, wanted.grouped))
        if block is None:
            block = Block[Standing](width, self.library.dimension, grouped=wanted.grouped)
            self._blocks[width, wanted.grouped] = block
        slot = block.put(standing, wanted, kept, self._filters.take(wanted.filter))
        self._places[standing] = (block, slot)

    def _widen(self, standing: Standing, kept: Kept) -> None:
        if standing in self._users:
            standing.rows, standing.scores = kept.rows, kept.scores
            self._put(standing, kept)

    def _take_found(self, found: list[Found]) -> None:
        self._found += found
        self.wake()

    async def _take_in(self) -> None:
        """Put in what was found, once it is as far as the rest, or further."""
        found, self._found = self._found, []
        while found:
            after, through = found[0].after, found[0].through
            alike = [one for one in found if (one.after, one.through) == (after, through)]
            found = [one for one in found if (one.after, one.through) != (after, through)]
            await self._replay(alike, after, max(through, self.position))

    async def _replay(self, found: Sequence[Found], after: Position, through: Position) -> None:
        """Bring what was found up to `through`, and put it in."""
        bench = Bench(self.library.dimension, self._filters, self._width)
        for one in found:
            bench.put(one.standing, one.kept)
        position = after
        try:
            while position < through:
                stretch = self._from_ring(position)
                if stretch is not None and not stretch.changes:
                    position = stretch.through
                    continue
                step, outcome, _ = await self._match(position, stretch, bench.blocks, again=True)
                position = step.through
                if step.deleted:
                    raise self._gone()
                for standing, kept in outcome.full:
                    bench.put(standing, kept)
                for one in found:
                    one.standing.exact_from = max(one.standing.exact_from, step.settled)
                for standing, until in outcome.held:
                    standing.exact_from = max(standing.exact_from, until)
            for one in found:
                standing = one.standing
                standing.asked = False
                if standing in self._users and standing.error is None:
                    self._took_in(standing, bench.kept(standing), position)
        finally:
            bench.clear()
        self._reached(self.position)

    def _took_in(self, standing: Standing, kept: Kept, position: Position) -> None:
        self._put(standing, kept)
        if standing.error is not None:
            return
        k = standing.wanted.k
        standing.rows, standing.scores = kept.rows[:k], kept.scores[:k]
        whole = float(kept.low_score) == float("-inf")
        standing.short = k is not None and len(kept.rows) < k and not whole
        standing.known = True
        standing.tries = 0
        standing.exact_from = max(standing.exact_from, position)
        self._ahead = max(self._ahead, position)
        standing.version += 1
        if standing.short:
            self._asking.put(standing)
        self._held.add(standing)

    def _width(self, wanted: Wanted, count: int) -> int:
        return roomy(count) if wanted.k is None else self._lookup.width(wanted)

    def _gone(self) -> LibraryNotFound:
        return LibraryNotFound(
            f"library {self.library.name!r} has been deleted", id=self.library.id
        )
