"""`docs/websocket.md` is true: its frames fit the description, its example runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from server.client import Client
from server.running import Server

from headwater.api.asyncapi import document
from headwater.api.socket.close import CloseCode

PAGE = Path(__file__).parents[2] / "docs/websocket.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_every_frame_shown_is_one_that_is_described(page: str) -> None:
    described = document("0")
    messages: dict[str, Any] = described["channels"]["socket"]["messages"]
    frames = [line for block in fenced(page, "json") for line in block.splitlines()]
    assert len(frames) >= 18
    shown: set[str] = set()
    for line in frames:
        frame = json.loads(line)
        fits = [
            name
            for name, message in messages.items()
            if jsonschema.Draft202012Validator(
                {**message["payload"], "components": described["components"]}
            ).is_valid(frame)
        ]
        assert fits, line
        shown |= {frame["type"], str(frame.get("event"))}
    assert {"request", "response", "event", "live", "system", "error"} <= shown
    assert {"welcome", "progress", "ended", "goodbye", "snapshot", "ready"} <= shown


def test_every_close_code_is_in_the_table(page: str) -> None:
    assert [code for code in CloseCode if not re.search(rf"\b{int(code)}\b", page)] == []


def test_the_example_runs(page: str, tmp_path: Path) -> None:
    (example,) = fenced(page, "python")
    with Server(tmp_path / "data") as server, Client(server.url) as client:
        client.create_library("notes")
        assert "127.0.0.1:8000" in example
        program = example.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "welcome"
    assert sorted(lines[1:]) == [
        "enter tides",
        "event document.added tides",
        "response add True",
        "response subscribe True",
        "response watch True",
    ]
