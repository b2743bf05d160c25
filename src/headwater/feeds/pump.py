"""Tells all listeners that stand at the head, in one go.

A task of its own for every delivery costs several times what the delivery does; so listeners that
have heard everything are parked here, and one task hands each commit's frames to all of them. A
socket that does not take its piece at once sends its listener back to its own task, which waits
for it, reads on by itself and parks again: nobody waits for anybody.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.abc
import anyio.lowlevel

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.feeds.listener import Listener
from headwater.feeds.reader import Frames, Piece, Wish
from headwater.feeds.statistics import FeedStatistics
from headwater.model import Position
from headwater.settings import FeedSettings

IN_A_ROW = 100
"""Deliveries before others get a turn of the loop: a millisecond or so."""


class Pump:
    """Loop only."""

    def __init__(
        self,
        log: Log,
        frames: Frames,
        settings: FeedSettings,
        clock: Clock,
        statistics: FeedStatistics,
    ) -> None:
        self._log = log
        self._frames = frames
        self._write_bytes = settings.write_bytes
        self._heartbeat_s = settings.heartbeat.total_seconds()
        self._progress_s = settings.progress.total_seconds()
        self._now_s: Callable[[], float] = clock.monotonic
        self._statistics = statistics
        self._parked: dict[Wish, set[Listener]] = {}
        self._position: Position = 0

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self._position = self._log.head
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._remind)
            task_status.started()
            while True:
                await self._log.bell.wait_past(self._position)
                self._position = self._log.head
                for wish in list(self._parked):
                    await self._tell(wish)

    async def park(self, listener: Listener) -> None:
        """Leave the listener here until its own task has something to do.

        That is: the rest of a sending to wait for, an error, the log read from the store, or
        something due without news. It stands where its reader says.
        """
        wish = listener.reader.wish
        group = self._parked.setdefault(wish, set())
        listener.parked = parked = anyio.Event()
        group.add(listener)
        try:
            await parked.wait()
        finally:
            listener.parked = None
            group.discard(listener)
            if not group and self._parked.get(wish) is group:
                del self._parked[wish]

    async def _tell(self, wish: Wish) -> None:
        """Give the listeners of one wish what is new, each from where it stands."""
        pieces: dict[Position, Piece | None] = {}
        again = list(self._parked.get(wish, ()))
        done = 0
        while again:
            listeners, again = again, []
            for listener in listeners:
                if listener.parked is None:
                    continue
                reader = listener.reader
                position = reader.position
                if position not in pieces:
                    pieces[position] = await self._frames.ahead(wish, position, self._write_bytes)
                    if listener.parked is None:
                        continue
                piece = pieces[position]
                if piece is None:
                    if reader.behind:
                        listener.wake()
                    continue
                self._deliver(listener, piece)
                if listener.parked is not None and reader.behind:
                    again.append(listener)
                done += 1
                if done % IN_A_ROW == 0:
                    await anyio.lowlevel.checkpoint()

    def _deliver(self, listener: Listener, piece: Piece) -> None:
        if piece.count and not listener.outlet.ready:
            listener.wake()  # it stays where it is, and reads on when there is room
            return
        listener.reader.position = piece.through
        if not piece.count:
            return
        try:
            listener.rest = listener.outlet.offer(piece)
        except Exception as error:  # noqa: BLE001 - raised in the listener's own task
            listener.error = error
            listener.wake()
            return
        self._statistics.told(piece.count)
        if listener.rest is not None:
            listener.wake()
        else:
            listener.sent(piece.through, self._now_s())

    async def _remind(self) -> None:
        """Wake those for whom something is due."""
        pause_s = max(0.01, min(1.0, self._heartbeat_s / 4, self._progress_s / 4))
        while True:
            await anyio.sleep(pause_s)
            now_s = self._now_s()
            for group in list(self._parked.values()):
                for listener in list(group):
                    if listener.due_s(self._heartbeat_s, self._progress_s) <= now_s:
                        listener.wake()
