"""`headwater worker` processes, for tests that kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from server.running import START_SECONDS, STOP_SECONDS


class WorkerProcess:
    """A worker on `data`; settings are keywords, as of `server.running.Server`."""

    def __init__(self, data: Path, **settings: object) -> None:
        self.data = data
        self.settings = settings
        self.log = data.parent / f"worker-{id(self)}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._running = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
        for name, value in self.settings.items():
            environment[f"HEADWATER_{name.upper()}"] = str(value)
        command = [sys.executable, "-m", "headwater", "worker", "--data", str(self.data)]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._listener.join()
        print(f"--- a worker said:\n{self.said()}")

    def _listen(self) -> None:
        """Keep what it says, and notice that it runs."""
        assert self.process is not None
        assert self.process.stdout is not None
        with self.log.open("ab", buffering=0) as said, self.process.stdout as lines:
            for line in lines:
                said.write(line)
                if b'"worker.running"' in line:
                    self._running.set()

    def wait_running(self) -> None:
        """Return once it takes jobs; blocks."""
        assert self._running.wait(START_SECONDS), self.said()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop by SIGTERM; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4_000:] if self.log.exists() else ""
