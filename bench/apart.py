"""A process of its own that reads what the server tells, and says over a pipe what it has heard.

What it measures it looks into afterwards: it must read faster than the server writes, on a machine
that both share, or it measures itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from typing import Any, Self

PIECE_BYTES = 64 << 10
"""A larger one is mapped and unmapped by the allocator at every read, which would be measured."""


class Apart:
    """`with` it: `body(say, pipe, …)` runs in the process, and has said "ready" on entering.

    `ready` is what it said with that.
    """

    def __init__(self, body: Callable[..., None], *given: Any, ready_seconds: float = 60.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(body, theirs, *given))
        self._ready_seconds = ready_seconds
        self.ready: Any = None

    def __enter__(self) -> Self:
        self._process.start()
        self.ready = self._expect(self._ready_seconds)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def asked(self, question: Any, seconds: float) -> Any:
        """What it answers to that, within so many seconds."""
        self._pipe.send(question)
        return self._expect(seconds)

    def _expect(self, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"{type(self).__name__} said nothing for {seconds:g} s")
        failed, value = self._pipe.recv()
        if failed:
            raise RuntimeError(f"{type(self).__name__} failed: {value}")
        return value


def _main(body: Callable[..., None], pipe: Pipe, *given: Any) -> None:
    try:
        body(pipe, *given)
    except Exception as error:  # noqa: BLE001 - the process's root: told to who waits for it
        pipe.send((True, repr(error)))


def say(pipe: Pipe, value: Any = None) -> None:
    pipe.send((False, value))


def rest() -> None:
    """No collection of garbage from here on: a pause would be measured."""
    gc.collect()
    gc.disable()


class Arrivals:
    """Pieces of one connection, and when each came."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._at_ns: list[int] = []
        self.bytes = 0

    def take(self, piece: bytes, at_ns: int | None = None) -> None:
        """It has come just now, or at that time, Unix nanoseconds."""
        self._at_ns.append(time.time_ns() if at_ns is None else at_ns)
        self._pieces.append(piece)
        self.bytes += len(piece)

    def found(self, pattern: re.Pattern[bytes]) -> Iterator[tuple[re.Match[bytes], float]]:
        """Each match, and the time at which the piece came that made it whole, Unix seconds."""
        ends: list[int] = []
        size = 0
        for piece in self._pieces:
            size += len(piece)
            ends.append(size)
        for match in pattern.finditer(b"".join(self._pieces)):
            yield match, self._at_ns[bisect_left(ends, match.end())] / 1e9
