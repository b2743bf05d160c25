"""Tells all listeners that stand at the head, in one go.

A task of its own for every delivery costs several times what the delivery does; so listeners that
have heard everything are parked here, and one task hands each commit's frames to all of them. A
socket that does not take its piece at once sends its listener back to its own task, which waits
for it, reads on by itself and parks again: nobody waits for anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
        # In the order they came, which is about that of their sockets in memory: 5 % of a telling.
        self._parked: dict[Wish, dict[Listener, None]] = {}
        self._position: Position = 0

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self._position = self._log.head
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._remind)
            task_status.started()
            while True:
                await self._log.bell.wait_past(self._position, first=True)
                self._position = self._log.head
                for wish in list(self._parked):
                    await self._tell(wish)

    async def park(self, listener: Listener) -> None:
        """Leave the listener here until its own task has something to do.

        That is: the rest of a sending to wait for, an error, the log read from the store, or
        something due without news. It stands where its reader says.
        """
        wish = listener.reader.wish
        group = self._parked.setdefault(wish, {})
        listener.parked = parked = anyio.Event()
        group[listener] = None
        try:
            await parked.wait()
        finally:
            listener.parked = None
            group.pop(listener, None)
            if not group and self._parked.get(wish) is group:
                del self._parked[wish]

    async def _tell(self, wish: Wish) -> None:
        """Give the listeners of one wish what is new, each from where it stands.

        What is committed meanwhile waits until the other wishes have had their turn.
        """
        head = self._position
        pieces: dict[Position, Piece | None] = {}
        again = list(self._parked.get(wish, ()))
        while again:
            waiting, again = again, []
            for start in range(0, len(waiting), IN_A_ROW):
                if start:
                    await anyio.lowlevel.checkpoint()
                listeners = waiting[start : start + IN_A_ROW]
                for position in {listener.reader.position for listener in listeners}:
                    if position < head and position not in pieces:
                        pieces[position] = await self._frames.ahead(
                            wish, position, self._write_bytes
                        )
                again += self._hand_out(listeners, pieces, head)

    def _hand_out(
        self, listeners: list[Listener], pieces: Mapping[Position, Piece | None], head: Position
    ) -> list[Listener]:
        """Give each the piece for its position. Gives those who are still behind `head`.

        Nothing is awaited here, and little is done for each: to a crowd a microsecond matters.
        """
        behind: list[Listener] = []
        now_s, told = self._now_s(), 0
        for listener in listeners:
            reader = listener.reader
            position = reader.position
            if listener.parked is None or position >= head:
                continue
            if position not in pieces:
                behind.append(listener)  # its own task has moved it, and parked again meanwhile
                continue
            piece = pieces[position]
            if piece is None:
                listener.wake()  # the ring does not have it
                continue
            reader.position = piece.through
            if piece.count:
                try:
                    listener.rest = listener.outlet.offer(piece)
                except anyio.WouldBlock:
                    reader.position = position  # it reads on when there is room
                    listener.wake()
                    continue
                except Exception as error:  # noqa: BLE001 - raised in the listener's own task
                    listener.error = error
                    listener.wake()
                    continue
                told += piece.count
                if listener.rest is not None:
                    listener.wake()
                    continue
                listener.told = reader.position
                listener.told_s = listener.sent_s = now_s
            if reader.position < head:
                behind.append(listener)
        if told:
            self._statistics.told(told)
        return behind

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
