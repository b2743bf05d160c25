"""Builds the wheel and tries its installed copy: serve, ingest, search.

Run by CI (`make wheel`). It uses a fresh virtual environment and a free port, and never the source
tree, so that a file missing from the package is found.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        python = install(wheel, folder)
        try_it(python, folder)
    print(f"{wheel.name}: builds, installs, serves, ingests and searches")


def build(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    return python


def try_it(python: Path, folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    server = subprocess.Popen(
        [python.with_name("headwater"), "serve", "--port", str(port), "--data", folder / "data"],
        cwd=folder,
        env=environment,
    )
    try:
        wait_until_ready(server, url)
        call(url + "/v1/libraries", {"name": "tried"})
        lines = b'{"id":"a","text":"The moon pulls the sea."}\n{"id":"b","text":"Bread rises."}\n'
        answer = post(url + "/v1/libraries/tried/documents/stream", lines).splitlines()
        summary = json.loads(answer[-1])
        assert summary["type"] == "summary", answer
        assert summary["created"] == 2, summary
        found = call(url + "/v1/libraries/tried/search", {"query": "ocean tides", "k": 1})
        assert found["results"][0]["document_id"] == "a", found
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(url + "/ready", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def post(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
        result: bytes = answer.read()
    return result


def call(url: str, body: object) -> dict[str, list[dict[str, object]]]:
    result: dict[str, list[dict[str, object]]] = json.loads(post(url, json.dumps(body).encode()))
    return result


if __name__ == "__main__":
    main()
