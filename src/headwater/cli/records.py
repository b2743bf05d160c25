"""What is sent: one line of the document stream each, with its place in the source.

Made by `sources.py` and `demo.py`, taken by `sender.py`. Every record has an id before it leaves,
so that a line sent twice is never stored twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from headwater.clock import SystemClock

Ids = Literal["random", "line"]

_OPENING = re.compile(rb"\s*\{\s*")


class _Head(msgspec.Struct):
    id: Any = None


_HEAD = msgspec.json.Decoder(_Head)


@dataclass(frozen=True, slots=True)
class Record:
    """One document's line. `place` is where it came from, `done` the bytes read with it."""

    line: bytes
    place: str
    done: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something in the source that makes no document."""

    place: str
    code: str
    detail: str
    done: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """The source has nothing more right now: send what there is."""


Item = Record | Unreadable | Pause


@dataclass(slots=True)
class Identifier:
    """Gives documents without an id one: a UUIDv7, or `<file>:<line>`, the same in every run."""

    name: str
    ids: Ids = "random"
    _clock: SystemClock = field(default_factory=SystemClock)

    def make(self, number: int) -> str:
        return f"{self.name}:{number}" if self.ids == "line" else self._clock.uuid7()

    def ensure(self, line: bytes, number: int) -> bytes:
        """`line` with an id; unchanged when it has one or is no object (the server says why)."""
        try:
            if _HEAD.decode(line).id is not None:
                return line
        except msgspec.DecodeError:
            return line
        opening = _OPENING.match(line)
        if opening is None:
            return line
        made = b'{"id":' + msgspec.json.encode(self.make(number))
        rest = line[opening.end() :]
        if re.search(rb'"id"\s*:\s*null', line):  # rare: take it apart rather than name it twice
            return msgspec.json.encode({**msgspec.json.decode(line), "id": self.make(number)})
        return made + (rest if rest.startswith(b"}") else b"," + rest)
