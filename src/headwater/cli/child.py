"""A server of one's own for the length of a command: a child process on a free port.

`demo` uses it when nothing answers. Must never leave the process behind, whatever ends the command.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.cli.client import Client, ClientError

START_SECONDS = 60.0
STOP_SECONDS = 15.0


class NotStarted(ClientError):
    code = "server_not_started"


@contextmanager
def server(data: Path) -> Iterator[str]:
    """Run `headwater serve` on `data` and give its URL once it is ready. Raises `NotStarted`."""
    data.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "headwater", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--data", str(data), "--workers", "1"]
    command += ["--log-level", "warning"]
    log = data / "serve.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
    try:
        _await_ready(process, url, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with Client(url, read_timeout=5.0) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.request("GET", "/ready")
            except ClientError:
                time.sleep(0.05)  # a poll: a starting process has nothing to wait on but its port
            else:
                return
    last = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise NotStarted("the server did not start: " + (" | ".join(last) or "it said nothing"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
