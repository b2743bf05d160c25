"""The token of the next page of a search.

It names the last hit shown and its score, not a count: what is written between two pages neither
repeats a hit nor hides one that was still to come. It holds nothing of the server.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Self

from headwater.errors import InvalidCursor

_SHAPE = struct.Struct(">6sdqII")


@dataclass(frozen=True, slots=True)
class PageToken:
    """After `score` and `row`; `shown` hits were given, from candidates `depth` deep."""

    fingerprint: str
    score: float
    row: int
    shown: int
    depth: int

    def __str__(self) -> str:
        packed = _SHAPE.pack(
            bytes.fromhex(self.fingerprint), self.score, self.row, self.shown, self.depth
        )
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @staticmethod
    def belongs(text: str, fingerprint: str) -> bool:
        """Whether it says that it comes from that search; it may still be damaged."""
        return text.startswith(base64.urlsafe_b64encode(bytes.fromhex(fingerprint)).decode())

    @classmethod
    def parse(cls, text: str, fingerprint: str) -> Self:
        """Raises `InvalidCursor` when it is none, or comes from another search."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            own, score, row, shown, depth = _SHAPE.unpack(packed)
        except (ValueError, struct.error) as error:
            raise InvalidCursor(
                f"{text[:80]!r} is not the `next` of a search; use it as it came"
            ) from error
        if own.hex() != fingerprint:
            raise InvalidCursor(
                "`after` belongs to another search or library; ask with what it came from, "
                "or without it"
            )
        return cls(fingerprint, score, row, shown, depth)
