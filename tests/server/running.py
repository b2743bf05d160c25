"""A real server in a child process, for tests over real sockets.

Settings are given as keywords and reach the child as `HEADWATER_…` variables. Nothing here waits
for luck: starting waits for `/ready`, stopping for the end of the process, both with a deadline.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

import psutil

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Died(AssertionError):
    """The server ended, or did not get ready, when it should have run."""


class Server:
    """`headwater serve` on `data`, on a port of its own that stays the same over restarts.

    Keywords are settings: `Server(path, feeds__heartbeat=0.2, workers=2)`. `failpoints` arms
    places of `headwater.failpoints` for the next start only.
    """

    def __init__(
        self, data: Path, *, port: int | None = None, failpoints: str = "", **settings: object
    ) -> None:
        self.data = data
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self.failpoints = failpoints
        self.settings = settings
        self.log = data.parent / f"{data.name}-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "start the server first"
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, ready: bool = True) -> Self:
        """Start the process and, unless told otherwise, wait until it is ready."""
        assert not self.running, "the server already runs"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
        for name, value in self.settings.items():
            environment[f"HEADWATER_{name.upper()}"] = str(value)
        if self.failpoints:
            environment["HEADWATER_FAILPOINTS"] = self.failpoints
        command = [sys.executable, "-m", "headwater", "serve", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--data", str(self.data)]
        with self.log.open("ab") as said:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.failpoints = ""
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        def answers() -> bool:
            if self.process.poll() is not None:
                raise Died(f"the server ended with {self.process.returncode}:\n{self.said()}")
            connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

        eventually(answers, f"{self.url} to be ready", seconds, said=self.said)

    def restart(self) -> Self:
        """Stop gracefully when it runs, and start again."""
        if self.running:
            self.stop()
        return self.start()

    def stop(self) -> float:
        """Ask it to stop by SIGTERM; the seconds that took. Fails when it ends badly."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Died(f"the server did not stop in {STOP_SECONDS} s:\n{self.said()}") from None
        took = time.monotonic() - began
        assert code in (0, -signal.SIGTERM), f"the server ended with {code}:\n{self.said()}"
        return took

    def kill(self) -> None:
        """End it, and its worker processes, by SIGKILL."""
        if self._process is None:
            return
        for child in self.workers():
            child.kill()
        self._process.kill()
        self._process.wait()

    def wait_killed(self, seconds: float = 30.0) -> None:
        """Return when a failpoint has killed it; fail when that does not come."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the failpoint was not reached in {seconds} s:\n{self.said()}"
            ) from None
        assert code == -signal.SIGKILL, f"ended with {code}, not at a failpoint:\n{self.said()}"

    def close(self) -> None:
        """Leave no process behind, whatever state it is in; print what it said."""
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        print(f"--- {self.url} said:\n{self.said()}")

    def said(self, last_bytes: int = 6_000) -> str:
        """The end of what the server wrote to its standard error."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[-last_bytes:].decode(errors="replace")

    def rss_bytes(self) -> int:
        """Resident memory of the server and its workers."""
        processes = [psutil.Process(self.process.pid), *self.workers()]
        return sum(int(process.memory_info().rss) for process in processes)

    def workers(self) -> list[psutil.Process]:
        """The worker processes of a server with several, oldest first."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return sorted(children, key=lambda child: float(child.create_time()))


def eventually(
    condition: Callable[[], object],
    what: str,
    seconds: float = 30.0,
    *,
    said: Callable[[], str] = str,
) -> None:
    """Return as soon as `condition()` is true; fail when it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}\n{said()}")
        time.sleep(0.02)  # the pause of a poll, not a hope


_OWN_PORTS = 2_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_first = 16_000 + _worker * _OWN_PORTS
_ports = itertools.count(os.getpid())  # two runs at once begin at different places


def free_port() -> int:
    """One that nobody else is given: others run beside these tests, and outgoing connections get
    theirs from 32768 on (ip(7), ip_local_port_range)."""
    for number in itertools.islice(_ports, _OWN_PORTS):
        port = _first + number % _OWN_PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
