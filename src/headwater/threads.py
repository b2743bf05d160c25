"""The only crossing between the event loop and threads.

A `Lane` is one thread that is handed whatever has piled up while it was busy, all at once: group
commit, micro-batched embedding and micro-batched searching are the same shape. A `Pool` runs
single calls on a bounded number of threads, a `Crew` long ones in the background. Nothing else in
the project starts a thread, and code that runs in one never touches the loop except through
`Loop.post`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import structlog

from headwater.errors import Overloaded, ShuttingDown

Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Loop:
    """A handle on the running loop for code in threads. Calls run in the order they were posted."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Run `call(*args)` on the loop soon; dropped when the loop has already closed."""
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            log.debug("loop.closed", call=str(call))


class Lane(Generic[Item, Result]):
    """One thread, fed from the loop, that takes everything waiting as one batch.

    `work` receives 1..`max_batch` items in the order submitted and returns one result per item; a
    result that is an exception is raised at its submitter. When `work` itself raises, every
    submitter of that batch gets the exception. At most `max_waiting` items wait; one more is
    refused with `Overloaded`.

    A `low_priority` lane takes what the others leave of the CPU: index building.

    A cancelled `submit` does not recall its item: the work is still done, its result is dropped.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result | BaseException]],
        *,
        max_batch: int = 256,
        max_waiting: int = 10_000,
        low_priority: bool = False,
    ) -> None:
        self.name = name
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._queue: queue.SimpleQueue[tuple[Item, asyncio.Future[Result]] | None] = (
            queue.SimpleQueue()
        )
        self._waiting = 0
        self._low_priority = low_priority
        self._open = False

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the thread until cancelled; then finish what was submitted and join it."""
        loop = Loop()
        ended = anyio.Event()
        thread = threading.Thread(
            target=self._main, args=(loop, ended), name=f"headwater-{self.name}", daemon=True
        )
        thread.start()
        self._open = True
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            self._open = False
            self._queue.put(None)
            with anyio.CancelScope(shield=True):
                await ended.wait()

    @property
    def waiting(self) -> int:
        """Items submitted and not yet answered."""
        return self._waiting

    async def submit(self, item: Item) -> Result:
        if not self._open:
            # Lanes end beside those who use them: one that is being cancelled hears of that alone.
            await anyio.lowlevel.checkpoint()
            raise ShuttingDown(f"{self.name} is not running; connect again in a moment")
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} requests wait for {self.name}; slow down and retry")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting += 1
        self._queue.put((item, future))
        return await future

    def _main(self, loop: Loop, ended: anyio.Event) -> None:
        if self._low_priority:
            _yield_to_others()
        try:
            closing = False
            while not closing:
                entry = self._queue.get()
                batch = []
                while entry is not None:
                    batch.append(entry)
                    if len(batch) == self._max_batch:
                        break
                    try:
                        entry = self._queue.get_nowait()
                    except queue.Empty:
                        break
                closing = entry is None
                if batch:
                    self._do(loop, batch)
        finally:
            loop.post(ended.set)

    def _do(self, loop: Loop, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        futures = [future for _, future in batch]
        results: Sequence[Result | BaseException]
        try:
            results = self._work([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 – the lane's root: every submitter hears of it
            results = [error] * len(batch)
        except BaseException as error:  # noqa: BLE001 – a panic of Rust code: none may wait for ever
            results = [RuntimeError(f"{type(error).__name__}: {error}")] * len(batch)
        loop.post(self._resolve, futures, results)

    def _resolve(
        self, futures: list[asyncio.Future[Result]], results: Sequence[Result | BaseException]
    ) -> None:
        self._waiting -= len(futures)
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


class Ticker(Generic[T]):
    """One thread that calls `look` every `every_ms` and posts what it finds to the loop.

    `tell` is called on the loop with each result that is not None. When `look` raises, `run` does.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], T | None],
        tell: Callable[[T], object],
        *,
        every_ms: int,
    ) -> None:
        self.name = name
        self._look = look
        self._tell = tell
        self._every_s = every_ms / 1000
        self._stop = threading.Event()
        self._error: Exception | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the thread until cancelled, then join it."""
        ended = anyio.Event()
        threading.Thread(
            target=self._main, args=(Loop(), ended), name=f"headwater-{self.name}", daemon=True
        ).start()
        try:
            task_status.started()
            await ended.wait()
        finally:
            self._stop.set()
            with anyio.CancelScope(shield=True):
                await ended.wait()
        if self._error is not None:
            raise self._error

    def _main(self, loop: Loop, ended: anyio.Event) -> None:
        try:
            while not self._stop.wait(self._every_s):
                found = self._look()
                if found is not None:
                    loop.post(self._tell, found)
        except Exception as error:  # noqa: BLE001 – the thread's root: raised by `run`
            self._error = error
        finally:
            loop.post(ended.set)


class Pool:
    """At most `size` calls at once, each on a thread of its own; the rest wait their turn."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._size = size
        self._limiter: anyio.CapacityLimiter | None = None

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(*args)` off the loop. Cancellation waits for the call to return."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._size)
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)


class Crew:
    """At most `size` calls at once, each on a thread of the lowest priority, kept for the next.

    Unlike a pool's, a call may outlive its caller: a cancelled one waits `patience` for the call to
    return, then leaves the thread to itself. Loop only.
    """

    def __init__(self, name: str, size: int, patience: timedelta) -> None:
        self.name = name
        self._size = size
        self._patience_s = patience.total_seconds()
        self._limiter: anyio.CapacityLimiter | None = None
        self._idle: list[queue.SimpleQueue[_Call | None]] = []
        self._made = 0

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(*args)` off the loop, and raise what it raises."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._size)
        async with self._limiter:
            hands = self._idle.pop() if self._idle else self._start()
            call = _Call(Loop(), partial(function, *args), anyio.Event())
            hands.put(call)
            try:
                await call.done.wait()
            finally:
                with anyio.move_on_after(self._patience_s, shield=True):
                    await call.done.wait()
                if call.done.is_set():
                    self._idle.append(hands)
                else:
                    log.warning("thread.left", crew=self.name, call=str(function))
                    hands.put(None)
            if call.error is not None:
                raise call.error
            return cast(T, call.result)

    def dismiss(self) -> None:
        """End the threads that have nothing to do."""
        while self._idle:
            self._idle.pop().put(None)

    def _start(self) -> queue.SimpleQueue[_Call | None]:
        hands: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._made += 1
        name = f"headwater-{self.name}-{self._made}"
        threading.Thread(target=self._main, args=(hands,), name=name, daemon=True).start()
        return hands

    @staticmethod
    def _main(hands: queue.SimpleQueue[_Call | None]) -> None:
        _yield_to_others()
        while (call := hands.get()) is not None:
            call.run()


@dataclass(eq=False, slots=True)
class _Call:
    loop: Loop
    function: Callable[[], Any]
    done: anyio.Event
    result: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 – the call's root: raised at the caller
            self.error = error
        self.loop.post(self.done.set)


def _yield_to_others() -> None:
    """Give the calling thread the lowest CPU priority (Linux; elsewhere no effect).

    On Linux a nice value belongs to the thread (setpriority(2), "C library/kernel differences").
    """
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        except OSError:
            log.debug("priority.unchanged")
