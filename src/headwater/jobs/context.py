"""A running job: what its handler is given, how far it is, whether it is to stop.

Made by `runner.py` for each attempt. Progress is only noted here, from any thread; the runner tells
it, thinned. Whatever is written names the job's lease, so that an attempt that was taken for dead
changes nothing any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import anyio

from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import LeaseLost
from headwater.jobs.base import JobCancelled, JobContext, State
from headwater.model import Job, Progress
from headwater.store.base import Command, Reader, Together
from headwater.store.job_commands import HoldLease, SaveJob
from headwater.threads import Crew, Loop

T = TypeVar("T")

_MOST = 1 << 63
_RATE_OVER_S = 10.0
"""The rate is that of the last ten seconds."""


class RunningJob(JobContext):
    """One attempt. `scope` is cancelled when it is to stop; `lost` when it is not ours any more."""

    def __init__(
        self,
        job: Job,
        log: Log,
        crew: Crew,
        clock: Clock,
        folder: Path,
        *,
        heavy: bool,
        progress_every_s: float,
        noted: Callable[[], None],
    ) -> None:
        self.job = job
        self.saved = job.saved or {}
        self.heavy = heavy
        self.scope = anyio.CancelScope()
        self.left = anyio.Event()
        """Set once the handler has returned."""
        self.lost = False
        self.dirty = False
        self._log = log
        self._crew = crew
        self._clock = clock
        self._folder = folder
        self._made = False
        self._every_s = progress_every_s
        self._noted = noted
        self._loop = Loop()
        self._stopping = False
        self._current = job.progress.current
        self._total = job.progress.total
        self._message = job.progress.message
        self._told_s = -progress_every_s
        self._samples: deque[tuple[float, int]] = deque([(clock.monotonic(), self._current)])

    # ── As the handler sees it ──────────────────────────────────────────────────────────────────

    @property
    def folder(self) -> Path:
        if not self._made:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._made = True
        return self._folder

    async def save(
        self,
        state: State,
        *,
        current: int | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> None:
        self._note(current, total, message)
        await self._log.store.write(self._save(state))

    async def write(
        self, command: Command, *, state: State | Callable[[Any], State] | None = None
    ) -> Any:
        commands: list[Command] = [HoldLease(self.job.id, self.job.lease), command]
        if state is None:
            results = await self._log.store.write(Together(commands))
        elif callable(state):
            save = self._save({})
            results = await self._log.store.write(
                Together(commands, then=lambda results: save.having(state(results[1])))
            )
        else:
            results = await self._log.store.write(Together([*commands, self._save(state)]))
        return results[1]

    async def read(self, query: Callable[[Reader], T]) -> T:
        return await self._log.store.read(query)

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await self._crew.call(function, *args)

    def progress(
        self,
        current: int | None = None,
        total: int | None = None,
        message: str | None = None,
    ) -> None:
        self._note(current, total, message)
        if not self.dirty:
            self.dirty = True
            self._loop.post(self._noted)

    def check(self) -> None:
        if self._stopping:
            raise JobCancelled

    # ── As the runner sees it ───────────────────────────────────────────────────────────────────

    def stop(self, *, lost: bool = False) -> None:
        """Tell the handler to stop; harmless when it has ended."""
        self.lost = self.lost or lost
        self._stopping = True
        self.scope.cancel()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def due_s(self) -> float:
        """When its progress may be told again, on the monotonic clock."""
        return self._told_s + self._every_s

    async def tell(self) -> None:
        """Tell how far it is."""
        self.dirty = False
        self._told_s = self._clock.monotonic()
        try:
            await self._log.store.write(
                SaveJob(self.job.id, self.job.lease, self.current_progress())
            )
        except LeaseLost:
            self.stop(lost=True)

    def current_progress(self) -> Progress:
        """How far it is, with the rate of the last seconds."""
        now_s, current = self._clock.monotonic(), self._current
        first_s, first = self._samples[0]
        rate = None
        if now_s > first_s and current > first:
            rate = (current - first) / (now_s - first_s)
        if now_s - self._samples[-1][0] >= self._every_s:
            self._samples.append((now_s, current))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _RATE_OVER_S:
            self._samples.popleft()
        return Progress(current, self._total, self._message, rate)

    def _save(self, state: State) -> SaveJob:
        now_s = self._clock.monotonic()
        tell = now_s >= self.due_s()
        if tell:
            self._told_s = now_s
            self.dirty = False
        elif not self.dirty:
            self.dirty = True
            self._noted()
        return SaveJob(self.job.id, self.job.lease, self.current_progress(), state, tell)

    def _note(self, current: int | None, total: int | None, message: str | None) -> None:
        if current is not None:
            self._current = _whole(current)
        if total is not None:
            self._total = _whole(total)
        if message is not None:
            self._message = storable(message)


def _whole(count: int) -> int:
    """A count as the store takes it: NumPy's integers are none of Python's."""
    count = index(count)
    if not -_MOST <= count < _MOST:
        raise ValueError("a job's progress is a whole number of at most 64 bits")
    return count


def storable(text: str) -> str:
    """Text as the store takes it: a file's name that is no UTF-8 has surrogates in Python."""
    return text.encode("utf-8", "replace").decode()
