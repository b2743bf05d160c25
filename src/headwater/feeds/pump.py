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
from headwater.feeds.crowd import ROW, Crowd
from headwater.feeds.listener import Listener
from headwater.feeds.reader import Frames, Piece, Wish
from headwater.feeds.statistics import FeedStatistics
from headwater.model import Position
from headwater.settings import FeedSettings

IN_A_ROW = 100
"""Deliveries to those alone before others get a turn of the loop: a millisecond or so."""


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
        self._crowds: dict[Wish, Crowd] = {}
        self._position: Position = 0

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        self._position = self._log.head
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._remind)
            task_status.started()
            while True:
                await self._log.bell.wait_past(self._position, place=0)
                self._position = self._log.head
                for wish, crowd in list(self._crowds.items()):
                    await self._tell(wish, crowd)

    async def park(self, listener: Listener) -> None:
        """Leave the listener here until its own task has something to do.

        That is: the rest of a sending to wait for, an error, the log read from the store, or
        something due without news. It stands where its reader says.
        """
        wish = listener.reader.wish
        crowd = self._crowds.setdefault(wish, Crowd())
        listener.parked = parked = anyio.Event()
        crowd.alone[listener] = None
        crowd.parked += 1
        try:
            await parked.wait()
        finally:
            listener.parked = None
            listener.step_out()
            del crowd.alone[listener]
            crowd.parked -= 1
            if not crowd.parked:
                del self._crowds[wish]

    async def _tell(self, wish: Wish, crowd: Crowd) -> None:
        """Give the listeners of one wish what is new, each from where it stands.

        What is committed meanwhile waits until the other wishes have had their turn.
        """
        head = self._position
        pieces: dict[Position, Piece | None] = {}
        await self._tell_rows(wish, crowd, pieces, head)
        again = list(crowd.alone)
        while again:
            waiting, again = again, []
            for start in range(0, len(waiting), IN_A_ROW):
                if start:
                    await anyio.lowlevel.checkpoint()
                listeners = waiting[start : start + IN_A_ROW]
                for position in {listener.reader.position for listener in listeners}:
                    await self._look_up(wish, position, pieces, head)
                again += self._hand_out(crowd, listeners, pieces, head)

    async def _tell_rows(
        self,
        wish: Wish,
        crowd: Crowd,
        pieces: dict[Position, Piece | None],
        head: Position,
    ) -> None:
        """Give the rows what is new; the members of one that it is not fit for go on by themselves.

        To a crowd a microsecond matters: nothing is done here for each member but one write.
        """
        crowd.close_up()
        told = 0
        for row in list(crowd.rows):
            while row and row.position < head:
                if told >= ROW:
                    await anyio.lowlevel.checkpoint()
                    told = 0
                await self._look_up(wish, row.position, pieces, head)
                piece = pieces[row.position]
                if piece is None or (piece.count > 1 and piece.size_bytes > self._write_bytes):
                    for listener in row.members:
                        listener.wake()
                    break
                told += len(row)
                self._statistics.told(piece.count * len(row))
                for listener, error in row.tell(piece, self._now_s()):
                    listener.error = error
                    listener.wake()

    async def _look_up(
        self,
        wish: Wish,
        position: Position,
        pieces: dict[Position, Piece | None],
        head: Position,
    ) -> None:
        """Have `pieces` know what follows `position`, if that is before `head`."""
        if position < head and position not in pieces:
            pieces[position] = await self._frames.ahead(wish, position, self._write_bytes)

    def _hand_out(
        self,
        crowd: Crowd,
        listeners: list[Listener],
        pieces: Mapping[Position, Piece | None],
        head: Position,
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
            elif piece.count and (line := listener.outlet.line()) is not None:
                crowd.line_up(listener, line)
        if told:
            self._statistics.told(told)
        return behind

    async def _remind(self) -> None:
        """Wake those for whom something is due."""
        pause_s = max(0.01, min(1.0, self._heartbeat_s / 4, self._progress_s / 4))
        while True:
            await anyio.sleep(pause_s)
            now_s = self._now_s()
            for crowd in list(self._crowds.values()):
                for listener in list(crowd.alone):
                    if listener.due_s(self._heartbeat_s, self._progress_s) <= now_s:
                        listener.wake()
                for row in list(crowd.rows):
                    if row.position > row.told and row.told_s + self._progress_s <= now_s:
                        for listener in row.members:
                            listener.wake()
