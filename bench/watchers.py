"""Thousands of live queries over a few WebSockets, read by one process of its own.

It notes when each `enter` came and of which document; what that means is worked out afterwards, so
that it reads faster than the server writes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import re
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

_ENTER = re.compile(r'"event":"enter".*?"document_id":"([^"]+)"')
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Entered:
    """Document and arrival (Unix seconds) of each `enter`; `frames` counts all that came."""

    documents: list[str]
    at: list[float]
    frames: int


class Watchers:
    """`with Watchers(…) as watchers`: every query has had its snapshot on entering."""

    def __init__(self, port: int, library: str, queries: list[str], sockets: int, k: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_main, args=(port, library, queries, sockets, k, theirs)
        )
        self.opened_seconds = 0.0

    def __enter__(self) -> Watchers:
        self._process.start()
        self.opened_seconds = self._expect("ready", 600)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    def collect(self, *, quiet_seconds: float = 2.0) -> Entered:
        """Wait until nothing has come for so long; what came since the last call."""
        self._pipe.send(quiet_seconds)
        entered: Entered = self._expect("entered", 600)
        return entered

    def _expect(self, name: str, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"the watchers did not say {name}")
        said, value = self._pipe.recv()
        if said != name:
            raise RuntimeError(f"the watchers failed: {value}")
        return value


def _main(port: int, library: str, queries: list[str], sockets: int, k: int, pipe: Pipe) -> None:
    try:
        asyncio.run(_Reading(port, library, k, pipe).run(queries, sockets))
    except Exception as error:  # noqa: BLE001 - the process's root: told to who waits for it
        pipe.send(("failed", repr(error)))


class _Reading:
    def __init__(self, port: int, library: str, k: int, pipe: Pipe) -> None:
        self._url = f"ws://127.0.0.1:{port}/v1/libraries/{library}/ws"
        self._k = k
        self._pipe = pipe
        self._documents: list[str] = []
        self._at: list[float] = []
        self._frames = 0
        self._last = time.monotonic()

    async def run(self, queries: list[str], sockets: int) -> None:
        began = time.perf_counter()
        shares = [queries[number::sockets] for number in range(sockets)]
        async with asyncio.TaskGroup() as tasks:
            opened = [tasks.create_task(self._open(share)) for share in shares]
        gc.collect()
        gc.freeze()
        self._pipe.send(("ready", time.perf_counter() - began))
        async with asyncio.TaskGroup() as tasks:
            for one in opened:
                tasks.create_task(self._read(one.result()))
            await self._answer()

    async def _open(self, queries: list[str]) -> ClientConnection:
        socket = await connect(self._url, max_size=None, compression=None, ping_interval=None)
        ready = sent = 0
        while ready < len(queries):
            while sent < len(queries) and sent < ready + _AT_ONCE:
                data = {"query": queries[sent], "k": self._k}
                request = {"type": "request", "action": "watch", "request_id": sent, "data": data}
                await socket.send(json.dumps(request))
                sent += 1
            frame = await socket.recv()
            head = str(frame[:200])
            if '"success":false' in head:
                raise RuntimeError(str(frame))
            ready += '"event":"ready"' in head
        return socket

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            self._frames += 1
            self._last = time.monotonic()
            entered = _ENTER.search(str(frame))
            if entered is not None:
                self._documents.append(entered[1])
                self._at.append(time.time())

    async def _answer(self) -> None:
        while True:
            while not self._pipe.poll():  # noqa: ASYNC110 - a pipe rings no bell
                await asyncio.sleep(0.05)
            quiet_seconds = self._pipe.recv()
            while time.monotonic() < self._last + quiet_seconds:  # noqa: ASYNC110 - nor does quiet
                await asyncio.sleep(0.05)
            found = Entered(self._documents, self._at, self._frames)
            self._documents, self._at, self._frames = [], [], 0
            self._pipe.send(("entered", found))
