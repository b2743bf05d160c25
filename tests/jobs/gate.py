"""A gate that handlers of jobs wait at, in any process, until a test opens it."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Self

import anyio


class Gate:
    """A named pipe: open once there is something in it, which nobody takes out."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._end = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def __str__(self) -> str:
        return str(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Also lets those go on who still wait."""
        os.close(self._end)

    def open(self) -> None:
        """From now on everybody passes, also who comes later."""
        os.write(self._end, b".")


async def passed(gate: str) -> None:
    """Return once the gate is open."""
    end = os.open(gate, os.O_RDONLY | os.O_NONBLOCK)
    try:
        await anyio.wait_readable(end)
    finally:
        os.close(end)


def pass_blocking(gate: str) -> None:
    """Return once the gate is open; nothing else ends the wait."""
    end = os.open(gate, os.O_RDONLY | os.O_NONBLOCK)
    try:
        select.select([end], [], [])
    finally:
        os.close(end)
