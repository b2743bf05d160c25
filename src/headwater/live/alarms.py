"""Calls that are due at a time: one task for however many there are."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import anyio
import anyio.abc

from headwater.clock import Clock


class Alarms:
    """Loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._sooner = anyio.Event()

    def at(self, due_s: float, call: Callable[[], None]) -> None:
        """Call it at that time of the monotonic clock, or soon after. It must be quick."""
        heapq.heappush(self._due, (due_s, next(self._numbers), call))
        if self._due[0][0] == due_s:
            self._sooner.set()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Call what is due until cancelled."""
        task_status.started()
        while True:
            self._sooner = anyio.Event()
            now_s = self._clock.monotonic()
            while self._due and self._due[0][0] <= now_s:
                heapq.heappop(self._due)[2]()
            wait_s = self._due[0][0] - now_s if self._due else None
            with anyio.move_on_after(wait_s):
                await self._sooner.wait()
