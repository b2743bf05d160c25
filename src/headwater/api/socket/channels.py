"""What goes on telling on a socket after a request: subscriptions and live queries.

Each is a task of its socket, and has an id that is good on that socket. It waits for its turn in
the outbox before it looks for anything to tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial

import anyio
import msgspec

from headwater.api.socket import frames
from headwater.api.socket.framing import SharedFrames
from headwater.api.socket.outbox import Outbox
from headwater.api.socket.statistics import SocketStatistics
from headwater.feeds import Line, Subscription
from headwater.feeds.event import Event
from headwater.model import Cursor
from headwater.service.live import Deltas, Watch

TOLD_IN_A_ROW = 32
"""Live queries of one socket before others get a turn of the loop."""


class SubscriptionVoice:
    """A subscription's way to its client; silent once `over`."""

    __slots__ = ("_id", "_outbox", "_shared", "_statistics", "over")

    def __init__(
        self, id: str, outbox: Outbox, statistics: SocketStatistics, shared: SharedFrames
    ) -> None:
        self.over = False
        self._id = id
        self._outbox = outbox
        self._statistics = statistics
        self._shared = shared

    def turn(self) -> AbstractAsyncContextManager[None]:
        return self._outbox.turn()

    def tell(self, events: Sequence[Event]) -> None:
        if not self.over:
            self._outbox.put(*[frames.event(self._id, event.json) for event in events])
            self._statistics.events += len(events)

    def tell_now(self, events: Sequence[Event]) -> None:
        if not self.over:
            self._outbox.offer(self._shared.of(self._id, events))
            self._statistics.events += len(events)

    def line(self) -> Line | None:
        if self.over or not self._outbox.ready:
            return None
        frames_of = partial(self._shared.of, self._id)
        return Line(self._id, frames_of, self._outbox.direct, self._told_in_row)

    def progress(self, cursor: Cursor) -> None:
        if not self.over:
            frame = frames.ProgressFrame(
                type="system", event="progress", cursor=str(cursor), subscription_ids=[self._id]
            )
            self._outbox.put(msgspec.json.encode(frame))

    def _told_in_row(self, events: int, size_bytes: int) -> None:
        self._statistics.events += events
        self._outbox.count(size_bytes)


@dataclass(eq=False, slots=True)
class OpenSubscription:
    subscription: Subscription
    voice: SubscriptionVoice
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def end(self) -> None:
        self.subscription.step_out()
        self.voice.over = True
        self.scope.cancel()


@dataclass(eq=False, slots=True)
class OpenWatch:
    """`watch` is there once it is open. `told` is the cursor told last, by whatever frame."""

    id: str
    outbox: Outbox
    statistics: SocketStatistics
    watch: Watch | None = None
    told: str = ""
    taking: bool = False
    over: bool = False
    called: anyio.Event | None = None
    """Set to have its task take; there while the task waits for that."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    begin: anyio.Event = field(default_factory=anyio.Event)

    def end(self) -> None:
        self.over = True
        self.scope.cancel()

    async def tell(self, teller: Teller) -> None:
        """Tell until cancelled. Raises what `Watch.take` does."""
        watch = self.watch
        assert watch is not None, "open it first"
        watch.on_news(lambda: teller.rung(self))
        while True:
            async with self.outbox.turn():
                self.taking = True
                deltas = await watch.take()
                if deltas is not None:
                    self._put(deltas)
                self.taking = False
            if deltas is None and not watch.rung:
                self.called = anyio.Event()
                await self.called.wait()
                self.called = None

    def tell_now(self) -> None:
        """Tell at once what there is, if that waits for nothing; else call the own task."""
        if self.over or self.watch is None or self.called is None or self.called.is_set():
            return  # the task is taking, and looks again when it has
        deltas = self.watch.take_now()
        if deltas == "later":
            self.called.set()
        elif deltas is not None:
            self._put(deltas)

    def progress(self) -> str | None:
        """A cursor up to which nothing is left to tell, and that was not told yet."""
        if self.watch is None or self.taking:  # what it takes belongs before that cursor
            return None
        deltas = self.watch.progress()
        if deltas is None or deltas.cursor == self.told:
            return None
        self.told = deltas.cursor
        return deltas.cursor

    def _put(self, deltas: Deltas) -> None:
        if self.over:
            return
        self.outbox.put(
            *[frames.live(self.id, one.event, bytes(one.data)) for one in deltas.events]
        )
        self.told = deltas.cursor
        self.statistics.deltas += len(deltas.events)


class Teller:
    """Tells the live queries of one socket what has changed, one after the other in one task.

    A commit may change thousands of them: waking a task for each costs more than what it tells.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._rung: dict[OpenWatch, None] = {}
        self._news = anyio.Event()

    def rung(self, channel: OpenWatch) -> None:
        """It may have something to tell."""
        if not self._rung:
            self._news.set()
        self._rung[channel] = None

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._news.wait()
            while self._rung:
                async with self._outbox.turn():
                    self._tell_some()
            self._news = anyio.Event()

    def _tell_some(self) -> None:
        some = list(itertools.islice(self._rung, TOLD_IN_A_ROW))
        for channel in some:
            if not self._outbox.ready:
                return
            del self._rung[channel]
            channel.tell_now()
