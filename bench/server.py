"""A server under measurement: a child process on a folder and a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.connection import Connection

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
SETTLED_SECONDS = 4
"""So long a process must rest to count as settled; part of what `settle` returns."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def settle(pids: Sequence[int], *, at_most: float) -> float:
    """Wait until the processes rest. Returns the seconds waited."""
    started = time.perf_counter()
    processes = [psutil.Process(pid) for pid in pids]
    resting = 0
    used = 0.0
    while resting < SETTLED_SECONDS and time.perf_counter() - started < at_most:
        now = sum(sum(process.cpu_times()[:2]) for process in processes)
        resting = resting + 1 if now - used < 0.1 else 0
        used = now
        if resting < SETTLED_SECONDS:
            time.sleep(1)
    return time.perf_counter() - started


class Server:
    """`with Server(folder) as server`: ready on entering, stopped gracefully on leaving."""

    def __init__(self, folder: Path, *, workers: int = 1) -> None:
        self.folder = folder
        self._workers = workers
        self.port = 0
        self.ready_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def __enter__(self) -> Server:
        self.port = free_port()
        command = [sys.executable, "-m", "headwater", "serve", "--data", str(self.folder)]
        command += ["--port", str(self.port), "--log-level", "warning"]
        command += ["--workers", str(self._workers)]
        log = self.folder.parent / f"{self.folder.name}.log"
        started = time.perf_counter()
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
            if time.perf_counter() - started > _START_SECONDS:
                self._process.kill()
                raise RuntimeError(f"the server is not ready: {log.read_text()[-2000:]}")
            time.sleep(0.005)
        self.ready_seconds = time.perf_counter() - started
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            with Connection(self.port) as connection:
                if connection.call("GET", "/ready")[0] != 200:
                    return False
                if self._workers == 1:
                    return True
                return len(connection.json("GET", "/v1/workers")["workers"]) == self._workers
        except OSError:
            return False

    def get(self, path: str) -> Any:
        return self._json("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._json("POST", path, body)

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with Connection(self.port) as connection:
            return connection.json(method, path, body)

    def create_library(self, name: str) -> None:
        self.post("/v1/libraries", {"name": name})

    def settle(self, library: str, *, at_most: float = 180.0) -> float:
        """Wait until the server rests: index built, nothing to do. Returns the seconds waited."""
        return settle([self.pid], at_most=at_most)

    def memory(self) -> dict[str, int]:
        """Resident bytes: all, and those that belong to no file."""
        if os.path.exists(f"/proc/{self.pid}/status"):
            found = {}
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("VmRSS", "RssAnon"):
                    found[name] = int(value.split()[0]) << 10
            return {"resident": found["VmRSS"], "anonymous": found["RssAnon"]}
        resident = psutil.Process(self.pid).memory_info().rss
        return {"resident": resident, "anonymous": resident}
